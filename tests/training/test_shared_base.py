"""Trainings that share a base come to what they come to alone, and know nothing of one another."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies
from tests.training.tiny import Memory, config, data, examples
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from vademecum.config import LoraConfig, ModelConfig, TrainConfig
from vademecum.errors import ConfigError, InputError, RunError, StoppedError
from vademecum.models import attach_adapter
from vademecum.stopping import Stop
from vademecum.training.batching import lay_out
from vademecum.training.engine import UNTRAINED
from vademecum.training.fused import lora_linear
from vademecum.training.protocol import TrainingSummary
from vademecum.training.shared_base import Member, SharedAdapters, Sharing, can_share, share_out, train_together
from vademecum.training.shared_layers import shared_linear
from vademecum.training.supervision import Example
from vademecum.training.trainer import train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft 0.21 reads a property that transformers 5.23 renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

LORA = LoraConfig(r=4, lora_alpha=8)
SHARING = Sharing(save_rounds=3, host_slots=100)
TOGETHER = Sharing(save_rounds=1000, host_slots=100_000)
Base = Callable[[], Any]
Weights = dict[str, torch.Tensor]


@pytest.fixture
def base(tiny_checkpoint: Path) -> Base:
    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)

    return load


def member(sink: Memory, seed: int, rows: list[Example] | None = None, **settings: Any) -> Member:
    knobs, rows = config(**{"max_steps": 4, **settings}), rows or examples(40)
    layout = lay_out([row.length for row in rows], knobs, seed=seed)
    given = data(knobs, rows, layout=layout, validation=examples(5, seed=9), eval_steps=3)
    return Member(knobs, given, seed, sink)


def adapter(model: Any) -> Weights:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_" in name}


def alone(base: Any, one: Member, tokenizer: Any, folder: Path) -> tuple[Memory, TrainingSummary, Weights, Weights]:
    """Rows, summary, and the adapter before and after."""
    model, sink = attach_adapter(base, LORA, one.seed), Memory(folder)
    before = adapter(model)
    summary = train(model, tokenizer, one.data, one.config, sink, one.seed)
    return sink, summary, before, adapter(model)


def together(
    base: Any, members: Sequence[Member], folder: Path, sharing: Sharing = SHARING
) -> tuple[list[TrainingSummary], list[Weights]]:
    adapters = SharedAdapters(base, LORA, [one.seed for one in members])
    summaries = train_together(adapters, members, folder, sharing)
    return summaries, [adapter(adapters.put_in(number)) for number in range(len(members))]


def distance(found: Weights, expected: Weights, start: Weights) -> float:
    """Norm of the difference over the norm of the update."""

    def norm(one: Weights, other: Weights) -> float:
        return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))

    return norm(found, expected) / norm(expected, start)


MIXED: list[dict[str, Any]] = [
    {"max_steps": 20},
    {"max_steps": 20, "optim": "adafactor", "learning_rate": 5e-3, "lr_scheduler_type": "cosine", "warmup_steps": 5},
    {"max_steps": 20, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "weight_decay": 0.1},
    {"max_steps": 12, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4, "max_grad_norm": 0.05},
    {"max_steps": 20, "batching": "padded", "gradient_accumulation_steps": 1, "max_grad_norm": 0.0},
    {"max_steps": 9, "optim": "sgd", "learning_rate": 0.5},
]


@pytest.mark.parametrize("sharing", [SHARING, TOGETHER], ids=["like with like", "all in one pass"])
def test_every_member_comes_to_what_it_comes_to_alone(
    base: Base, tokenizer: Any, tmp_path: Path, sharing: Sharing
) -> None:
    members = [
        member(Memory(tmp_path), seed, examples(30, seed=8) if seed == 2 else None, **settings)
        for seed, settings in enumerate(MIXED)
    ]
    summaries, ends = together(base(), members, tmp_path / "together", sharing)
    for number, one in enumerate(members):
        sink, expected, start, end = alone(base(), one, tokenizer, tmp_path / str(number))
        found = one.sink
        assert isinstance(found, Memory)
        assert [list(row) for row in found.rows] == [list(row) for row in sink.rows]
        for row, other in zip(found.rows, sink.rows, strict=True):
            exact = ("step", "learning_rate", "real_tokens", "slots", "examples") if row["step"] else UNTRAINED
            assert [row[name] for name in exact] == [other[name] for name in exact]
            if row["step"]:
                assert row["loss"] == pytest.approx(other["loss"], abs=1e-4)
                assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
            if "validation_loss" in row:
                assert row["validation_loss"] == pytest.approx(other["validation_loss"], abs=1e-4)
        assert distance(ends[number], end, start) < 1e-3
        assert [row["step"] for row in found.times] == [row["step"] for row in sink.times]
        figures = ("optimizer_steps", "real_tokens", "slots", "status", "remark")
        assert [getattr(summaries[number], name) for name in figures] == [getattr(expected, name) for name in figures]
        assert summaries[number].final_loss == pytest.approx(expected.final_loss, abs=1e-4)
        assert summaries[number].validation_loss == pytest.approx(expected.validation_loss, abs=1e-4)


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adagrad", "rmsprop"])
def test_other_optimizers(base: Base, tokenizer: Any, tmp_path: Path, optim: str) -> None:
    members = [member(Memory(tmp_path), seed, optim=optim, learning_rate=1e-3 * (seed + 1)) for seed in range(2)]
    _, ends = together(base(), members, tmp_path / "together", TOGETHER)
    for number, one in enumerate(members):
        _, _, start, end = alone(base(), one, tokenizer, tmp_path / str(number))
        assert distance(ends[number], end, start) < 1e-3


def test_a_bfloat16_base_is_shared_by_float32_adapters(base: Base, tokenizer: Any, tmp_path: Path) -> None:
    members = [member(Memory(tmp_path), seed, learning_rate=1e-2) for seed in range(3)]
    members = [replace(one, data=replace(one.data, dtype="bfloat16")) for one in members]
    _, ends = together(base().to(torch.bfloat16), members, tmp_path / "together", TOGETHER)
    for number, one in enumerate(members):
        sink, _, start, end = alone(base().to(torch.bfloat16), one, tokenizer, tmp_path / str(number))
        assert isinstance(one.sink, Memory)
        assert [row["loss"] for row in one.sink.steps] == pytest.approx([row["loss"] for row in sink.steps], rel=2e-2)
        assert {weight.dtype for weight in ends[number].values()} == {torch.float32}
        assert distance(ends[number], end, start) < 0.3


def test_the_rows_of_one_member_change_no_other(base: Base, tmp_path: Path) -> None:
    ends: list[list[Weights]] = []
    sinks: list[list[Memory]] = []
    rows = examples(40)
    others = [
        replace(row, input_ids=row.input_ids[::-1], labels=[*row.labels[:1], *row.input_ids[-2::-1]]) for row in rows
    ]
    for of_first in (rows, others):
        sinks.append([Memory(tmp_path) for _ in range(3)])
        members = [member(sink, 5, of_first if not n else rows, learning_rate=0.01) for n, sink in enumerate(sinks[-1])]
        ends.append(together(base(), members, tmp_path / str(len(ends)), TOGETHER)[1])
    assert sinks[0][0].rows != sinks[1][0].rows
    for number in (1, 2):
        assert sinks[0][number].rows == sinks[1][number].rows
        assert all(torch.equal(weight, ends[1][number][name]) for name, weight in ends[0][number].items())


@pytest.mark.parametrize("rate", [1e30, 1e8])
def test_a_member_that_diverges_leaves_the_others_alone(
    base: Base, tokenizer: Any, tmp_path: Path, rate: float
) -> None:
    """At 1e30 weights overflow in one step; at 1e8 it is the gradient, or the loss, some steps later."""
    members = [member(Memory(tmp_path), seed, max_steps=6) for seed in range(3)]
    wild = replace(members[1], config=config(max_steps=6, learning_rate=rate, optim="sgd", max_grad_norm=0.0))
    summaries, ends = together(base(), [members[0], wild, members[2]], tmp_path / "together", TOGETHER)
    sink, expected, _, _ = alone(base(), wild, tokenizer, tmp_path / "wild")
    assert isinstance(wild.sink, Memory)
    assert [one.status for one in summaries] == ["completed", "diverged", "completed"]
    assert (summaries[1].remark, summaries[1].optimizer_steps) == (expected.remark, expected.optimizer_steps)
    assert [row["step"] for row in wild.sink.rows] == [row["step"] for row in sink.rows]
    for number in (0, 2):
        _, _, start, end = alone(base(), members[number], tokenizer, tmp_path / str(number))
        assert distance(ends[number], end, start) < 1e-3


class Countdown(Stop):
    """Asks to stop the n-th time that somebody looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def asked(self) -> str | None:
        self.looks -= 1
        return "enough" if self.looks < 0 else None


def three(folder: Path) -> tuple[list[Memory], list[Member]]:
    """One ends early, and one diverges; their steps do not begin at the same time."""
    sinks = [Memory(folder) for _ in range(4)]
    return sinks, [
        member(sinks[0], 0, max_steps=5),
        member(sinks[1], 1, max_steps=5, per_device_train_batch_size=2, gradient_accumulation_steps=3),
        member(sinks[2], 2, optim="adafactor", max_steps=3),
        member(sinks[3], 3, optim="sgd", learning_rate=1e30, max_grad_norm=0.0),
    ]


@pytest.mark.parametrize(("looks", "break_after"), [(0, None), (1, None), (4, None), (13, None), (None, 2), (None, 4)])
def test_broken_off_and_resumed_equals_uninterrupted(
    base: Base, tmp_path: Path, looks: int | None, break_after: int | None
) -> None:
    kept, members = three(tmp_path)
    expected, whole = together(base(), members, tmp_path / "whole")
    broken, members = three(tmp_path)
    if looks is not None:
        broken[3].stop = Countdown(looks)
    broken[1].break_after = break_after
    with pytest.raises((StoppedError, KeyboardInterrupt)):
        together(base(), members, tmp_path / "broken")
    broken[3].stop, broken[1].break_after = Stop(), None
    found, resumed = together(base(), members, tmp_path / "broken")

    assert [sink.rows for sink in broken] == [sink.rows for sink in kept]
    assert [sink.said for sink in broken] == [[]] * 4
    for one, other in zip(whole[:3], resumed[:3], strict=True):
        assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    timeless = {"seconds", "real_tokens_per_second"}
    assert [one.model_dump(exclude=timeless) for one in found] == [one.model_dump(exclude=timeless) for one in expected]
    assert len(list((tmp_path / "broken").glob("checkpoint-*"))) == 2


@pytest.mark.parametrize("left", [(0, 1), (2,), (3, 0)])
def test_the_members_that_are_left_go_on_from_where_all_were(base: Base, tmp_path: Path, left: tuple[int, ...]) -> None:
    kept, members = three(tmp_path)
    together(base(), members, tmp_path / "whole")
    broken, members = three(tmp_path)
    broken[3].stop = Countdown(4)
    with pytest.raises(StoppedError):
        together(base(), members, tmp_path / "broken")
    broken[3].stop = Stop()
    times = [list(broken[number].times) for number in left]
    assert all(times)
    together(base(), [members[number] for number in left], tmp_path / "broken")
    for number, before in zip(left, times, strict=True):
        assert broken[number].times[: len(before)] == before  # these steps were not done again
        losses, again = ([row["loss"] for row in one[number].rows if row["step"]] for one in (kept, broken))
        assert again == pytest.approx(losses, abs=1e-4)


def test_members_that_are_alike_do_not_come_into_one_another_s_way(base: Base, tmp_path: Path) -> None:
    whole, broken = ([Memory(tmp_path) for _ in range(2)] for _ in range(2))
    together(base(), [member(sink, 0) for sink in whole], tmp_path / "whole")
    members = [member(sink, 0) for sink in broken]
    broken[0].stop = Countdown(4)
    with pytest.raises(StoppedError):
        together(base(), members, tmp_path / "broken")
    broken[0].stop = Stop()
    together(base(), members, tmp_path / "broken")
    assert [sink.rows for sink in broken] == [sink.rows for sink in whole]


def test_finished_members_are_not_trained_again(base: Base, tmp_path: Path) -> None:
    _, members = three(tmp_path)
    _, ends = together(base(), members, tmp_path / "together")
    for one in members:
        assert isinstance(one.sink, Memory)
        one.sink.break_after = 1
    _, again = together(base(), members, tmp_path / "together")
    assert all(torch.equal(weight, again[0][name]) for name, weight in ends[0].items())


def test_a_checkpoint_of_other_members_is_not_gone_on_from(base: Base, tmp_path: Path) -> None:
    first = member(Memory(tmp_path), 0)
    together(base(), [first], tmp_path / "together")
    with pytest.raises(RunError, match="of other trainings"):
        together(base(), [member(Memory(tmp_path), 0, learning_rate=1e-4)], tmp_path / "together")


def test_the_layer_is_that_of_each_adapter_alone() -> None:
    torch.manual_seed(0)
    bare = torch.nn.Linear(5, 4).double().requires_grad_(False)

    class Stub:
        base_layer, scaling = bare, {"default": 1.7}

    class Layer:
        layer = Stub
        a, b = torch.randn(4, 2, 5, dtype=torch.float64), torch.randn(4, 4, 2, dtype=torch.float64)
        grad_a, grad_b = torch.ones_like(a), torch.ones_like(b)  # of an earlier micro-batch

    x = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    members = [2, 0, 3]
    out = shared_linear()(x, torch.zeros((), requires_grad=True), Layer, torch.tensor(members))
    torch.autograd.backward(out.pow(2).sum())
    for place, number in enumerate(members):
        rows = x.detach()[2 * place : 2 * place + 2].requires_grad_()
        a, b = (stack[number].clone().requires_grad_() for stack in (Layer.a, Layer.b))
        expected = lora_linear()(rows, bare.weight, bare.bias, a, b, 1.7)
        torch.autograd.backward(expected.pow(2).sum())
        assert x.grad is not None
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(out[2 * place : 2 * place + 2], expected)
        torch.testing.assert_close(x.grad[2 * place : 2 * place + 2], rows.grad)
        torch.testing.assert_close(Layer.grad_a[number], a.grad + 1)
        torch.testing.assert_close(Layer.grad_b[number], b.grad + 1)
    assert torch.equal(Layer.grad_a[1], torch.ones(2, 5))


SHAPES = strategies.lists(
    strategies.tuples(strategies.integers(1, 8), strategies.integers(1, 64)), min_size=1, max_size=8
)


@for_all(SHAPES, strategies.integers(0, 500), strategies.none() | strategies.integers(1, 2000))
def test_sharing_out_is_never_dearer_than_one_after_another(
    shapes: list[tuple[int, int]], host_slots: int, most_slots: int | None
) -> None:
    passes = share_out(shapes, host_slots, most_slots)
    assert sorted(number for one in passes for number in one) == list(range(len(shapes)))

    def slots(group: list[int]) -> int:
        rows = max(shapes[number][0] for number in group)
        return len(group) * rows * max(shapes[number][1] for number in group)

    alone = sum(rows * width + host_slots for rows, width in shapes)
    assert sum(slots(group) + host_slots for group in passes) <= alone
    assert most_slots is None or all(slots(group) <= most_slots for group in passes if len(group) > 1)


def test_like_micro_batches_go_together_and_unlike_ones_apart() -> None:
    assert share_out([(4, 32)] * 3, host_slots=0) == [[0, 1, 2]]
    assert share_out([(8, 16), (1, 512), (8, 16), (1, 500)], host_slots=100) == [[0, 2], [1, 3]]
    assert share_out([(8, 16), (1, 512), (8, 16), (1, 500)], host_slots=100_000) == [[0, 1, 2, 3]]
    assert share_out([(4, 32)] * 3, host_slots=100, most_slots=256) in ([[0, 1], [2]], [[0], [1, 2]])


def sections(**changed: Any) -> tuple[ModelConfig, LoraConfig, TrainConfig]:
    model = {key: value for key, value in changed.items() if key in ModelConfig.model_fields}
    lora = {key: value for key, value in changed.items() if key in LoraConfig.model_fields}
    rest = {key: value for key, value in changed.items() if key in TrainConfig.model_fields}
    return ModelConfig(**model), LoraConfig(**lora), config(**rest)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({}, {"optim": "adafactor", "learning_rate": 1e-2, "warmup_steps": 3, "max_grad_norm": 0.0}, None),
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "max_steps": 3, "gradient_accumulation_steps": 8}, None),
        ({"lora_dropout": 0.1}, {"lora_dropout": 0.1}, "lora.lora_dropout is 0.1: what is dropped"),
        ({}, {"r": 16}, "shapes of their adapters differ"),
        ({}, {"name": "another"}, "base models"),
        ({"quantization": "nf4"}, {"quantization": "nf4"}, "only unquantized weights"),
        ({"dtype": "float16"}, {"dtype": "float16"}, "scales the loss"),
        ({}, {"optim": "lomo"}, "train.optim is 'lomo'"),
        ({}, {"batching": "packed"}, "'packed'"),
        ({}, {"gradient_checkpointing": True}, "gradient_checkpointing is on"),
        ({"report_to": ("wandb",)}, {}, "'wandb', which follows one training"),
    ],
)
def test_what_can_share(first: dict[str, Any], second: dict[str, Any], reason: str | None) -> None:
    (model, lora, train_one), (other, other_lora, train_other) = sections(**first), sections(**second)
    found = can_share([model, other], [lora, other_lora], [train_one, train_other])
    assert found is None if reason is None else found is not None and reason in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: replace(one, config=config(optim="lomo")), "cannot train together: train.optim"),
        (lambda one: replace(one, seed=7), "other seeds"),
        (lambda one: replace(one, data=replace(one.data, dtype="bfloat16")), "different machines"),
        (lambda one: replace(one, data=replace(one.data, time_limit_seconds=9.0)), "does not change its course"),
    ],
)
def test_members_that_do_not_fit(base: Base, tmp_path: Path, change: Callable[[Member], Member], message: str) -> None:
    members = [member(Memory(tmp_path), seed) for seed in range(2)]
    adapters = SharedAdapters(base(), LORA, [0, 1])
    with pytest.raises(InputError, match=message):
        train_together(adapters, [members[0], change(members[1])], tmp_path, SHARING)


def test_bases_that_cannot_be_shared(base: Base) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    dropping = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=32, attention_dropout=0.1))
    for model, lora, reason in [
        (dropping, LORA, "dropout of its own"),
        (base().half(), LORA, "float16"),
        (base(), LoraConfig(lora_dropout=0.1), "without dropout"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            SharedAdapters(model, lora, [0])


def test_the_model_is_as_before_afterwards(base: Base, tmp_path: Path) -> None:
    model = base()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    members = [member(Memory(tmp_path), seed, max_steps=1) for seed in range(2)]
    adapters = SharedAdapters(model, LORA, [0, 1])
    train_together(adapters, members, tmp_path / "together", SHARING)
    assert all("forward" not in vars(module) for module in adapters.model.modules())
    plain = adapters.model.unload()
    assert all(torch.equal(weight, before[name]) for name, weight in plain.named_parameters())
