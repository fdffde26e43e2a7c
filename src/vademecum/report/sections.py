"""The order and the words of a report: the verdict first, then what it stands on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vademecum.report import sentences, tables
from vademecum.report.document import Block, Cases, Command, Figure, Page, Points, Prose, Section, Statements
from vademecum.report.examples import choose_cases
from vademecum.report.figures import Interval, forest_plot, length_histogram, loss_curve
from vademecum.report.material import ReportMaterial
from vademecum.report.numbers import counted, level, metric

FIELDS = {
    "qtype": "a question type (copy and few-shot look in all of train)",
    "focus": "a focus (the split cannot group by it)",
    "document": "a document (the split cannot group by it)",
    "source": "a source (no slices by it)",
    "cuis": "a concept identifier (the split cannot group by it)",
}


def build_page(report: Mapping[str, Any], material: ReportMaterial, *, public: bool) -> Page:
    """A run's whole report, for either renderer."""
    return Page(
        name=material.name,
        kind="report",
        deck=sentences.deck(report, material),
        sections=tuple(build_sections(report, material, public=public)),
        version=report["run"]["versions"].get("vademecum", ""),
    )


def build_sections(report: Mapping[str, Any], material: ReportMaterial, *, public: bool) -> list[Section]:
    """Every section that this run has something for; `public` leaves out the answers side by side."""
    training = report["training"]
    sections = [
        ("Verdict", _verdict(report)),
        ("Paired differences", _differences(report)),
        ("What was trained on what" if training else "What was compared", _training(report, material)),
        ("Time and memory", _times(report)),
        ("Leakage audit", _leakage(report)),
        ("Supervision audit", _supervision(report)),
        ("Loss", _loss(material) if training else ()),
        ("Decoding", _decoding(report)),
        ("Slices", _slices(report)),
        ("Answers side by side", () if public else _cases(material)),
        ("How to make it again", _provenance(report, material)),
        ("Limits", (Points(sentences.limits(report, material)),)),
    ]
    found = [Section(title, tuple(blocks)) for title, blocks in sections]
    return [section for section in found if section.blocks]


def _verdict(report: Mapping[str, Any]) -> Iterator[Block]:
    if untrained := sentences.why_untrained(report["training"]):
        yield Prose(untrained)
    rows = sentences.statements(report)
    chief, others = (tuple(row for row in rows if row.confirmatory is wanted) for wanted in (True, False))
    if not rows:
        yield Prose("One system only: there is nothing to compare it with.")
    else:
        yield Statements(chief or others)
    yield tables.systems_table(report)
    if chief and others:
        yield Prose("The other comparisons describe; they are not what the run was made to find out.")
        yield Statements(others)


def _differences(report: Mapping[str, Any]) -> Iterator[Block]:
    rows = report["comparisons"]
    if not rows:
        return
    evaluate = report["config"]["evaluate"]
    intervals = [
        Interval(
            panel=f"{row['system']} − {row['baseline']}",
            label=metric(row["metric"]),
            mean=row["difference"]["mean"],
            low=row["difference"]["low"],
            high=row["difference"]["high"],
            verdict=row["verdict"],
        )
        for row in rows
    ]
    yield Prose(
        "System minus baseline on the same pairs. A verdict is better or worse only where p after Holm is below .05, "
        f"the interval leaves out zero and there are {evaluate['min_groups']} groups or more; everything else is not "
        "shown, which is not the same as equal."
    )
    yield Figure(
        forest_plot(intervals, "system minus baseline"),
        f"Paired differences with {level(evaluate['level'])} intervals; right of zero the system scores higher. "
        "Filled: better (circle) or worse (triangle); hollow: not shown.",
    )
    yield tables.comparisons_table(report)
    chief = [row.versus for row in sentences.statements(report) if row.confirmatory]
    family = (
        f"over {' and '.join(chief)} in four scores; the other comparisons describe and form a family of their own"
        if chief
        else "over all of these comparisons"
    )
    yield Prose(
        "Intervals: bootstrap over groups. p: approximate randomisation, swaps by group, two-sided. Holm: "
        f"{family}. Smallest detectable: 2.8 clustered standard errors, which is 80 % power before Holm's correction. "
        f"{evaluate['resamples']:,} resamples."
    )


def _training(report: Mapping[str, Any], material: ReportMaterial) -> Iterator[Block]:
    yield tables.recipe_table(report, material)
    if changes := sentences.changes(report["training"]):
        yield Prose(changes)
    yield tables.counts_table(report, material)
    yield tables.identifiers_table(report)
    missing = report["corpus"]["missing_fields"]
    if missing:
        yield Prose(f"No pair of this corpus has {_listed([FIELDS.get(name, name) for name in missing])}.")
    if remarks := report["corpus"]["remarks"]:
        yield Prose("In the corpus: " + "; ".join(remarks) + ".")


def _times(report: Mapping[str, Any]) -> Iterator[Block]:
    source = "a few throw-away steps before the run" if report["plan"]["measured"] else "this machine's matrix products"
    yield Prose(f"Predicted from {source}; measured by the clock, all sittings together.")
    yield tables.times_table(report)


def _leakage(report: Mapping[str, Any]) -> Iterator[Block]:
    split, missing = report["split"], report["corpus"]["missing_fields"]
    how = {
        "grouped": "pairs that share focus, document, question or a specific concept stay on one side",
        "random": "stratified, pair by pair",
    }[split["strategy"]]
    yield Prose(
        f"The split is {split['strategy']}: {how}; {counted(split['groups'], 'group')} in all. Excluded validation or "
        f"test pairs, because their answer stands in train: {split['counts']['excluded']:,}."
    )
    yield tables.leakage_table(split, missing)
    if "focus" in missing:
        yield Prose("No field says what a pair is about: pairs on one subject may stand in train and in test.")


def _supervision(report: Mapping[str, Any]) -> Iterator[Block]:
    found = report["supervision"]
    if not report["training"]:
        yield Prose("Nothing was trained in this run; these are the rows that training would have had.")
    else:
        yield Prose("Counted on the very rows that were trained on.")
    yield tables.supervision_table(found)
    histogram = found["length_histogram"]
    yield Figure(
        length_histogram(histogram["edges"], histogram["counts"], found["max_length"]),
        f"Rows by length in tokens, prompt and answer together, with the cut at max_length = {found['max_length']:,}: "
        f"{found['cut_answers']:,} answers do not fit whole.",
    )


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _loss(material: ReportMaterial) -> Iterator[Block]:
    rows = material.training_rows
    steps = [(row["step"], row["loss"]) for row in rows if row["step"]]
    if not steps:
        return
    validation = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    if validation:
        yield tables.losses_table(rows)
    svg = loss_curve([step for step, _ in steps], [loss for _, loss in steps], validation)
    yield Figure(
        svg,
        "Loss per trained token. Training: before each optimizer step; faint each step, bold the running mean. "
        "Validation: after the step that it marks; at 0 the untrained model's.",
    )


def _decoding(report: Mapping[str, Any]) -> Iterator[Block]:
    decoding = report["decoding"]["decoding"]
    how = (
        "greedy"
        if not decoding["temperature"]
        else f"temperature {decoding['temperature']:g}, top_p {decoding['top_p']:g}"
    )
    yield Prose(
        f"{how.capitalize()}, at most {decoding['max_new_tokens']} new tokens, the same for every system that writes."
    )
    yield Prose(sentences.repetition_control(report["decoding"]))
    trials = tables.trials_table(report["decoding"])
    if trials:
        yield trials
    yield tables.behaviour_table(report)
    yield Prose(
        "Length ratio: words of all answers over words of all references. Looping: the answer repeats a phrase to its "
        "end, or was stopped because it did."
    )


def _slices(report: Mapping[str, Any]) -> Iterator[Block]:
    found = [rows for rows in report["slices"].values() if rows]
    if found:
        yield Prose("ROUGE-1 by source and by question type. Values with very few pairs are merged as other.")
    for rows in found:
        yield tables.slices_table(rows, list(report["systems"]))


def _cases(material: ReportMaterial) -> Iterator[Block]:
    rows = choose_cases(material)
    if rows:
        yield Prose(
            "Each answer with its ROUGE-1. These are outputs of language models and of retrieval; they can be wrong."
        )
        yield Cases(rows)


def _provenance(report: Mapping[str, Any], material: ReportMaterial) -> Iterator[Block]:
    yield Command(report["run"]["command"])
    yield tables.digests_table(report, material)
    yield tables.versions_table(report["run"]["versions"])
    yield Prose("Signature of the scores; scores are comparable where these lines are equal:")
    yield Command(report["signature"])
