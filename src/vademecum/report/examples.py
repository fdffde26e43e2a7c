"""Which answers are shown side by side: two at random, the two most improved, the two most worsened."""

import hashlib
from collections.abc import Mapping, Sequence

from vademecum.records import Score
from vademecum.report.document import Answer, Case
from vademecum.report.material import ReportMaterial
from vademecum.report.numbers import difference, score

OF_EACH = 2
MOST_WORDS = 160
"""Of a text that is shown; what is left out is counted beside it."""
REMARKS = {"length": "stopped at the longest length allowed", "loop": "stopped because it repeated itself"}


def choose_cases(material: ReportMaterial) -> tuple[Case, ...]:
    """Drawn first, by the run's seed, then the extremes of tuned against base in ROUGE-1 among the others."""
    tables = {system: _rouge1(rows) for system, rows in material.scores.items()}
    names = sorted(set.intersection(*(set(table) for table in tables.values())), key=lambda name: _draw(material, name))
    chosen = dict.fromkeys(names[:OF_EACH], "Drawn at random")
    if {"tuned", "base"} <= tables.keys():
        changes = {name: tables["tuned"][name] - tables["base"][name] for name in names[OF_EACH:]}
        ordered = sorted(changes, key=lambda name: (changes[name], name))
        for extremes, direction in ((ordered[::-1], 1), (ordered, -1)):
            for name in [name for name in extremes if direction * changes[name] > 0][:OF_EACH]:
                word = "improved" if direction > 0 else "worsened"
                chosen[name] = f"Most {word} by tuning: {difference(changes[name])} ROUGE-1 against base"
    return tuple(_case(material, name, why, tables) for name, why in chosen.items())


def _draw(material: ReportMaterial, name: str) -> bytes:
    return hashlib.sha256(f"{material.config.seed}:{name}".encode()).digest()


def _rouge1(rows: Sequence[Score]) -> dict[str, float]:
    return {row.id: row.metrics["rouge1"] for row in rows}


def _case(material: ReportMaterial, name: str, why: str, tables: Mapping[str, Mapping[str, float]]) -> Case:
    answers = []
    for system, rows in material.predictions.items():
        prediction = next(row for row in rows if row.id == name)
        answers.append(
            Answer(
                system=system,
                score=score(tables[system][name]),
                text=shorten(prediction.text) or "(no answer)",
                remark=REMARKS.get(prediction.stopped, ""),
            )
        )
    pair = material.pairs[name]
    return Case(why, shorten(pair.question), shorten(pair.answer), tuple(answers))


def shorten(text: str) -> str:
    """The first MOST_WORDS words, and how many more there are."""
    words = text.split()
    if len(words) <= MOST_WORDS:
        return text.strip()
    return f"{' '.join(words[:MOST_WORDS])} … [{len(words) - MOST_WORDS:,} more words]"
