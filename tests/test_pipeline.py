"""The whole road, from the bundled sample to the verdict, on the tiny checkpoint."""

import json
from pathlib import Path
from signal import Signals

import pytest
from tests.listener import Listener, go

from vademecum.config import RunConfig, load_config
from vademecum.errors import StaleError, StoppedError
from vademecum.generation import Decoding, chunks, generate
from vademecum.records import Prediction
from vademecum.runs import Run
from vademecum.stages import Road, run_road
from vademecum.stages.answer import ChunkFiles
from vademecum.stages.material import Base, Pairs, prompts_for
from vademecum.stopping import Stop


def tiny_config(checkpoint: Path, *more: str) -> RunConfig:
    settings = [
        f"model.name={checkpoint}", "model.device=cpu", "model.dtype=float32", "budget.minutes=none",
        "train.max_steps=6", "train.max_length=512", "train.max_cut_share=1.0", "train.eval_pairs=4",
        "generate.max_new_tokens=12", "generate.test_pairs=24", "generate.validation_pairs=2", "evaluate.resamples=200",
        *more,
    ]  # fmt: skip
    return load_config("demo", settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "a run"
    go(folder, tiny_config(tiny_checkpoint))
    return folder


def artifacts(folder: Path) -> dict[str, bytes]:
    names = [
        "pairs.jsonl", "splits.jsonl", "leakage.json", "supervision.json", "decoding.json", "training.jsonl",
        "adapter/adapter_model.safetensors", "adapter/adapter_config.json",
        *(f"predictions/{system}.jsonl" for system in ("base", "few-shot", "copy", "tuned")),
        *(f"scores/{system}.jsonl" for system in ("base", "few-shot", "copy", "tuned")),
    ]  # fmt: skip
    return {name: (folder / name).read_bytes() for name in names}


def test_the_contract_of_the_report(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert set(report) >= {
        "schema", "run", "corpus", "split", "supervision", "training", "systems", "comparisons", "signature",
    }  # fmt: skip
    assert set(report["run"]) >= {
        "name",
        "config_digest",
        "versions",
        "device",
        "dtype",
        "seconds",
        "peak_memory_bytes",
    }
    assert set(report["corpus"]) >= {"pairs_in", "pairs_kept", "rules"}
    assert set(report["split"]) >= {"strategy", "counts", "groups", "leakage"}
    assert set(report["split"]["counts"]) == {"train", "validation", "test", "excluded"}
    assert set(report["split"]["leakage"]) >= {"question", "answer", "focus", "document", "ngram13"}
    assert set(report["supervision"]) >= {
        "pairs", "tokens", "cut_answers", "dropped", "end_token_trained", "prompt_tokens_in_labels",
    }  # fmt: skip
    assert set(report["training"]) >= {
        "optimizer_steps", "real_tokens", "slots", "padded_fraction", "real_tokens_per_second", "seconds", "final_loss",
        "status",
    }  # fmt: skip
    assert report["training"]["status"] == "completed"
    assert report["training"]["optimizer_steps"] == 6
    assert set(report["systems"]) == {"base", "few-shot", "copy", "tuned"}
    for system in report["systems"].values():
        assert set(system) >= {"n", "groups", "metrics", "length_ratio", "stopped_by_length", "empty", "looping"}
        assert system["n"] == 24
        for metric in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
            found = system["metrics"][metric]
            assert set(found) >= {"mean", "low", "high", "level", "n", "groups"}
            assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1
    for row in report["comparisons"]:
        assert set(row) >= {
            "baseline",
            "system",
            "metric",
            "difference",
            "p",
            "p_holm",
            "smallest_detectable",
            "verdict",
        }
    assert {(row["baseline"], row["system"]) for row in report["comparisons"]} >= {("base", "tuned"), ("copy", "tuned")}


def test_nothing_is_lost_between_the_stages(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    counts = report["split"]["counts"]
    assert sum(counts.values()) == report["corpus"]["pairs_kept"]
    assert report["supervision"]["pairs"] == counts["train"]
    assert report["supervision"]["prompt_tokens_in_labels"] == 0
    rows = [json.loads(line) for line in (finished / "training.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert sum(row["real_tokens"] for row in rows) == report["training"]["real_tokens"]
    plan = json.loads((finished / "plan.json").read_text(encoding="utf-8"))
    assert plan["real_tokens"] == report["training"]["real_tokens"]
    assert not (finished / "work" / "train").exists()


def test_a_second_run_does_nothing(finished: Path, tiny_checkpoint: Path) -> None:
    before = artifacts(finished)
    assert go(finished, tiny_config(tiny_checkpoint)).worked == []
    assert artifacts(finished) == before


def test_scoring_anew_leaves_training_and_predictions_alone(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    listener = go(folder, tiny_config(tiny_checkpoint, "evaluate.use_stemmer=true"))
    assert listener.worked == ["score/base", "score/few-shot", "score/copy", "score/tuned", "report"]
    with pytest.raises(StaleError, match="train"):
        go(folder, tiny_config(tiny_checkpoint, "train.learning_rate=0.01"))


def test_the_tuned_answers_are_the_adapters(finished: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Answered anew with the adapter that plain PEFT merges; and the base model answers otherwise."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = tiny_config(tiny_checkpoint)
    road = Road(Run.open(finished), config, Listener())
    pairs, base = Pairs.read(road), Base.locate(road)
    prompts = prompts_for("tuned", pairs.test(config), [], base, config)
    decoding = Decoding.model_validate(road.run.read_json("decoding.json")["decoding"])
    plain = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    merged = PeftModel.from_pretrained(plain, str(finished / "adapter")).merge_and_unload()
    sink = ChunkFiles(tmp_path, len(chunks(prompts, decoding)), Stop())
    generate(merged, base.tokenizer, prompts, decoding, sink)
    tuned = road.run.read_rows("predictions/tuned.jsonl", Prediction)
    assert sink.read() == tuned
    assert [row.text for row in tuned] != [row.text for row in road.run.read_rows("predictions/base.jsonl", Prediction)]


def test_the_same_configuration_gives_the_same_bytes(finished: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    go(tmp_path / "again", tiny_config(tiny_checkpoint))
    assert artifacts(tmp_path / "again") == artifacts(finished)


def test_a_sitting_broken_off_in_every_stage_ends_the_same(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    class UnpluggedError(RuntimeError):
        pass

    class Breaker(Listener):
        def __init__(self, stage: str) -> None:
            super().__init__()
            self.stage = stage

        def progress(self, done: float, total: float, unit: str) -> None:
            if self.worked[-1] == self.stage and 0 < done < total:
                raise UnpluggedError

    config = tiny_config(tiny_checkpoint, "generate.batch_size=5", "train.save_steps=2")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    go(whole, config)
    for stage in ("train", "decoding", "predict/base", "predict/few-shot", "predict/tuned"):
        with pytest.raises(UnpluggedError):
            run_road(Road(Run.create(broken), config, Breaker(stage)))
    go(broken, config)
    assert artifacts(broken) == artifacts(whole)


def test_a_sitting_that_was_asked_to_stop_in_every_stage_ends_the_same(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    class Impatient(Listener):
        def __init__(self, stage: str) -> None:
            super().__init__()
            self.stage, self.stop = stage, Stop()

        def progress(self, done: float, total: float, unit: str) -> None:
            if self.worked[-1] == self.stage and 0 < done < total:
                self.stop.ask(Signals.SIGTERM)

    config = tiny_config(tiny_checkpoint, "generate.batch_size=5")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    go(whole, config)
    for stage in ("train", "decoding", "predict/base", "predict/tuned"):
        listener = Impatient(stage)
        with pytest.raises(StoppedError, match="SIGTERM"):
            run_road(Road(Run.create(stopped), config, listener, stop=listener.stop))
        assert listener.worked[-1] == stage
        if stage == "train":
            assert (stopped / "work" / "train" / "checkpoints" / "checkpoint-1" / "whole.json").is_file()
    go(stopped, config)
    assert artifacts(stopped) == artifacts(whole)
    clock = [json.loads(line) for line in (stopped / "timing.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in clock] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["seconds"] for row in clock] == sorted(row["seconds"] for row in clock)
    assert not [file for file in (stopped / "work").rglob("*") if file.is_file()]


def test_copying_alone_loads_no_weights(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vademecum.stages import material

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(material, "load_base", refuse)
    go(tmp_path / "run", tiny_config(tiny_checkpoint, 'generate.systems=["copy"]'))
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert set(report["systems"]) == {"copy"}
    assert report["decoding"]["chosen_on"] == {}
