"""Training on the tiny checkpoint: the loss against the model's own, invariants of batching, and breaking off."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from vademecum.config.sections import TrainConfig
from vademecum.errors import DivergedError
from vademecum.training.arguments import CONSUMED_ELSEWHERE, training_arguments
from vademecum.training.batching import Layout, collate, collate_packed, lay_out
from vademecum.training.engine import StepRows, build_loader
from vademecum.training.loss import mean_loss, summed_loss, trained_tokens
from vademecum.training.supervision import Example
from vademecum.training.trainer import TrainingData, newest_checkpoint, probe_steps, train

PAD = 0
Build = Callable[..., PeftModel]


@pytest.fixture(autouse=True)
def deterministic_threads() -> Iterator[None]:
    """One thread: tiny tensors run faster, and sums do not depend on how many cores are free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build(tiny_checkpoint: Path) -> Build:
    """Builds the tiny model with a fresh adapter; `warm` gives the adapter an effect from the start."""

    def build_model(*, warm: bool = False, dropout: float = 0.0, **loading: Any) -> PeftModel:
        base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32, **loading)
        torch.manual_seed(5)
        lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, lora)
        if warm:
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.3)
        return model

    return build_model


@pytest.fixture
def tokenizer(tiny_checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


@dataclass
class Memory:
    """A sink that keeps everything, and can break off after a step."""

    checkpoints: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)
    break_after: int | None = None

    def step(self, row: dict[str, Any]) -> None:
        if row["step"] == self.break_after:
            raise KeyboardInterrupt
        self.rows.append(row)

    def timing(self, row: dict[str, Any]) -> None:
        self.times.append(row)

    def truncate(self, step: int) -> None:
        self.rows = [row for row in self.rows if row["step"] <= step]


def examples(count: int, seed: int = 0) -> list[Example]:
    rng = Random(seed)
    made = []
    for number in range(count):
        ids = [rng.randrange(3, 400) for _ in range(rng.randrange(8, 32))]
        prompt = rng.randrange(2, 6)
        made.append(Example(id=f"row {number}", input_ids=ids, labels=[-100] * prompt + ids[prompt:], cut=False))
    return made


def config(**values: Any) -> TrainConfig:
    return TrainConfig(
        **{
            "max_length": 32,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_steps": 6,
            **values,
        }
    )


def data(train_config: TrainConfig, rows: list[Example] | None = None, **values: Any) -> TrainingData:
    rows = rows or examples(40)
    given: dict[str, Any] = {
        "examples": rows,
        "validation": [],
        "layout": lay_out([row.length for row in rows], train_config, seed=1),
        "pad_id": PAD,
        "dtype": "float32",
        "device": "cpu",
        "save_steps": 100,
        "eval_steps": 100,
    }
    return TrainingData(**{**given, **values})


def weights(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def losses(sink: Memory) -> list[float]:
    return [row["loss"] for row in sink.rows]


def test_summed_loss_is_the_models_own(build: Build) -> None:
    model = build(warm=True)
    batch = collate(examples(5), PAD)
    own = model(**{**batch, "attention_mask": (torch.arange(batch["labels"].shape[1]) < 99).expand_as(batch["labels"])})
    assert summed_loss(model, batch).item() / trained_tokens(batch["labels"]) == pytest.approx(
        own.loss.item(), rel=1e-5
    )


def test_the_head_sees_only_positions_that_are_trained(build: Build) -> None:
    model = build()
    batch = collate(examples(5), PAD, pad_to=32)
    widths: list[tuple[int, ...]] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: widths.append(tuple(out.shape)))
    summed_loss(model, batch)
    handle.remove()
    assert widths == [(1, trained_tokens(batch["labels"]), model.config.vocab_size)]


def test_a_row_loses_the_same_whatever_it_is_padded_to(build: Build) -> None:
    model, rows = build(warm=True), examples(6)
    alone = sum(summed_loss(model, collate([row], PAD)).item() for row in rows)
    assert summed_loss(model, collate(rows, PAD, pad_to=32)).item() == pytest.approx(alone, rel=1e-5)


def test_packed_examples_do_not_see_one_another(build: Build) -> None:
    model, rows = build(warm=True), examples(6)
    alone = sum(summed_loss(model, collate([row], PAD)).item() for row in rows)
    assert summed_loss(model, collate_packed(rows, PAD)).item() == pytest.approx(alone, rel=1e-5)


def test_mean_loss_weighs_tokens_and_leaves_the_mode(build: Build) -> None:
    model, rows = build(warm=True, dropout=0.5), examples(7)
    model.eval()
    expected = sum(summed_loss(model, collate([row], PAD)).item() for row in rows)
    expected /= sum(trained_tokens(collate([row], PAD)["labels"]) for row in rows)
    model.train()
    for order in (rows, rows[::-1]):
        assert mean_loss(model, order, PAD, most_tokens=70) == pytest.approx(expected, rel=1e-5)
    assert model.training


def test_a_step_reports_what_it_did(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model, sink, knobs = build(), Memory(tmp_path), config()
    given = data(knobs, validation=examples(5, seed=9), eval_steps=4)
    untrained = mean_loss(model, given.validation, PAD, 100)
    first = collate([given.examples[index] for rows in given.layout.step(0) for index in rows], PAD)
    base_loss = summed_loss(model.get_base_model(), first).item() / trained_tokens(first["labels"])
    summary = train(model, tokenizer, given, knobs, sink, seed=0)

    assert [row["step"] for row in sink.rows] == [1, 2, 3, 4, 5, 6]
    assert losses(sink)[0] == pytest.approx(base_loss, rel=1e-5)  # the adapter does nothing yet
    assert [row["learning_rate"] for row in sink.rows] == pytest.approx(
        [1e-3 * left / 6 for left in (6, 5, 4, 3, 2, 1)]
    )
    assert all(row["grad_norm"] > 0 for row in sink.rows)
    assert [row["step"] for row in sink.rows if "validation_loss" in row] == [4, 6]
    assert sum(row["real_tokens"] for row in sink.rows) == summary.real_tokens == given.layout.real_tokens
    assert sum(row["slots"] for row in sink.rows) == summary.slots
    assert [row["step"] for row in sink.times] == [1, 2, 3, 4, 5, 6]
    assert [row["seconds"] for row in sink.times] == sorted(row["seconds"] for row in sink.times)
    assert summary.final_loss == losses(sink)[-1]
    assert summary.validation_loss == sink.rows[-1]["validation_loss"]
    assert summary.validation_loss == pytest.approx(mean_loss(model, given.validation, PAD, 100), rel=1e-5)
    assert summary.validation_loss < untrained
    assert summary.status == "completed"


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
    knobs, given = config(), data(config())
    reference, sink = build(), Memory(tmp_path / "4x2")
    train(reference, tokenizer, given, knobs, sink, seed=0)
    # The same examples in every step, but one to a micro-batch: as many as the fullest step has.
    steps = [[index for rows in given.layout.step(number) for index in rows] for number in range(given.layout.steps)]
    fullest = max(len(step) for step in steps)
    even = [step for step in steps if len(step) == fullest] or steps
    single = Layout([[index] for step in even for index in step], fullest, None, given.layout.lengths)
    paired = Layout(
        [step[half : half + (fullest + 1) // 2] for step in even for half in (0, (fullest + 1) // 2)],
        2,
        None,
        given.layout.lengths,
    )
    sinks = [Memory(tmp_path / "single"), Memory(tmp_path / "paired")]
    for layout, other in zip((single, paired), sinks, strict=True):
        ga = config(gradient_accumulation_steps=layout.accumulation)
        train(build(), tokenizer, replace(given, layout=layout), ga, other, seed=0)
    assert losses(sinks[0]) == pytest.approx(losses(sinks[1]), rel=1e-5)


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


def test_a_finished_training_is_not_trained_again(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    knobs, sink, first, second = config(max_steps=2), Memory(tmp_path), build(), build()
    summary = train(first, tokenizer, data(knobs), knobs, sink, seed=0)
    again = train(second, tokenizer, data(knobs), knobs, sink, seed=0)
    assert len(sink.rows) == 2
    assert again.final_loss == summary.final_loss
    assert all(torch.equal(weight, weights(second)[name]) for name, weight in weights(first).items())


def test_a_checkpoint_broken_off_in_writing_is_passed_over(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent") is None
    for step, text in ((9, json.dumps({"global_step": 9})), (10, '{"global_st'), (11, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if text is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-9"


def test_a_loss_that_is_not_finite_stops_at_once(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model, sink, knobs = build(), Memory(tmp_path), config()

    class Poison(Memory):
        def step(self, row: dict[str, Any]) -> None:
            super().step(row)
            if row["step"] == 2:
                next(weight for name, weight in model.named_parameters() if "lora_B" in name).data.fill_(float("nan"))

    sink = Poison(tmp_path)
    with pytest.raises(DivergedError, match="loss of step 3 is nan"):
        train(model, tokenizer, data(knobs, save_steps=1), knobs, sink, seed=0)
    assert [row["step"] for row in sink.rows] == [1, 2]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "checkpoint-2"


def test_float16_may_skip_steps_but_not_for_ever() -> None:
    rows: list[dict[str, Any]] = []
    given = data(config(max_steps=40))
    steps = StepRows(given, rows.append)
    infinite = {"loss": 1.0, "grad_norm": float("inf"), "learning_rate": 1e-3}
    steps.add(1, infinite, skipped=True, hold=False)
    assert rows[0]["grad_norm"] is None
    with pytest.raises(DivergedError, match="gradient norm of step 2 is inf"):
        steps.add(2, infinite, skipped=False, hold=False)
    with pytest.raises(DivergedError, match="gradient norm"):
        for step in range(3, 40):
            steps.add(step, infinite, skipped=True, hold=False)


def test_probing_leaves_the_model_as_it_was(build: Build) -> None:
    model, knobs = build(warm=True), config(learning_rate=0.5)
    given = data(knobs)
    before = weights(model)
    timings = probe_steps(model, given, knobs, steps=3, seed=0)
    assert len(timings) == 3
    assert all(timing.seconds > 0 and timing.peak_memory_bytes > 0 for timing in timings)
    assert all(0 < timing.real_tokens <= timing.slots for timing in timings)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(model).items())
    assert all(weight.grad is None for weight in model.parameters())


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


def test_the_rows_arrive_as_they_are(build: Build) -> None:
    rows = examples(10)
    given = data(config(), rows)
    for batch, indices in zip(build_loader(given), given.layout.micro_batches, strict=True):
        for row, index in enumerate(indices):
            assert batch["input_ids"][row, : rows[index].length].tolist() == rows[index].input_ids
            assert batch["labels"][row, : rows[index].length].tolist() == rows[index].labels


ARRIVES: dict[str, tuple[object, str, object]] = {
    "per_device_train_batch_size": (3, "per_device_train_batch_size", 3),
    "gradient_accumulation_steps": (5, "gradient_accumulation_steps", 5),
    "max_steps": (9, "max_steps", 9),
    "optim": ("adafactor", "optim", "adafactor"),
    "learning_rate": (7e-4, "learning_rate", 7e-4),
    "lr_scheduler_type": ("cosine", "lr_scheduler_type", "cosine"),
    "warmup_steps": (4, "warmup_steps", 4),
    "weight_decay": (0.1, "weight_decay", 0.1),
    "max_grad_norm": (0.5, "max_grad_norm", 0.5),
    "gradient_checkpointing": (True, "gradient_checkpointing", True),
    "report_to": (("tensorboard",), "report_to", ["tensorboard"]),
}
DECIDED_BY_THE_PLAN = {"eval_steps", "save_steps"}


@pytest.mark.parametrize("name", sorted(TrainConfig.model_fields))
def test_every_setting_arrives(name: str, tmp_path: Path) -> None:
    if name in CONSUMED_ELSEWHERE:
        assert name not in ARRIVES
        return
    if name in DECIDED_BY_THE_PLAN:
        given = data(config(), validation=examples(2), **{name: 17})
        assert getattr(training_arguments(config(), given, tmp_path, 0), name) == 17
        return
    value, attribute, expected = ARRIVES[name]
    knobs = config(**{name: value})
    assert getattr(training_arguments(knobs, data(knobs), tmp_path, 0), attribute) == expected


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"), [("float32", False, False), ("bfloat16", True, False), ("float16", False, True)]
)
def test_the_number_format_is_never_left_to_trl(tmp_path: Path, dtype: str, bf16: bool, fp16: bool) -> None:
    arguments = training_arguments(config(), data(config(), dtype=dtype), tmp_path, 3)
    assert (arguments.bf16, arguments.fp16) == (bf16, fp16)
    assert arguments.use_cpu
    assert arguments.seed == 3


def test_trl_neither_cuts_nor_drops_nor_packs(tmp_path: Path) -> None:
    arguments = training_arguments(config(), data(config()), tmp_path, 0)
    assert arguments.max_length is None
    assert not arguments.packing
    assert arguments.dataset_kwargs == {"skip_prepare_dataset": True}
    assert not arguments.logging_nan_inf_filter
    assert arguments.logging_steps == 1


def test_bfloat16_trains_float32_adapters(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model = build().to(torch.bfloat16)
    knobs, sink = config(max_steps=2), Memory(tmp_path)
    train(model, tokenizer, data(knobs, dtype="bfloat16"), knobs, sink, seed=0)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {torch.bfloat16}
    assert losses(sink)[0] == pytest.approx(6, abs=1)


def test_gradient_checkpointing_changes_no_loss(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    ends = []
    for switch in (False, True):
        knobs, sink = config(max_steps=3, gradient_checkpointing=switch), Memory(tmp_path / str(switch))
        train(build(), tokenizer, data(knobs), knobs, sink, seed=0)
        ends.append(losses(sink))
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)
