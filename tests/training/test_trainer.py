"""Training on the tiny checkpoint: what a step reports, invariants of batching, and breaking off."""

from dataclasses import replace
from pathlib import Path
from signal import Signals
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.training.tiny import PAD, Build, Memory, config, data, examples, weights

from vademecum.errors import StoppedError
from vademecum.stopping import Stop
from vademecum.training import engine
from vademecum.training.batching import collate
from vademecum.training.checkpoints import newest_checkpoint
from vademecum.training.engine import boundary_callback, build_trainer
from vademecum.training.loss import example_losses, per_token, summed_loss, trained_tokens
from vademecum.training.trainer import probe_steps, train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft 0.21 reads a property that transformers 5.23 renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def losses(sink: Memory) -> list[float]:
    return [row["loss"] for row in sink.steps]


def test_a_step_reports_what_it_did(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model, sink, knobs = build(), Memory(tmp_path), config()
    given = data(knobs, validation=examples(5, seed=9), eval_steps=4)
    first = collate([given.examples[index] for rows in given.layout.step(0) for index in rows], PAD)
    base_loss = summed_loss(model.get_base_model(), first).item() / trained_tokens(first["labels"])
    untrained = example_losses(model.get_base_model(), given.validation, PAD, 100)
    summary = train(model, tokenizer, given, knobs, sink, seed=0)

    assert [row["step"] for row in sink.rows] == [0, 1, 2, 3, 4, 5, 6]
    assert losses(sink)[0] == pytest.approx(base_loss, rel=1e-5)  # the adapter does nothing yet
    assert [row["learning_rate"] for row in sink.steps] == pytest.approx(
        [1e-3 * left / 6 for left in (6, 5, 4, 3, 2, 1)]
    )
    assert all(row["grad_norm"] > 0 for row in sink.steps)
    assert [row["step"] for row in sink.rows if "validation_loss" in row] == [0, 4, 6]
    assert sink.rows[0]["validation_loss"] == pytest.approx(per_token(untrained), rel=1e-5)
    assert {row["id"] for row in sink.rows[0]["validation_rows"]} == {one.id for one in given.validation}
    assert sum(row["real_tokens"] for row in sink.rows) == summary.real_tokens == given.layout.real_tokens
    assert sum(row["slots"] for row in sink.rows) == summary.slots
    assert [row["step"] for row in sink.times] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["seconds"] for row in sink.times] == sorted(row["seconds"] for row in sink.times)
    assert summary.final_loss == losses(sink)[-1]
    assert summary.validation_loss == sink.rows[-1]["validation_loss"]
    taken = example_losses(model, given.validation, PAD, 100)
    assert summary.validation_loss == pytest.approx(per_token(taken), rel=1e-5)
    told = {row["id"]: (row["nats"], row["tokens"]) for row in sink.rows[-1]["validation_rows"]}
    assert {one.id: pytest.approx((one.nats, one.tokens), rel=1e-5) for one in taken} == told
    assert summary.status == "completed"


@pytest.mark.parametrize("batching", ["grouped", "packed"])
def test_validation_changes_nothing_in_training(batching: str, build: Build, tokenizer: Any, tmp_path: Path) -> None:
    """Dropout draws the same units, whether the untrained model was looked at or not."""
    knobs = config(batching=batching, max_length=128 if batching == "packed" else 32)
    ends = []
    for validation in ([], examples(5, seed=9)):
        model, sink = build(dropout=0.3), Memory(tmp_path / str(len(validation)))
        train(model, tokenizer, data(knobs, validation=validation, eval_steps=4), knobs, sink, seed=4)
        ends.append((losses(sink), weights(model)))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(weight, ends[1][1][name]) for name, weight in ends[0][1].items())


def test_each_validation_is_taken_once(
    build: Build, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def counted(*given: Any) -> Any:
        taken.append(1)
        return example_losses(*given)

    monkeypatch.setattr(engine, "example_losses", counted)
    knobs, sink = config(), Memory(tmp_path)
    train(build(), tokenizer, data(knobs, validation=examples(5, seed=9), eval_steps=4), knobs, sink, seed=0)
    assert len(taken) == 3  # before the first step, after the fourth and after the sixth
    train(build(), tokenizer, data(knobs, validation=examples(5, seed=9), eval_steps=4), knobs, sink, seed=0)
    assert (len(taken), [row["step"] for row in sink.rows]) == (3, [0, 1, 2, 3, 4, 5, 6])  # nothing was left to do


def test_a_training_that_diverges_at_once_knows_the_untrained_loss_alone(
    build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    model, knobs, sink = build(), config(), Memory(tmp_path)

    def poison(module: torch.nn.Module, _: Any) -> None:
        if module.training:
            next(weight for name, weight in module.named_parameters() if "lora_B" in name).data.fill_(float("nan"))

    model.register_forward_pre_hook(poison)
    summary = train(model, tokenizer, data(knobs, validation=examples(5, seed=9)), knobs, sink, seed=0)
    assert (summary.status, summary.remark) == ("diverged", "the loss of step 1 is nan")
    assert (summary.optimizer_steps, summary.validation_loss, [row["step"] for row in sink.rows]) == (0, None, [0])


def test_training_learns_its_rows(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs, sink, rows = config(max_steps=30, learning_rate=0.03), Memory(tmp_path), examples(8)
    summary = train(build(), tokenizer, data(knobs, rows, validation=rows), knobs, sink, seed=0)
    assert summary.final_loss is not None
    assert summary.final_loss < 0.9 * losses(sink)[0]
    assert summary.validation_loss is not None
    assert summary.validation_loss < 0.9 * losses(sink)[0]


def test_training_changes_the_adapter_alone(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model = build()
    before = weights(model)
    train(model, tokenizer, data(config()), config(), Memory(tmp_path), seed=0)
    changed = {name for name, weight in weights(model).items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_training_takes_its_wrappers_away(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model = build()
    train(model, tokenizer, data(config(max_steps=1)), config(max_steps=1), Memory(tmp_path), seed=0)
    assert all("forward" not in vars(module) for module in model.modules())


def test_batch_1x8_trains_like_4x2(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs = config(batching="padded")
    given, ends = data(knobs), []
    alone = replace(
        given.layout, micro_batches=[[row] for rows in given.layout.micro_batches for row in rows], accumulation=8
    )
    for layout in (given.layout, alone):
        settings = config(
            gradient_accumulation_steps=layout.accumulation, per_device_train_batch_size=8 // layout.accumulation
        )
        sink = Memory(tmp_path / str(layout.accumulation))
        train(build(), tokenizer, replace(given, layout=layout), settings, sink, seed=0)
        ends.append(losses(sink))
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


def test_padded_trains_like_grouped(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs = config()
    given, ends = data(knobs), []
    for pad_to in (None, 32):
        model, sink = build(), Memory(tmp_path / str(pad_to))
        train(model, tokenizer, replace(given, layout=replace(given.layout, pad_to=pad_to)), knobs, sink, seed=0)
        ends.append(losses(sink))
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


def test_packed_trains_like_grouped(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs = config(batching="packed", per_device_train_batch_size=1)
    given, ends = data(knobs), []
    assert given.layout.packed
    for packed in (True, False):
        model, sink = build(), Memory(tmp_path / str(packed))
        train(model, tokenizer, replace(given, layout=replace(given.layout, packed=packed)), knobs, sink, seed=0)
        ends.append(losses(sink))
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


@pytest.mark.parametrize("broken_after", [1, 4, 7])
def test_killed_and_resumed_equals_uninterrupted(
    build: Build, tokenizer: Any, tmp_path: Path, broken_after: int
) -> None:
    knobs = config(max_steps=8)
    given = data(knobs, validation=examples(4, seed=9), save_steps=3, eval_steps=2)
    whole, kept = build(dropout=0.3), Memory(tmp_path / "whole")
    expected = train(whole, tokenizer, given, knobs, kept, seed=4)

    broken = Memory(tmp_path / "broken", break_after=broken_after)
    with pytest.raises(KeyboardInterrupt):
        train(build(dropout=0.3), tokenizer, given, knobs, broken, seed=4)
    broken.break_after = None
    resumed = build(dropout=0.3)
    torch.manual_seed(123)  # another process starts elsewhere
    summary = train(resumed, tokenizer, given, knobs, broken, seed=4)

    assert broken.rows == kept.rows
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name
    timeless = {"seconds", "real_tokens_per_second"}
    assert summary.model_dump(exclude=timeless) == expected.model_dump(exclude=timeless)


def overflowing(model: PeftModel, *calls: int) -> PeftModel:
    """The gradients of these micro-batches, counted from zero, are too large for a number."""
    count = iter(range(1000))
    weight = next(weight for weight in model.parameters() if weight.requires_grad)
    weight.register_hook(lambda gradient: gradient * (torch.inf if next(count) in calls else 1))
    return model


@pytest.fixture
def loss_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training with float16's loss scaler, which Accelerate makes on a GPU only."""

    def build_with_scaler(*given: Any) -> Any:
        trainer = build_trainer(*given)
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
        return trainer

    monkeypatch.setattr("vademecum.training.trainer.build_trainer", build_with_scaler)


@pytest.mark.usefixtures("loss_scaler")
@pytest.mark.parametrize("skipped", [1, 2, 6])
def test_a_step_that_float16_skips_counts_in_the_schedule(
    skipped: int, build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    sink, knobs = Memory(tmp_path), config()
    train(overflowing(build(), 2 * skipped - 1), tokenizer, data(knobs), knobs, sink, seed=0)
    assert [row["step"] for row in sink.rows if row["grad_norm"] is None] == [skipped]
    rates = [row["learning_rate"] for row in sink.rows]
    assert rates == pytest.approx([1e-3 * left / 6 for left in (6, 5, 4, 3, 2, 1)])
    kept = torch.load(tmp_path / "checkpoint-6" / "scheduler.pt")
    assert kept["last_epoch"] == 6
    assert set(kept["_last_lr"]) == {0.0}


@pytest.mark.usefixtures("loss_scaler")
def test_a_training_with_a_skipped_step_that_is_killed_and_resumed_ends_the_same(
    build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    knobs = config(max_steps=8)
    given, kept = data(knobs, save_steps=3), Memory(tmp_path / "whole")
    whole = overflowing(build(dropout=0.3), 5)
    train(whole, tokenizer, given, knobs, kept, seed=4)
    assert [row["step"] for row in kept.rows if row["grad_norm"] is None] == [3]

    broken = Memory(tmp_path / "broken", break_after=5)
    with pytest.raises(KeyboardInterrupt):
        train(overflowing(build(dropout=0.3), 5), tokenizer, given, knobs, broken, seed=4)
    broken.break_after = None
    resumed = build(dropout=0.3)
    train(resumed, tokenizer, given, knobs, broken, seed=4)
    assert broken.rows == kept.rows
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name


def test_training_on_a_cpu_leaves_a_gpu_alone(
    build: Build, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at its random state opens a context on it: hundreds of megabytes, or an error if it is full."""

    def open_context() -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.random, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda.random, "_lazy_init", open_context)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.cuda.get_rng_state_all()
    knobs, sink = config(max_steps=4), Memory(tmp_path)
    given = data(knobs, save_steps=2)
    sink.break_after = 3
    with pytest.raises(KeyboardInterrupt):
        train(build(), tokenizer, given, knobs, sink, seed=0)
    sink.break_after = None
    assert train(build(), tokenizer, given, knobs, sink, seed=0).status == "completed"
    assert torch.cuda.is_available()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_checkpoint_in_the_midst_of_a_step_has_the_random_state_of_its_beginning(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, saved = [torch.tensor([7])], []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: gpu[0])
    monkeypatch.setattr(torch.cuda, "set_rng_state", gpu.append)
    trainer = SimpleNamespace(
        data=data(config(), device=device),
        state=SimpleNamespace(global_step=3),
        args=SimpleNamespace(output_dir=str(tmp_path)),
        model=None,
        _save_checkpoint=lambda *_, **__: saved.append(torch.get_rng_state()),
    )
    stop, watch = Stop(), SimpleNamespace(look=lambda _: None)
    boundary = boundary_callback(trainer, stop, watch)  # type: ignore[arg-type]
    begun = torch.get_rng_state()
    boundary.on_step_begin()
    torch.rand(3)  # as dropout would
    stop.ask(Signals.SIGTERM)
    with pytest.raises(StoppedError):
        boundary.on_substep_end()
    assert len(saved) == 1
    assert torch.equal(saved[0], begun)
    assert len(gpu) == (2 if device == "cuda" else 1)
    assert gpu[-1] is gpu[0]


def test_a_finished_training_is_not_trained_again(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs, sink, first, second = config(max_steps=2), Memory(tmp_path), build(), build()
    summary = train(first, tokenizer, data(knobs), knobs, sink, seed=0)
    again = train(second, tokenizer, data(knobs), knobs, sink, seed=0)
    assert len(sink.rows) == 2
    assert again.final_loss == summary.final_loss
    assert all(torch.equal(weight, weights(second)[name]) for name, weight in weights(first).items())


def test_a_loss_that_is_not_finite_stops_at_once(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model, knobs = build(), config()

    class Poison(Memory):
        def step(self, row: dict[str, Any]) -> None:
            super().step(row)
            if row["step"] == 2:
                next(weight for name, weight in model.named_parameters() if "lora_B" in name).data.fill_(float("nan"))

    sink = Poison(tmp_path)
    summary = train(model, tokenizer, data(knobs, save_steps=1), knobs, sink, seed=0)
    assert (summary.status, summary.remark) == ("diverged", "the loss of step 3 is nan")
    assert (summary.optimizer_steps, summary.real_tokens) == (2, sum(row["real_tokens"] for row in sink.rows))
    assert [row["step"] for row in sink.rows] == [1, 2]
    newest = newest_checkpoint(tmp_path, 2, sink.say)
    assert newest is not None
    assert newest.name == "checkpoint-2"


def test_probing_leaves_the_model_as_it_was(build: Build) -> None:
    model, knobs = build(warm=True), config(learning_rate=0.5)
    given = data(knobs)
    before = weights(model)
    timings = probe_steps(model, given, knobs, steps=3, seed=0)
    assert len(timings) == 3
    assert all(timing.seconds > 0 and timing.real_tokens > 0 for timing in timings)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(model).items())
    assert all(weight.grad is None for weight in model.parameters())


def test_the_largest_micro_batch_is_probed_again_beside_the_optimizer_s_state(build: Build) -> None:
    model, knobs = build(), config()
    given = data(knobs)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True)
    probe_steps(model, given, knobs, steps=3, seed=0)
    steps = [seen[first : first + 2] for first in range(0, len(seen), 2)]
    assert len(steps) == 2 + 3
    assert steps[0] == steps[1]
    assert max(steps[1]) == given.layout.worst_tokens


def test_nothing_is_sent_and_nothing_is_printed(
    build: Build, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("telemetry")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", refuse)
    knobs = config(max_steps=2)
    train(build(), tokenizer, data(knobs), knobs, Memory(tmp_path), seed=0)
    assert capsys.readouterr().out == ""


def test_bfloat16_trains_float32_adapters(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model = build().to(torch.bfloat16)
    knobs, sink = config(max_steps=2), Memory(tmp_path)
    train(model, tokenizer, data(knobs, dtype="bfloat16"), knobs, sink, seed=0)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {torch.bfloat16}
    assert losses(sink)[0] == pytest.approx(6, abs=1)
    assert all("forward" not in vars(module) for module in model.modules())


def test_gradient_checkpointing_changes_no_loss(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    ends = []
    for switch in (False, True):
        knobs, sink = config(max_steps=3, gradient_checkpointing=switch), Memory(tmp_path / str(switch))
        train(build(), tokenizer, data(knobs), knobs, sink, seed=0)
        ends.append(losses(sink))
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


def test_clipping_can_be_switched_off(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    norms = []
    for most in (0.0, 0.01):
        knobs, sink = config(max_steps=1, max_grad_norm=most), Memory(tmp_path / str(most))
        train(build(), tokenizer, data(knobs), knobs, sink, seed=0)
        norms.append(sink.rows[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)  # of the gradient as it was, before any clipping


class Countdown(Stop):
    """Asks to stop the n-th time that somebody looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def asked(self) -> str | None:
        self.looks -= 1
        return "enough" if self.looks < 0 else None


@pytest.mark.parametrize("looks", [0, 1, 2, 3, 4, 7])
def test_stopped_and_resumed_equals_uninterrupted(build: Build, tokenizer: Any, tmp_path: Path, looks: int) -> None:
    """Two looks a step: at its start, and between its two micro-batches, when dropout has drawn already."""
    knobs = config(max_steps=4)
    given = data(knobs, validation=examples(4, seed=9), save_steps=3, eval_steps=2)
    whole, kept = build(dropout=0.3), Memory(tmp_path / "whole")
    train(whole, tokenizer, given, knobs, kept, seed=4)

    broken = Memory(tmp_path / "broken", stop=Countdown(looks))
    with pytest.raises(StoppedError, match="enough"):
        train(build(dropout=0.3), tokenizer, given, knobs, broken, seed=4)
    assert [row["step"] for row in broken.rows] == list(range(1 + looks // 2))
    broken.stop = Stop()
    resumed = build(dropout=0.3)
    torch.manual_seed(123)
    train(resumed, tokenizer, given, knobs, broken, seed=4)

    assert broken.said == []
    assert broken.rows == kept.rows
    assert [row["step"] for row in broken.times] == [0, 1, 2, 3, 4]  # no step was done twice
    assert all(torch.equal(weight, weights(resumed)[name]) for name, weight in weights(whole).items())
