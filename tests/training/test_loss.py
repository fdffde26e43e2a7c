"""The loss against the model's own, and what it must not depend on."""

import pytest
import torch
from tests.training.tiny import PAD, Build, examples

from vademecum.training.batching import collate, collate_packed
from vademecum.training.loss import example_losses, per_token, summed_loss, trained_tokens

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft 0.21 reads a property that transformers 5.23 renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


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


def test_the_loss_does_not_depend_on_how_peft_calls_the_model(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 0.21 it calls `forward`, and hooks hear nothing."""
    from peft.tuners.tuners_utils import BaseTuner

    model, batch = build(warm=True), collate(examples(5), PAD)
    expected = summed_loss(model, batch).item()

    def older(tuner: BaseTuner, *args: object, **kwargs: object) -> object:
        return tuner.model.forward(*args, **kwargs)

    monkeypatch.setattr(BaseTuner, "forward", older)
    assert summed_loss(model, batch).item() == expected
    assert "forward" not in vars(model.get_base_model())


def test_a_row_loses_the_same_whatever_it_is_padded_to(build: Build) -> None:
    model, rows = build(warm=True), examples(6)
    alone = sum(summed_loss(model, collate([row], PAD)).item() for row in rows)
    assert summed_loss(model, collate(rows, PAD, pad_to=32)).item() == pytest.approx(alone, rel=1e-5)


def test_packed_examples_do_not_see_one_another(build: Build) -> None:
    model, rows = build(warm=True), examples(6)
    alone = sum(summed_loss(model, collate([row], PAD)).item() for row in rows)
    assert summed_loss(model, collate_packed(rows, PAD)).item() == pytest.approx(alone, rel=1e-5)


def test_the_loss_of_each_row_is_its_own_and_the_mode_is_left(build: Build) -> None:
    model, rows = build(warm=True, dropout=0.5), examples(7)
    model.eval()
    alone = {row.id: summed_loss(model, collate([row], PAD)).item() for row in rows}
    tokens = {row.id: trained_tokens(collate([row], PAD)["labels"]) for row in rows}
    model.train()
    for order in (rows, rows[::-1]):
        found = example_losses(model, order, PAD, most_tokens=70)
        assert {one.id: one.nats for one in found} == pytest.approx(alone, rel=1e-5)
        assert {one.id: one.tokens for one in found} == tokens
        assert per_token(found) == pytest.approx(sum(alone.values()) / sum(tokens.values()), rel=1e-5)
    assert model.training
