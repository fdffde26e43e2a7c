"""Every script runs to its end on the tiny checkpoint, and writes the figures that it promises."""

import argparse
import importlib
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.results import figure, write_result
from benchmarks.train_speed import Outcome, run, speedup
from benchmarks.training_block import Arm, Begun, Block, Message, Rate, Step
from benchmarks.workload import Subject, Workload, token_counts

from benchmarks import generate_speed, shared_base, train_speed
from vademecum.testing import tiny_pairs

ROOT = Path(train_speed.__file__).parents[1]


@pytest.fixture
def sample_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VADE_MEDQUAD", str(tmp_path / "none.zip"))


def figures(main: Any, monkeypatch: pytest.MonkeyPatch, file: Path, *options: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--quick", "--out", str(file), *options])
    main()
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert {"machine", "versions", "settings", "figures"} <= set(found)
    assert all(set(value) == {"value", "unit", "n", "low", "high"} for value in found["figures"].values())
    assert all(value["low"] <= value["value"] <= value["high"] for value in found["figures"].values())
    return dict(found["figures"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("sample_only")
def test_train_speed(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", str(tiny_checkpoint), "--steps", "1", "--device", "cpu")
    found = figures(train_speed.main, monkeypatch, tmp_path / "result.json", *options)
    for name in (
        "speedup_over_paper",
        "speedup_over_paper_by_trl",
        "speedup_over_trl",
        "gemm_share",
        "padded_fraction",
    ):
        assert found[f"train.{name}"]["value"] > 0
    for arm in ("paper", "paper-trl", "trl-fp32", "grouped", "packed"):
        assert found[f"train.tokens_per_second.{arm}"]["n"] == 1
        assert 0.05 < found[f"train.peak_memory_gb.{arm}"]["value"] < 10
    assert found["train.padded_fraction.packed"]["value"] == 0
    # The same rows, one by one, filled up to the same length.
    assert found["train.padded_fraction.paper-trl"]["value"] == pytest.approx(
        found["train.padded_fraction.paper"]["value"], abs=0.02
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_block_that_gets_nowhere_is_ended(tiny_checkpoint: Path) -> None:
    pairs, subject = tiny_pairs(20), Subject("tiny", tiny_checkpoint)
    workload = Workload("tiny", pairs, token_counts(pairs, subject.tokenizer))
    block = Block("grouped", subject, workload, "float32", "cpu", 1_000_000, 0, 2, 256)
    outcome = run(block, minutes_limit=0.5)
    assert not outcome.failed
    assert outcome.peak_bytes is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_block_that_breaks_is_told_from_a_slow_one(tmp_path: Path) -> None:
    workload = Workload("none", [], [(5, 5)])
    outcome = run(
        Block("grouped", Subject("gone", tmp_path), workload, "float32", "cpu", 1, 0, 2, 256), minutes_limit=5
    )
    assert outcome.failed
    assert outcome.tokens_per_second is None


@pytest.mark.slow
@pytest.mark.usefixtures("sample_only")
def test_generate_speed(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", str(tiny_checkpoint), "--prompts", "6", "--one-at-a-time", "3", "--batch-size", "4")
    more = ("--max-new-tokens", "70", "--device", "cpu", "--refill")
    found = figures(generate_speed.main, monkeypatch, tmp_path / "result.json", *options, *more)
    assert found["generate.equal_share"]["value"] == found["generate.equal_share.batches"]["value"] == 1
    assert found["generate.equal_share.continuous"]["value"] == 1
    assert found["generate.speedup"]["n"] == 3
    assert found["generate.answers_per_second.ours"]["n"] == found["generate.refill_speedup"]["n"] == 6
    assert found["generate.tokens_per_second.one"]["value"] > 0


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What a benchmark makes of its options; `words` begin with its name."""
    monkeypatch.setattr(sys, "argv", words)
    found: argparse.Namespace = importlib.import_module(f"benchmarks.{words[0]}").parse()
    return found


def test_the_gpu_script_gives_options_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ROOT / "benchmarks" / "gpu.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text(encoding="utf-8").replace("\\\n", " ").replace("$random", "--random")
    calls = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("measure ")]
    assert sum(int(seconds) for seconds, *_ in calls) < 600
    given = [(words[0], parsed(words, monkeypatch)) for _, *words in calls]
    assert {name for name, _ in given} == {
        "train_speed", "profile_step", "generate_speed", "shared_base", "plan_accuracy",
    }  # fmt: skip
    assert all(str(options.out).startswith("$out/") for _, options in given)
    assert [options.device for name, options in given if name == "plan_accuracy"] == ["cuda"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("quick", [False, True])
def test_make_bench_gives_options_that_exist(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["make", "--dry-run", "bench", *(["QUICK=1"] if quick else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    calls = [words[2:] for words in lines if words[1:2] == ["-m"] and words[2].startswith("benchmarks.")]
    given = [
        (name, parsed([name, *options], monkeypatch))
        for name, *options in ([module.partition(".")[2], *rest] for module, *rest in calls)
    ]
    assert {name for name, _ in given} == {
        "coverage", "train_speed", "profile_step", "generate_speed", "plan_accuracy", "shared_base", "scaling",
    }  # fmt: skip
    assert all(options.quick is quick for _, options in given)
    made = {Path(words[words.index("--out") + 1]) for words in lines if words[1:2] == ["run"]}
    by_name = dict(given)
    assert len(made) == (0 if quick else 2)
    assert set(by_name["plan_accuracy"].run) == made
    assert quick or by_name["generate_speed"].adapter.parent in made


def outcome(arm: Arm, *seconds: float, unfinished: float | None = None) -> Outcome:
    """Steps of 100 tokens and 1,000 operations each."""
    block = Block(arm, Subject("none", None), Workload("none", [], []), "float32", "cpu", 1, 0, 2, 256)
    found = Outcome(block, unfinished=unfinished)
    told: list[Message] = [Rate(400.0), Begun(100), *(Step(each, 100, 125, 1000) for each in seconds), Rate(600.0)]
    for message in told:
        found.note(message)
    return found


def test_speed_and_share_are_those_of_the_whole_block() -> None:
    found = outcome("grouped", 1.0, 3.0)
    assert found.tokens_per_second == 50
    assert found.gemm_share == 2000 / 4 / 500


def test_ratios_are_taken_within_a_round_over_the_fastest_rival() -> None:
    rounds = [
        [outcome("grouped", 1.0).row, outcome("trl", 4.0).row, outcome("trl-fp32", 2.0).row],
        [outcome("grouped", 10.0).row, outcome("trl-fp32", 30.0).row],
        [outcome("trl-fp32", 30.0).row],
    ]
    assert speedup(rounds, ("trl", "trl-fp32")) == figure([2.0, 3.0], "ratio", 2)
    assert speedup(rounds, ("paper",)) is None


def test_a_rival_without_a_step_gives_a_bound() -> None:
    rounds = [[outcome("grouped", 1.0).row, outcome("trl", unfinished=4.0).row]]
    assert speedup(rounds, ("trl",)) == figure([25.0], "ratio at least", 0)
    assert train_speed.figures(rounds)["train.tokens_per_second.trl"] == figure([4.0], "tokens/s at most", 0)


SETTINGS = {
    "weights": "real", "rows": "MedQuAD", "dtype": "float32", "device": "cpu", "max_length": 512, "micro_batch": 2,
    "steps_per_block": 1,
}  # fmt: skip


def test_later_sittings_add_rounds_done_in_the_same_way(tmp_path: Path) -> None:
    file = tmp_path / "train_speed.json"
    rounds = [[outcome("grouped", 1.0).row, outcome("paper", 4.0).row]]
    assert train_speed.earlier(file, "smollm2", SETTINGS) == {}
    write_result(file, "smollm2", SETTINGS, train_speed.figures(rounds), rounds=rounds)
    found = train_speed.earlier(file, "smollm2", SETTINGS)["rounds"]
    found.append([outcome("grouped", 2.0).row, outcome("paper", 4.0).row])
    assert train_speed.figures(found)["train.speedup_over_paper"] == figure([4.0, 2.0], "ratio", 2)
    with pytest.raises(SystemExit, match="other settings"):
        train_speed.earlier(file, "smollm2", {**SETTINGS, "dtype": "bfloat16"})


@pytest.mark.parametrize("elsewhere", [{"versions": {"torch": "0.1"}}, {"machine": "cpu-96core-amx"}])
def test_rounds_of_another_machine_or_other_versions_are_not_added_to(
    tmp_path: Path, elsewhere: dict[str, object]
) -> None:
    file = tmp_path / "train_speed.json"
    rounds = [[outcome("grouped", 1.0).row]]
    write_result(file, "smollm2", SETTINGS, train_speed.figures(rounds), rounds=rounds)
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **elsewhere}), encoding="utf-8")
    with pytest.raises(SystemExit, match="another machine or other versions"):
        train_speed.earlier(file, "smollm2", SETTINGS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("sample_only")
def test_shared_base(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", str(tiny_checkpoint), "--members", "3", "--device", "cpu")
    found = figures(shared_base.main, monkeypatch, tmp_path / "result.json", *options)
    for suffix in ("", ".seeds"):
        assert found[f"shared_base.speedup{suffix}"]["n"] == 6
        assert found[f"shared_base.loss_difference{suffix}"]["high"] < 1e-4
        assert found[f"shared_base.update_difference{suffix}"]["high"] < 1e-3


@pytest.mark.parametrize("suffix", ["", ".tinyllama"])
def test_every_figure_of_a_shared_base_is_shown(suffix: str, tmp_path: Path) -> None:
    end = shared_base.End(1.5, [[2.0, 1.0]], [torch.ones(3)])
    rounds: list[dict[shared_base.Vary, dict[shared_base.Arm, shared_base.End]]] = [
        {"rates": {"alone": end, "together": end}, "seeds": {"alone": end, "together": end}}
    ]
    task = shared_base.Task([], members=1, steps=1, micro_batch=2, accumulation=1, device="cpu", dtype="float32")
    found = shared_base.figures(rounds, rounds, task, loading=4.5)
    file = tmp_path / "shared_base-here.json"
    write_result(file, "a model", {}, {name + suffix: value for name, value in found.items()})
    specification = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert specification is not None
    assert specification.loader is not None
    build = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(build)
    rows = build.scaling_table([json.loads(file.read_text(encoding="utf-8"))]).splitlines()[2:]
    assert len(rows) == len(found) == 11
    assert all(row.startswith("| TinyLlama's shape: ") == bool(suffix) for row in rows)
