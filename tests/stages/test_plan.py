"""The probe measures what the run will do: answers on whole weights, training on those that the plan chose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.listener import go

from vademecum.config import ModelConfig, RunConfig, load_config
from vademecum.errors import ConfigError, OutOfMemoryError, RunError
from vademecum.hardware import can_compact_memory
from vademecum.models import is_quantized, load_adapter, load_base
from vademecum.planning import Plan, predict_memory
from vademecum.prompts import decode_answer, end_token_id
from vademecum.records import Prediction
from vademecum.runs import Run
from vademecum.stages import Road, Silence, answer, forecast_run, material, sizing, train
from vademecum.stages import plan as module


def config(checkpoint: Path, *more: str) -> RunConfig:
    settings = [
        f"model.name={checkpoint}", "model.device=cpu", "model.dtype=float32", "budget.minutes=none",
        "train.max_steps=4", "train.max_length=512", "train.max_cut_share=1.0", "train.eval_pairs=4",
        "generate.max_new_tokens=8", "generate.test_pairs=12", "generate.validation_pairs=2", *more,
    ]  # fmt: skip
    return load_config("demo", settings)


def noting(monkeypatch: pytest.MonkeyPatch, name: str, note: Callable[[Any], None]) -> None:
    """Let `note` see the model that a function of the plan stage is called with."""
    real = getattr(module, name)

    def call(model: Any, *rest: Any, **named: Any) -> Any:
        note(model)
        return real(model, *rest, **named)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_answers_are_timed_on_whole_weights_and_training_on_its_own(
    quantization: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    answering: list[bool] = []
    training: list[bool] = []
    noting(monkeypatch, "probe_generation", lambda model: answering.append(is_quantized(model)))
    noting(monkeypatch, "probe_steps", lambda model: training.append(is_quantized(model)))
    go(tmp_path, config(tiny_checkpoint, f'model.quantization="{quantization}"'), until="plan")
    assert set(answering) == {False}
    assert training == [quantization != "none"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not forget a peak")
def test_the_probed_peak_is_that_of_the_work_and_not_of_loading(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: Any, **named: Any) -> Any:
        ballast = b"x" * 500_000_000
        del ballast
        return load_base(*given, **named)

    def hold(*_: object) -> None:
        torch.ones(25_000_000)

    monkeypatch.setattr(material, "load_base", load)
    noting(monkeypatch, "probe_steps", lambda model: model.register_forward_pre_hook(hold))
    go(tmp_path, config(tiny_checkpoint), until="plan")
    run = Run.open(tmp_path)
    rates, whole = run.read_record("plan.json", Plan).rates, run.entries()["plan"].peak_memory_bytes
    assert rates.peak_memory_bytes == rates.training_peak_bytes  # training took 100 MB more than answering
    assert 200_000_000 < whole - rates.training_peak_bytes < 500_000_000


@pytest.mark.parametrize("name", ["probe_steps", "probe_generation"])
def test_a_probe_that_runs_out_of_memory_says_what_to_do(
    name: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    noting(monkeypatch, name, fail)
    with pytest.raises(OutOfMemoryError, match="more memory than the GPU has free") as caught:
        go(tmp_path, config(tiny_checkpoint), until="plan")
    assert "nvidia-smi" in caught.value.hint
    assert "a smaller base" in caught.value.hint


@pytest.mark.parametrize(("name", "work"), [("probe_steps", "training"), ("probe_generation", "answering")])
def test_where_the_probe_runs_out_of_memory_what_takes_less_is_tried(
    name: str, work: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = config(tiny_checkpoint)
    go(tmp_path / "usual", usual, until="plan")
    failures = 2

    def fail_at_first(_: object) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    noting(monkeypatch, name, fail_at_first)
    heard = go(tmp_path / "full", usual, until="plan").said
    before, after = (Run.open(tmp_path / run).read_record("plan.json", Plan) for run in ("usual", "full"))
    assert sum(f"{work} needs more memory" in said for said in heard) == 2
    assert (after.answer_rows < before.answer_rows) == (work == "answering")
    assert (after.memory.activations_bytes < before.memory.activations_bytes) == (work == "training")
    examples = [one.settings.per_device_train_batch_size * one.settings.gradient_accumulation_steps
                for one in (before, after)]  # fmt: skip
    assert examples[0] == examples[1]  # the training stays the same


def test_where_whole_weights_do_not_fit_all_systems_answer_in_four_bits(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    real = predict_memory

    def predict(*given: Any) -> Any:
        found, answering = real(*given), given[-1]
        whole = answering is not None and answering.quantization == "none"
        return found.model_copy(update={"answering_weights_bytes": 10**15}) if whole else found

    monkeypatch.setattr(sizing, "predict_memory", predict)
    given = config(tiny_checkpoint, "generate.systems=['base', 'tuned']", "generate.no_repeat_ngram_size=0")
    go(tmp_path, given)
    run = Run.open(tmp_path)
    assert run.read_record("plan.json", Plan).answer_quantization == "nf4"
    said = " ".join(run.file("report.md").read_text(encoding="utf-8").split())
    assert "All systems answered with nf4 weights" in said
    answered = {row.id: row.text for row in run.read_rows("predictions/tuned.jsonl", Prediction)}

    road = Road(run, given, Silence())
    base = material.Base.locate(road)
    asked = material.Pairs.read(road).test(given)
    quantized = base.load(ModelConfig(quantization="nf4"), device="cpu", dtype="float32")
    adapted = load_adapter(quantized, run.file("adapter"))
    for prompt in material.prompts_for("tuned", asked, [], base, given)[:4]:
        ids = adapted.generate(
            input_ids=torch.tensor([prompt.input_ids]), max_new_tokens=8, do_sample=False,
            eos_token_id=end_token_id(base.tokenizer), pad_token_id=0,
        )  # fmt: skip
        said = decode_answer(base.tokenizer, ids[0, len(prompt.input_ids) :].tolist())
        assert answered[prompt.id] == said or said.startswith(answered[prompt.id])  # ours ends a loop


def test_answering_that_runs_out_of_memory_says_what_to_do(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(answer, "generate", fail)
    for stage, control in (("decoding", "auto"), ("predict/base", "0")):
        given = config(tiny_checkpoint, f"generate.no_repeat_ngram_size={control}", 'generate.systems=["base"]')
        with pytest.raises(RunError, match="answering needs more memory") as caught:
            go(tmp_path / control, given, until=stage)
        assert "generate.batch_size" in caught.value.hint


def test_answers_are_written_without_what_training_has_set(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With checkpointing memory is compact where it can be; nothing can be asked what it was set to."""
    switched: list[bool] = []
    for stage in (answer, module, train):
        monkeypatch.setattr(stage, "compact_memory", switched.append)
    given = config(tiny_checkpoint, "train.gradient_checkpointing=true")
    go(tmp_path, given, until="train")
    assert switched == [False, can_compact_memory(), can_compact_memory()]  # answers and steps are timed; it trains
    go(tmp_path, given, until="predict/base")
    assert switched[3:]
    assert not any(switched[3:])


def test_a_run_that_was_planned_for_another_machine_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("the device is here")
    given = config(tiny_checkpoint, "generate.systems=['base', 'tuned']")
    go(tmp_path, given, until="plan")
    road = Road(Run.open(tmp_path), given, Silence())
    plan = road.run.read_record("plan.json", Plan)
    with pytest.raises(RunError, match="planned for cuda, which is not on this machine") as caught:
        material.Base.locate(road).check(plan.model_copy(update={"device": "cuda"}))
    assert "--force plan" in caught.value.hint


def test_a_device_that_is_not_here_is_refused_before_anything_is_predicted(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("the device is here")
    with pytest.raises(ConfigError, match=r"model\.device = 'cuda' is not on this machine"):
        forecast_run(config(tiny_checkpoint, "model.device=cuda"), Silence(), offline=True)
