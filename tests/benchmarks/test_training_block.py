"""The rows that a block trains on."""

from dataclasses import replace
from random import Random
from statistics import fmean

import pytest
from benchmarks.training_block import Block
from benchmarks.workload import Subject, Workload

from vademecum.training import Example


def rows(count: int) -> list[Example]:
    rng = Random(3)
    lengths = [rng.randrange(30, 500) for _ in range(count)]
    return [Example(str(number), [1] * length, [1] * length) for number, length in enumerate(lengths)]


def test_the_paper_s_arm_is_timed_on_the_rows_of_ours() -> None:
    examples = rows(200)
    for seed in range(20):
        ours = Block("grouped", Subject("none", None), Workload("none", [], []), "float32", "cpu", 5, seed, 2, 512)
        trial, paper = ours.trial(examples), replace(ours, arm="paper").trial(examples)
        timed = [row for number in range(1, trial.steps) for part in trial.step(number) for row in part]
        theirs = [row for number in range(1, paper.steps) for part in paper.step(number) for row in part]
        assert trial.steps == 6
        assert theirs == timed
        assert {len(part) for part in paper.micro_batches} == {1}
        assert paper.pad_to == 512


def test_the_rows_of_a_round_are_as_long_as_all_are() -> None:
    examples = rows(400)
    mean = fmean(one.length for one in examples)
    for seed in range(20):
        block = Block("grouped", Subject("none", None), Workload("none", [], []), "float32", "cpu", 2, seed, 2, 512)
        timed = block.timed_rows(examples)
        assert len(timed) % 8 == 0
        assert fmean(examples[row].length for row in timed) == pytest.approx(mean, rel=0.05)


def test_another_round_draws_other_rows() -> None:
    examples = rows(200)
    block = Block("grouped", Subject("none", None), Workload("none", [], []), "float32", "cpu", 5, 0, 2, 512)
    assert block.timed_rows(examples) == block.timed_rows(examples)
    assert block.timed_rows(examples) != replace(block, seed=1).timed_rows(examples)
