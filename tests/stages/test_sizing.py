"""Where nothing fits, what would: predicted like the rest, and true to the byte."""

import re
from dataclasses import replace

import pytest

from vademecum.config import RunConfig, load_config
from vademecum.errors import ConfigError
from vademecum.generation import Prompt
from vademecum.models import BaseModelFiles
from vademecum.planning import AnsweringShape, MemoryLimit, Quantization, Settings
from vademecum.planning.choice import MEMORY_MARGIN
from vademecum.stages import sizing
from vademecum.stages.material import Base
from vademecum.stages.sizing import Situation, _choose_answering, _Predictor
from vademecum.training import Example

ROW_TOKENS = 200
HELD: tuple[Quantization, ...] = ("none", "nf4")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> _Predictor:
    """Of a base whose linear layers weigh more than its activations; only its configuration is there."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("config")
    LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, tie_word_embeddings=True,
    ).save_pretrained(folder)  # fmt: skip
    ids = [3] * ROW_TOKENS
    situation = Situation(
        config=config(),
        base=Base(BaseModelFiles(folder, "made up", "this test", digest=""), tokenizer=None),
        train_pairs=8,
        examples=[Example(str(number), ids, ids) for number in range(8)],
        validation=[],
        prompts={},
    )
    return _Predictor(situation, "cpu", "float32", process_bytes=0)


def config() -> RunConfig:
    return load_config("demo", [f"train.max_length={ROW_TOKENS}"])


def least(predictor: _Predictor, quantization: str, max_length: int) -> int:
    """Bytes of one row at a time with checkpointing."""
    settings = Settings(
        quantization=quantization,  # type: ignore[arg-type]
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        gradient_checkpointing=True,
        compact=predictor.can_be_compact,
    )
    train = predictor.situation.config.train.model_copy(update={"max_length": max_length})
    return predictor.training_bytes(settings, train)


def just_enough(needed: int) -> int:
    return round(needed * (1 + MEMORY_MARGIN)) + 1


def test_one_row_at_a_time_is_named_first(predictor: _Predictor) -> None:
    needed = least(predictor, "none", ROW_TOKENS)
    said = predictor.nearest(just_enough(needed))
    assert said == f"one example per micro-batch with gradient checkpointing would take {needed / 1e9:.2f} GB"


def test_four_bits_are_named_where_whole_weights_do_not_fit(predictor: _Predictor) -> None:
    needed = least(predictor, "nf4", ROW_TOKENS)
    assert just_enough(needed) < least(predictor, "none", ROW_TOKENS)
    assert predictor.nearest(just_enough(needed)) == f"model.quantization = 'nf4' would take {needed / 1e9:.2f} GB"


def test_shorter_rows_are_named_last(predictor: _Predictor) -> None:
    half = ROW_TOKENS // 2
    needed = least(predictor, "nf4", half)
    assert just_enough(needed) < min(least(predictor, "nf4", ROW_TOKENS), least(predictor, "none", half))
    said = predictor.nearest(just_enough(needed))
    assert said == f"model.quantization = 'nf4' and train.max_length = {half} would take {needed / 1e9:.2f} GB"


def test_the_longest_rows_that_fit_are_named(predictor: _Predictor) -> None:
    quarter = ROW_TOKENS // 4
    needed = least(predictor, "nf4", quarter)
    assert just_enough(needed) < least(predictor, "nf4", ROW_TOKENS // 2)
    assert f"and train.max_length = {quarter} would take" in predictor.nearest(just_enough(needed))


def test_where_nothing_of_this_helps_a_smaller_base_is_named_and_how_small(predictor: _Predictor) -> None:
    needed = least(predictor, "nf4", ROW_TOKENS // 4)
    said = predictor.nearest(just_enough(needed // 2))
    assert re.match(r"take a smaller base model, of some (49|50|51)% of this one's size", said)
    crowded = replace(predictor, process_bytes=10**9)
    assert crowded.nearest(9 * 10**8).startswith("Python and its libraries alone take 1.00 GB")


def answering(predictor: _Predictor, asked: str) -> _Predictor:
    """With prompts to be answered, four at a time at most."""
    situation = replace(
        predictor.situation,
        config=load_config("demo", ["generate.batch_size=none", f"generate.quantization={asked}"]),
        prompts={"base": [Prompt(str(number), [3] * 50) for number in range(4)]},
    )
    return replace(predictor, situation=situation)


def test_answers_are_written_with_four_bits_only_where_whole_weights_do_not_fit(predictor: _Predictor) -> None:
    asked = answering(predictor, "auto")
    whole, quantized = (asked.answering_bytes(shape_of(asked, 1, held)) for held in HELD)
    assert quantized < whole
    rows, shape = _choose_answering(asked, MemoryLimit(just_enough(whole), "as told"), "none")
    assert (rows, shape and shape.quantization) == (1, "none")  # one at a time rather than with coarser weights
    rows, shape = _choose_answering(asked, MemoryLimit(just_enough(quantized), "as told"), "none")
    assert (rows, shape and shape.quantization) == (1, "nf4")
    _, shape = _choose_answering(asked, MemoryLimit(whole - 1, "as told"), "int8")
    assert shape
    assert shape.quantization == "int8"  # as it is trained


def test_answers_are_not_planned_with_four_bits_where_nothing_computes_with_them(
    predictor: _Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "can_quantize", lambda: False)
    asked = answering(predictor, "auto")
    whole = asked.answering_bytes(shape_of(asked, 1, "none"))
    with pytest.raises(ConfigError) as caught:
        _choose_answering(asked, MemoryLimit(whole - 1, "as told"), "none")
    assert "with bitsandbytes" in caught.value.hint


def test_weights_that_are_asked_for_are_never_exchanged(predictor: _Predictor) -> None:
    asked = answering(predictor, "none")
    whole = asked.answering_bytes(shape_of(asked, 1, "none"))
    with pytest.raises(ConfigError, match=r"more than .* GB \(as told\)") as caught:
        _choose_answering(asked, MemoryLimit(whole - 1, "as told"), "nf4")
    assert "generate.quantization" in caught.value.hint


def shape_of(predictor: _Predictor, rows: int, quantization: Quantization) -> AnsweringShape:
    shape = predictor.answering_shape(rows, quantization)
    assert shape
    return shape
