"""The commands as a user gives them: what they print where, and how they end."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from tests.cli.outcome import MARK, Outcome, Vade

from vademecum.config import load_config
from vademecum.runs import Run
from vademecum.testing import tiny_pairs


def test_a_run_with_json_prints_the_report_and_nothing_else(first: tuple[Path, Outcome]) -> None:
    folder, outcome = first
    assert outcome.code == 0, outcome.err
    assert outcome.json == json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert outcome.json["systems"]["tuned"]["n"] == 12
    assert outcome.err == ""


def test_a_second_run_does_nothing_and_shows_the_verdict(finished: Path, config: Path, vade: Vade) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    outcome = vade("run", config, "--out", finished)
    assert outcome.code == 0
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before
    assert {line.partition(":")[2].strip() for line in outcome.err.splitlines()} == {"complete already"}
    assert "12 test pairs in 1" in outcome.words
    for shown in ("ROUGE-Lsum", "tuned - base", "tuned minus base in ROUGE-1", "report.html", "not medical advice"):
        assert shown in outcome.words


def test_quiet_shows_the_verdict_and_no_progress(finished: Path, config: Path, vade: Vade) -> None:
    (finished / "report.md").unlink()
    outcome = vade("--quiet", "run", config, "--out", finished)
    assert (outcome.code, outcome.err) == (0, "")
    assert (finished / "report.md").is_file()
    assert "tuned minus base in ROUGE-1" in outcome.words


def test_until_stops_there_and_lists_the_stages(config: Path, tmp_path: Path, vade: Vade) -> None:
    outcome = vade("run", config, "--out", tmp_path / "run", "--until", "prepare")
    assert outcome.code == 0
    assert outcome.err.splitlines() == [
        "prepare …",
        "  the corpus has no document, cuis: what goes by them falls away",
    ]
    assert "pairs.jsonl" in outcome.out
    assert list(Run.open(tmp_path / "run").entries()) == ["prepare"]
    assert vade("--json", "run", config, "--out", tmp_path / "run", "--until", "prepare").json == {
        "run": str(tmp_path / "run"),
        "stages": ["prepare"],
    }


def test_a_resolved_configuration_runs_again_in_its_own_directory(
    finished: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.parent)
    shutil.copytree(finished, "runs/finished")
    outcome = vade("run", "finished/config.json")
    assert outcome.code == 0
    assert {line.partition(": ")[2] for line in outcome.err.splitlines()} == {"complete already"}
    monkeypatch.chdir("finished")
    assert vade("run", "config.json", "--until", "prepare").code == 0
    assert Path("runs/finished/pairs.jsonl").is_file()


def test_the_plan_says_what_it_will_cost_without_weights_or_a_run_directory(
    config: Path, tiny_checkpoint: Path, tmp_path: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoint, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.chdir(tmp_path)
    outcome = vade("plan", config, "--set", f"model.name={bare}")
    assert outcome.code == 0, outcome.err
    for shown in ("chosen", "checkpointing", "in all", "It fits", "`vade run` measures it"):
        assert shown in outcome.words
    told = vade("--json", "plan", config, "--set", f"model.name={bare}").json
    assert told["optimizer_steps"] == 4
    assert not told["measured"]
    assert not (tmp_path / "runs").exists()


def test_the_plan_of_a_study_says_what_all_its_trials_take(
    config: Path, tmp_path: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    declared = tmp_path / "ranks.toml"
    declared.write_text(
        f"baseline = {str(config)!r}\nset = ['budget.minutes=none', 'generate.no_repeat_ngram_size=0']\n"
        "[[factors]]\nname = 'rank'\nlevels = ['lora.r=2', 'lora.r=4']\n",
        encoding="utf-8",
    )
    outcome = vade("plan", declared)
    assert outcome.code == 0, outcome.err
    for shown in ("baseline", "rank=2", "7 trials on all train pairs", "on 4:", "`vade study` measures it"):
        assert shown in outcome.words
    told = vade("--json", "plan", declared, "--set", "seeds=[7]").json
    assert len(told["minutes"]) == 7
    assert "rank=2-seed7" in told["minutes"]
    assert {path.name for path in tmp_path.iterdir()} == {"ranks.toml"}


def test_the_plan_refuses_what_does_not_fit_and_says_what_would(config: Path, vade: Vade) -> None:
    outcome = vade("plan", config, "--set", "budget.memory_gb=0.01")
    assert outcome.code == 2
    assert "0.01 GB" in outcome.err
    assert "give the run more memory with budget.memory_gb" in outcome.err


def test_audit_shows_the_tensors_of_a_preset_a_file_and_a_run(
    finished: Path, config: Path, tiny_checkpoint: Path, vade: Vade
) -> None:
    small = ("--set", f"model.name={tiny_checkpoint}", "--set", "train.max_pairs=20")
    preset = vade("--json", "audit", "demo", *small).json
    assert preset["supervision"]["pairs"] == 20
    file, run = vade("--json", "audit", config).json, vade("--json", "audit", finished).json
    assert file == run
    assert file["base"] == tiny_checkpoint.name
    assert file["cleaning"]["pairs_in"] == 120
    assert file["supervision"]["prompt_tokens_in_labels"] == 0
    assert sum(file["split"].values()) == file["cleaning"]["pairs_kept"]


def test_audit_needs_no_weights(config: Path, tiny_checkpoint: Path, tmp_path: Path, vade: Vade) -> None:
    bare = shutil.copytree(tiny_checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    outcome = vade("--json", "audit", config, "--set", f"model.name={bare}")
    assert outcome.code == 0, outcome.err
    assert outcome.json["supervision"]["prompt_tokens_in_labels"] == 0


def test_audit_shows_as_many_examples_as_asked(config: Path, vade: Vade) -> None:
    for count in (0, 2):
        outcome = vade("audit", config, "--examples", count)
        assert outcome.code == 0
        assert outcome.out.count("one row") == count
        assert ("<|im_start|>assistant" in outcome.out) == (count > 0)


def test_an_init_that_is_stopped_leaves_nothing_behind(
    table: Path, tiny_checkpoint: Path, tmp_path: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vademecum.stages.audit.build_examples", interrupted)
    outcome = vade("init", table, "--model", tiny_checkpoint, "--out", tmp_path / "mine.toml")
    assert outcome.code == 130
    assert list(tmp_path.iterdir()) == []


def test_what_the_corpus_is_noticed_for_is_said(tiny_checkpoint: Path, tmp_path: Path, vade: Vade) -> None:
    rows = [f'"What is illness {number}?","<p>It is illness number {number} of them.</p>"' for number in range(40)]
    (tmp_path / "data.csv").write_text("\n".join(["question,answer", *rows]), encoding="utf-8")
    outcome = vade("init", tmp_path / "data.csv", "--model", tiny_checkpoint, "--out", tmp_path / "mine.toml")
    assert "40 pairs hold what looks like HTML tags; they are kept as they are" in outcome.words


def test_init_writes_a_configuration_that_loads_and_shows_the_first_pair(
    table: Path, tiny_checkpoint: Path, tmp_path: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_checkpoint.parent)
    out = tmp_path / "an [odd] place" / "mine.toml"
    outcome = vade("init", table, "--model", tiny_checkpoint.name, "--out", out)
    assert outcome.code == 0, outcome.err
    assert f"\nWrote {out}. Next: vade run '{out}'\n" in outcome.out
    assert outcome.out.count("one row") == 1
    assert MARK in outcome.out
    config = load_config(out)
    assert config.corpus.source == str(table)
    assert config.corpus.columns == {name: name for name in ("question", "answer", "focus", "qtype", "source")}
    assert config.model.name == str(tiny_checkpoint)
    before = out.read_bytes()
    unmapped = vade("init", table, "--column", "source=", "--model", tiny_checkpoint, "--out", tmp_path / "b.toml")
    assert unmapped.code == 0, unmapped.err
    assert load_config(tmp_path / "b.toml").corpus.columns["source"] == ""
    again = vade("init", table, "--model", tiny_checkpoint, "--out", out)
    assert (again.code, out.read_bytes()) == (2, before)
    assert "exists already" in again.err


def test_init_takes_columns_by_other_names(tiny_checkpoint: Path, tmp_path: Path, vade: Vade) -> None:
    table = tmp_path / "data.jsonl"
    rows = [{"prompt": pair.question, "response": pair.answer, "disease": pair.focus} for pair in tiny_pairs(40)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = ("init", table, "--model", tiny_checkpoint, "--out", tmp_path / "mine.toml")
    refused = vade(*given, "--column", "question=prompt")
    assert refused.code == 2
    assert "--column answer=NAME" in refused.err
    named = ("--column", "question=prompt", "--column", "answer=response", "--column", "focus=disease")
    outcome = vade(*given, *named)
    assert outcome.code == 0, outcome.err
    columns = load_config(tmp_path / "mine.toml").corpus.columns
    assert columns == {"question": "prompt", "answer": "response", "focus": "disease"}
    assert "20 are needed for a verdict" in outcome.words  # 40 pairs, a tenth of them for the test
    assert vade(*given, "--column", "question").code == 2


def test_an_init_that_fails_can_be_given_again(table: Path, tmp_path: Path, vade: Vade) -> None:
    for _ in range(2):
        outcome = vade("--offline", "init", table, "--model", "./gone", "--out", tmp_path / "mine.toml")
        assert outcome.code == 2
        assert "there is no such directory" in outcome.err
    assert not (tmp_path / "mine.toml").exists()


def test_doctor_says_what_will_be_used_and_why(vade: Vade) -> None:
    found = vade("--json", "doctor").json
    assert set(found) >= {"cpu", "cores", "memory_bytes", "device", "label", "dtype", "reason", "matmul_flops"}
    assert found["dtype"] in ("float32", "bfloat16", "float16")
    words = vade("doctor").words
    assert "This machine" in words
    assert f"in {found['dtype']}: " in words


def holds_corpus_text(folder: Path, *names: str) -> list[bool]:
    return [MARK in (folder / name).read_text(encoding="utf-8") for name in names]


def test_a_public_report_holds_no_text_of_the_corpus(finished: Path, vade: Vade) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    assert holds_corpus_text(finished, "report.md", "report.html") == [True, True]
    outcome = vade("report", finished, "--public")
    assert outcome.code == 0, outcome.err
    assert f"Report: {finished / 'report-public.html'} " in outcome.out
    open_to_all = ("report-public.md", "report-public.html", "report.json", "adapter/README.md")
    assert holds_corpus_text(finished, *open_to_all) == [False] * 4
    assert "tuned" in (finished / "report-public.html").read_text(encoding="utf-8")
    kept = [path for path in before if path.name in ("report.md", "report.html", "adapter_model.safetensors")]
    assert all(path.read_bytes() == before[path] for path in kept)


def test_a_report_is_rendered_again(finished: Path, vade: Vade) -> None:
    (finished / "report.html").unlink()
    outcome = vade("--json", "report", finished)
    assert outcome.json == json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert holds_corpus_text(finished, "report.html") == [True]


def test_a_report_wants_a_finished_run(config: Path, tmp_path: Path, vade: Vade) -> None:
    vade("run", config, "--out", tmp_path / "run", "--until", "prepare")
    outcome = vade("report", tmp_path / "run")
    assert outcome.code == 2
    assert "has no score/base, score/few-shot, score/copy, score/tuned yet" in outcome.err


def test_rendering_again_changes_nothing_that_the_run_knows_of(
    first: tuple[Path, Outcome], tmp_path: Path, vade: Vade
) -> None:
    run = Path(shutil.copytree(first[0], tmp_path / first[0].name))
    before = (run / "report.json").read_bytes()
    assert vade("report", run).code == 0
    assert vade("report", run, "--public").code == 0
    assert (run / "report.json").read_bytes() == before


def test_two_runs_are_compared_on_the_pairs_that_both_answered(
    first: tuple[Path, Outcome], finished: Path, vade: Vade
) -> None:
    scores = (finished / "scores" / "copy.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (finished / "scores" / "tuned.jsonl").write_text("".join(scores[:-1]), encoding="utf-8")
    outcome = vade("--json", "compare", first[0], finished)
    assert outcome.code == 0, outcome.err
    (row,) = [row for row in outcome.json["comparisons"] if row["metric"] == "rouge1"]
    assert (row["baseline"], row["system"]) == ("A (first run)", "B (finished)")
    assert row["difference"]["n"] == 11
    assert row["difference"]["mean"] > 0
    assert "left out: 1 pair that not both answered with the same reference" in row["reason"]
    config = json.loads((finished / "config.json").read_text(encoding="utf-8"))
    config["train"]["learning_rate"] = 3e-4
    (finished / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shown = vade("compare", first[0], finished).words
    assert "B (finished) minus A (first run) in ROUGE-1 is 0." in shown
    assert "→ 0.0003" in shown
    same = vade("--json", "compare", first[0], first[0], "--system", "base").json
    assert "corrected for" not in same["comparisons"][0]["reason"]
    assert {row["difference"]["mean"] for row in same["comparisons"]} == {0}
    assert {row["verdict"] for row in same["comparisons"]} == {"not shown"}


def test_runs_that_group_their_pairs_differently_go_by_the_baselines_groups(
    first: tuple[Path, Outcome], finished: Path, vade: Vade
) -> None:
    file = finished / "scores" / "tuned.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps({**row, "group": "all"}) + "\n" for row in rows), encoding="utf-8")
    forward = vade("--json", "compare", first[0], finished).json["comparisons"][0]["difference"]
    backward = vade("--json", "compare", finished, first[0]).json["comparisons"][0]["difference"]
    assert forward["groups"] > 1
    assert backward["groups"] == 1


def test_runs_that_cannot_be_compared_are_refused(first: tuple[Path, Outcome], finished: Path, vade: Vade) -> None:
    outcome = vade("compare", first[0], finished, "--system", "oracle")
    assert outcome.code == 2
    assert "has no scores of 'oracle'" in outcome.err
    (finished / "scores" / "tuned.jsonl").write_text("", encoding="utf-8")
    assert "share no test pair" in vade("compare", first[0], finished).err


def test_a_kernel_that_is_not_used_is_not_missed_aloud(vade: Vade) -> None:
    """Where cores compute in bfloat16, bitsandbytes asks for it when it is imported."""
    vade("doctor", "--help")
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
