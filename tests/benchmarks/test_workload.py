"""What benchmarks work on: rows without text, and the operations that are counted for them."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks.workload import Subject, Workload, count_trained, find_workload, token_counts
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import workload
from vademecum.config import LoraConfig
from vademecum.config.sections import TrainConfig
from vademecum.models import attach_adapter
from vademecum.planning import Shape
from vademecum.testing import tiny_pairs

LAYERS, WIDTH, LENGTH = 2, 64, 32


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A random Llama with narrow layers."""
    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 500,
        "tie_word_embeddings": True,
    }
    monkeypatch.setitem(workload.SHAPES, "narrow", shape)
    return Subject("narrow", None)


def test_counted_operations_are_those_that_pytorch_does(narrow: Subject) -> None:
    model = attach_adapter(narrow.load("float32", "cpu"), LoraConfig(), seed=0)
    shape = Shape.of(model)
    row = torch.randint(10, 500, (1, LENGTH))
    model.set_attn_implementation("eager")  # PyTorch does not count inside the fused kernel
    with FlopCounterMode(display=False) as counter:
        model(input_ids=row, labels=row).loss.backward()
    # Eager attention multiplies with what stands to the right of a token too, to mask it: twice the work.
    masked = 6 * LAYERS * WIDTH * LENGTH * LENGTH
    # The first layer's queries, keys and values hand no gradient further down, nor do their adapters.
    spared = 2 * LENGTH * (WIDTH * (WIDTH + 32 + 32) + 3 * WIDTH * LoraConfig().r)
    assert shape.training_flops(LENGTH, LENGTH) == counter.get_total_flops() - masked + spared


def test_weights_are_counted_where_they_belong(narrow: Subject) -> None:
    shape = Shape.of(attach_adapter(narrow.load("float32", "cpu"), LoraConfig(r=2), seed=0))
    per_layer = WIDTH * (WIDTH + 32 + 32 + WIDTH) + 3 * WIDTH * 128
    assert shape.linear_parameters == LAYERS * per_layer
    assert shape.head_parameters == 500 * WIDTH
    assert shape.attention_width == WIDTH
    ins_and_outs = 2 * (WIDTH + WIDTH) + 2 * (WIDTH + 32) + 3 * (WIDTH + 128)
    assert shape.adapter_parameters == LAYERS * 2 * ins_and_outs


def test_a_random_model_gets_rows_of_medquads_lengths(narrow: Subject) -> None:
    found = find_workload(narrow, longest=200)
    config = TrainConfig(max_length=128)
    examples = found.examples(narrow, config)
    assert 200 < len(examples) == len(found.lengths) < 2000
    for example, (prompt, answer) in zip(examples, found.lengths, strict=True):
        assert example.length == min(prompt + answer, 128)
        assert count_trained(example.labels) == max(0, example.length - prompt)
    rows = found.trl_rows(narrow, [5, 5, 7])
    assert [len(row["input_ids"]) for row in rows] == [sum(found.lengths[number]) for number in (5, 5, 7)]
    assert [len(ids) for ids in found.prompts(narrow)] == [prompt for prompt, _ in found.lengths]


def test_text_has_the_lengths_that_it_is_trained_in(tiny_checkpoint: Path) -> None:
    subject, pairs = Subject("tiny", tiny_checkpoint), tiny_pairs(6)
    rows = Workload("pairs", pairs, token_counts(pairs, subject.tokenizer))
    assert [row.length for row in rows.examples(subject, TrainConfig())] == [sum(counts) for counts in rows.lengths]
    assert [row["completion"][0]["content"] for row in rows.trl_rows(subject, [4])] == [pairs[4].answer]


def test_the_committed_lengths_hold_no_text() -> None:
    found = json.loads(workload.LENGTHS.read_text(encoding="utf-8"))
    assert set(found) == {"made_by", "what", "tokenizer", "rows"}
    assert len(found["rows"]) == workload.ROWS
    assert all(type(count) is int and count > 0 for row in found["rows"] for count in row)
