"""Training that runs out of memory or time changes its course and ends as it should; one that fails says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.training.tiny import Build, Memory, config, data, examples, weights

from vademecum.errors import RunError
from vademecum.hardware import process_peak_bytes
from vademecum.training import watch
from vademecum.training.trainer import train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft 0.21 reads a property that transformers 5.23 renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


ALLOCATOR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@contextmanager
def out_of_memory(model: PeftModel, *calls: int, error: Exception = ALLOCATOR) -> Iterator[None]:
    """Fails in the given calls of the model, counted from zero."""
    count = iter(range(10_000))

    def fail(*_: object) -> None:
        if next(count) in calls:
            raise error

    hook = model.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def assert_alike(model: PeftModel, other: PeftModel) -> None:
    expected = weights(other)
    for name, weight in weights(model).items():
        assert torch.allclose(weight, expected[name], atol=1e-4), name


@pytest.mark.parametrize(
    ("batching", "calls"), [("grouped", (0,)), ("grouped", (9, 12)), ("padded", (5,)), ("packed", (9,))]
)
def test_out_of_memory_halves_the_micro_batches_and_goes_on(
    batching: str, calls: tuple[int, ...], build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    knobs = config(batching=batching, max_length=128 if batching == "packed" else 32)
    given = data(knobs, save_steps=3, validation=examples(4, seed=9))
    whole, kept = build(warm=True), Memory(tmp_path / "whole")
    expected = train(whole, tokenizer, given, knobs, kept, seed=0)

    model, sink = build(warm=True), Memory(tmp_path / "short")
    with out_of_memory(model, *calls):
        summary = train(model, tokenizer, given, knobs, sink, seed=0)
    assert [(one.change, one.cause) for one in summary.events] == [("micro_batches_halved", "out_of_memory")] * len(
        calls
    )
    assert [one.before for one in summary.events] == [2, 4][: len(calls)]
    assert sink.said == [one.in_words() for one in summary.events]
    assert summary.status == "completed"
    assert [row["step"] for row in sink.rows] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["examples"] for row in sink.rows] == [row["examples"] for row in kept.rows]
    assert summary.real_tokens == expected.real_tokens
    assert summary.slots == sum(row["slots"] for row in sink.rows)
    assert [row["loss"] for row in sink.steps] == pytest.approx([row["loss"] for row in kept.steps], rel=1e-4)
    assert_alike(model, whole)


def test_after_out_of_memory_it_is_computed_in_the_same_number_format(
    build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    knobs, model, seen = config(), build().bfloat16(), []
    inside = model.get_base_model().get_input_embeddings()
    inside.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with out_of_memory(model, 5):
        train(model, tokenizer, data(knobs, dtype="bfloat16"), knobs, Memory(tmp_path), seed=0)
    assert len(seen) > 5 + 24
    assert all(seen[: 5 + 24])  # six steps of four micro-batches; then comes the look at what training has changed


def test_a_library_that_finds_no_memory_halves_the_micro_batches_too(
    build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    knobs, model = config(), build()
    with out_of_memory(model, 3, error=CUBLAS):
        summary = train(model, tokenizer, data(knobs), knobs, Memory(tmp_path), seed=0)
    assert [one.cause for one in summary.events] == ["out_of_memory"]
    assert summary.status == "completed"


def test_an_error_of_another_kind_ends_the_training(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs, model = config(), build()
    with out_of_memory(model, 3, error=RuntimeError("shapes cannot")), pytest.raises(RuntimeError, match="shapes"):
        train(model, tokenizer, data(knobs), knobs, Memory(tmp_path), seed=0)


def test_memory_that_never_suffices_ends_in_words(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs, model = config(), build()
    with out_of_memory(model, *range(1000)), pytest.raises(RunError, match="cannot be made smaller"):
        train(model, tokenizer, data(knobs), knobs, Memory(tmp_path), seed=0)


def test_a_process_above_its_limit_goes_on_with_halves(
    build: Build, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = config()
    given = data(knobs, save_steps=100)
    whole = build(warm=True)
    train(whole, tokenizer, given, knobs, Memory(tmp_path / "whole"), seed=0)

    readings = iter([0, 10, 20, 101])
    monkeypatch.setattr(watch, "process_peak_bytes", lambda: next(readings, 60))
    model, sink = build(warm=True), Memory(tmp_path / "limited")
    limited = data(knobs, save_steps=100, memory_limit_bytes=100)
    summary = train(model, tokenizer, limited, knobs, sink, seed=0)
    (event,) = summary.events
    assert (event.step, event.before, event.after, event.measured, event.limit) == (2, 2, 4, 101, 100)
    assert [row["step"] for row in sink.times] == [1, 2, 3, 4, 5, 6]  # no step was done twice
    assert_alike(model, whole)


def test_a_limit_that_cannot_be_kept_ends_in_words(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    """With the process's real memory, of which an allocation in the first step takes more than there was before."""
    knobs, model = config(per_device_train_batch_size=1), build()
    model.register_forward_pre_hook(lambda *_: torch.ones(100_000_000).sum() and None)
    limited = data(knobs, memory_limit_bytes=process_peak_bytes() // 4)
    with pytest.raises(RunError, match="cannot be made smaller"):
        train(model, tokenizer, limited, knobs, Memory(tmp_path), seed=0)
    assert (tmp_path / "checkpoint-1" / "whole.json").is_file()  # where there is more memory it goes on from here


class SlowMachine:
    """A clock that moves on by `seconds` with every micro-batch."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0

    def __call__(self) -> float:
        return self.now

    def tick(self, *_: object) -> None:
        self.now += self.seconds


def slow(model: PeftModel, clock: SlowMachine) -> PeftModel:
    """Every micro-batch takes the clock's seconds."""
    model.register_forward_pre_hook(lambda part, _: clock.tick() if part.training else None)
    return model


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant_with_warmup"])
def test_a_slow_machine_takes_fewer_steps_and_the_schedule_ends_where_it_would_have(
    scheduler: str, build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    knobs = config(max_steps=12, lr_scheduler_type=scheduler, warmup_steps=2)
    clock = SlowMachine(5)  # two micro-batches: ten seconds a step, 120 in all
    sink = Memory(tmp_path, clock=clock)
    given = data(knobs, validation=examples(4, seed=9), time_limit_seconds=80, eval_steps=5)
    summary = train(slow(build(), clock), tokenizer, given, knobs, sink, seed=0)

    (event,) = summary.events
    assert (event.step, event.before, event.after, event.measured, event.limit) == (4, 12, 8, 120, 80)
    assert (summary.optimizer_steps, summary.seconds, summary.status) == (8, 80, "completed")
    assert [row["step"] for row in sink.rows] == list(range(9))
    assert "validation_loss" in sink.rows[-1]
    assert (tmp_path / "checkpoint-8" / "whole.json").is_file()
    positions = [0, 1, 2, 3, 4, 6, 8, 10]  # eight steps of the planned schedule in the last four
    assert [row["learning_rate"] for row in sink.steps] == pytest.approx(
        [planned_rate(scheduler, position) for position in positions]
    )


def planned_rate(scheduler: str, position: float) -> float:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    planned = get_scheduler(scheduler, optimizer, num_warmup_steps=2, num_training_steps=12)
    return float(1e-3 * planned.lr_lambdas[0](position))


@pytest.mark.parametrize("broken_after", [5, 7])
def test_a_cut_training_that_is_killed_and_resumed_ends_the_same(
    broken_after: int, build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    knobs = config(max_steps=12)
    given = data(knobs, time_limit_seconds=80, save_steps=3)
    clock = SlowMachine(5)
    whole, kept = slow(build(dropout=0.3), clock), Memory(tmp_path / "whole", clock=clock)
    expected = train(whole, tokenizer, given, knobs, kept, seed=4)

    clock = SlowMachine(5)
    broken = Memory(tmp_path / "broken", break_after=broken_after, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        train(slow(build(dropout=0.3), clock), tokenizer, given, knobs, broken, seed=4)
    broken.break_after = None
    resumed = slow(build(dropout=0.3), clock)
    torch.manual_seed(123)
    summary = train(resumed, tokenizer, given, knobs, broken, seed=4)

    assert summary.events == expected.events
    assert broken.rows == kept.rows
    assert summary.optimizer_steps == expected.optimizer_steps == 8
    assert all(torch.equal(weight, weights(resumed)[name]) for name, weight in weights(whole).items())


def test_a_learning_rate_that_is_much_too_high_diverges(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs = config(learning_rate=1e30)
    summary = train(build(), tokenizer, data(knobs), knobs, Memory(tmp_path), seed=0)
    assert summary.status == "diverged"
    assert 0 < summary.optimizer_steps < 6
    assert "of step" in summary.remark


def test_a_last_step_that_breaks_the_adapter_is_noticed(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs = config(max_steps=1, learning_rate=1e30, max_grad_norm=0.0)
    summary = train(build(), tokenizer, data(knobs), knobs, Memory(tmp_path), seed=0)
    assert (summary.status, summary.optimizer_steps) == ("diverged", 1)
    assert "that came out" in summary.remark


@pytest.mark.parametrize(
    ("learning_rate", "remark"),
    [(1e-300, "the adapter's updates are all zero"), (1e-30, "the adapter does not change a single logit")],
)
def test_an_adapter_without_effect_is_called_unchanged(
    learning_rate: float, remark: str, build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    knobs = config(max_steps=2, learning_rate=learning_rate)
    summary = train(build(), tokenizer, data(knobs), knobs, Memory(tmp_path), seed=0)
    assert summary.status == "unchanged"
    assert summary.remark.startswith(remark)
