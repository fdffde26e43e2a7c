"""Which answers stand side by side."""

import dataclasses

from vademecum.report import ReportMaterial
from vademecum.report.examples import MOST_WORDS, choose_cases, shorten


def test_two_at_random_then_the_extremes_of_tuned_against_base(material: ReportMaterial) -> None:
    cases = choose_cases(material)
    assert [case.why.split(":")[0] for case in cases] == (
        ["Drawn at random"] * 2 + ["Most improved by tuning"] * 2 + ["Most worsened by tuning"] * 2
    )
    assert len({case.question for case in cases}) == 6
    assert all([answer.system for answer in case.answers] == ["base", "few-shot", "copy", "tuned"] for case in cases)
    improved = [float(case.why.split("+")[1].split()[0]) for case in cases[2:4]]
    assert improved == sorted(improved, reverse=True)


def test_the_draw_goes_by_the_seed_and_not_by_the_order(material: ReportMaterial) -> None:
    turned = {name: list(reversed(rows)) for name, rows in material.scores.items()}
    assert choose_cases(dataclasses.replace(material, scores=turned)) == choose_cases(material)
    other = dataclasses.replace(material, config=material.config.model_copy(update={"seed": 8}))
    assert choose_cases(other)[:2] != choose_cases(material)[:2]


def test_nothing_is_called_improved_that_is_not(material: ReportMaterial) -> None:
    same = dataclasses.replace(material, scores={**material.scores, "tuned": material.scores["base"]})
    assert [case.why for case in choose_cases(same)] == ["Drawn at random"] * 2


def test_without_tuned_only_the_random_ones(untrained: ReportMaterial) -> None:
    assert len(choose_cases(untrained)) == 2


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    assert shorten("word " * (MOST_WORDS + 3)).endswith("… [3 more words]")
    assert shorten("  two\nlines ") == "two\nlines"
