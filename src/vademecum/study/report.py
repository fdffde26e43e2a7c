"""A study on paper: the claims with their verdicts first, then what they stand on, as Markdown and as one HTML file."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from vademecum.records import Verdict
from vademecum.report import html, markdown, numbers
from vademecum.report.document import Block, Command, Figure, Page, Points, Prose, Section, Statement, Statements, Table
from vademecum.report.figures import Interval, forest_plot
from vademecum.study import tables
from vademecum.study.analysis import LevelEffects, StudyAnalysis
from vademecum.study.claims import FEWEST_SEEN
from vademecum.study.declaration import Factor, StudyConfig
from vademecum.study.effects import VALIDATION_LOSS
from vademecum.study.figures import Line, Spot, cost_against_quality, find_frontier, loss_curves
from vademecum.study.records import BASELINE
from vademecum.study.words import called, metric_name

QUALITY = "rougeL"
"""The metric that is drawn; all of them stand in the tables."""
LETTER_PIXELS = 7.2
"""Width of a letter of a row's label."""


@dataclass(frozen=True)
class StudyMaterial:
    """What a report says besides the analysis."""

    name: str
    config: StudyConfig
    base: str
    """The base model in words."""
    corpus: str
    """The corpus in words, no path."""
    train_pairs: int | None
    """In the fixed subset that every trial trains on; None: all."""
    device: str
    """What it was computed on, in words."""
    versions: Mapping[str, str]
    command: str
    """What to type to make the study again."""
    remarks: tuple[str, ...] = ()
    """What else was decided on the way, such as warmup counts kept in proportion; one sentence each."""
    late_seeds: tuple[str, ...] = ()
    """Trials that were added to a variant after it had been judged: `baseline, seed 5`."""


def render_study_markdown(analysis: StudyAnalysis, material: StudyMaterial) -> str:
    """The whole report; it holds no text of the corpus."""
    return markdown.render_page(_page(analysis, material))


def render_study_html(analysis: StudyAnalysis, material: StudyMaterial) -> str:
    """One file that needs nothing else; it holds no text of the corpus."""
    return html.render_page(_page(analysis, material))


def _page(analysis: StudyAnalysis, material: StudyMaterial) -> Page:
    sections = [
        ("Claims", _claims(analysis)),
        ("Effects per factor", _effects(analysis)),
        ("Noise floor", _noise(analysis)),
        ("Cost against quality", _costs(analysis)),
        ("Trials", _trials(analysis)),
        ("How it was done", _design(analysis, material)),
        ("Limits", (Points(_limits(analysis, material)),)),
    ]
    found = [Section(title, tuple(blocks)) for title, blocks in sections]
    return Page(
        name=material.name,
        kind="study",
        deck=_deck(analysis, material),
        sections=tuple(section for section in found if section.blocks),
        version=material.versions.get("vademecum", ""),
    )


def _deck(analysis: StudyAnalysis, material: StudyMaterial) -> str:
    trials, variants = len(analysis.trials), len({trial.variant for trial in analysis.trials})
    counts = Counter(claim.verdict for claim in analysis.claims)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    found = f" Of {numbers.counted(len(analysis.claims), 'claim')}: {verdicts}." if counts else ""
    left = f" {numbers.counted(len(analysis.missing), 'declared trial')} not run yet." if analysis.missing else ""
    return (
        f"{material.base}, adapted with LoRA on {material.corpus}: {numbers.counted(trials, 'trial')} of "
        f"{numbers.counted(variants, 'variant')}.{found}{left}"
    )


def _claims(analysis: StudyAnalysis) -> Iterator[Block]:
    if not analysis.claims:
        yield Prose("The study declares no claim: all that follows describes.")
        return
    yield Statements(tuple(Statement(row.verdict, row.name, row.reason, confirmatory=True) for row in analysis.claims))
    yield tables.claims_table(analysis.claims)
    yield Prose(
        "Reproduced: p after Holm is below .05 and the interval lies on the claimed side of zero; contradicted: on the "
        "other side. No real difference: the 90 % interval lies within the margin. Everything else is not shown, which "
        "is not the same as equal. The intervals include the variance between training seeds. That a variant diverges "
        "is reproduced where all of its trials did, and contradicted where none did. Where one side of a comparison "
        "has no scores because all of its trials diverged, and all of the other's completed, that decides. Either "
        f"takes {FEWEST_SEEN} trials of each variant that it is about; neither has a p. No verdict is given before all "
        "declared trials of what it is about have ended, and on a comparison those of the baseline too."
    )


def _effects(analysis: StudyAnalysis) -> Iterator[Block]:
    drawn = [effect for row in analysis.factors for effect in row.effects.values()]
    if drawn:
        yield Prose("Each level alone against the baseline. These effects describe; the claims alone are tested.")
        yield tables.effects_table(analysis.factors, drawn[0].level)
        yield from _forest(analysis, QUALITY)
        yield from _forest(analysis, VALIDATION_LOSS)
    for factor in dict.fromkeys(row.factor for row in analysis.factors):
        yield from _losses(factor, analysis)


def _forest(analysis: StudyAnalysis, metric: str) -> Iterator[Block]:
    rows = [
        Interval(
            panel=row.factor,
            label=row.level,
            mean=row.effects[metric].difference,
            low=row.effects[metric].low,
            high=row.effects[metric].high,
            verdict=_mark(row, metric),
            note=numbers.difference(row.effects[metric].difference),
        )
        for row in analysis.factors
        if metric in row.effects
    ]
    if not rows or metric not in analysis.noise_floor:
        return
    noise = analysis.noise_floor[metric].sd
    left = min(220, max(96, round(LETTER_PIXELS * max(len(word) for row in rows for word in (row.panel, row.label)))))
    name, better = metric_name(metric), "left" if metric == VALIDATION_LOSS else "right"
    without = [row.variant for row in analysis.factors if row.variant != BASELINE and metric not in row.effects]
    absent = f" Without numbers: {', '.join(dict.fromkeys(without))}." if without else ""
    yield Figure(
        forest_plot(rows, f"{name}: level minus baseline", band=noise, left=left),
        f"{name[0].upper()}{name[1:]} of each level minus the baseline's; {better} of zero the level is better. "
        "Filled: the interval leaves out zero (circle: better, triangle: worse); hollow: it does not. The band is one "
        f"standard deviation of the baseline over its seeds, ±{noise:.4f}: what another seed changes anyway.{absent}",
    )


def _mark(row: LevelEffects, metric: str) -> Verdict:
    effect = row.effects[metric]
    if effect.low <= 0 <= effect.high:
        return "not shown"
    return "better" if (effect.low > 0) == (metric != VALIDATION_LOSS) else "worse"


def _losses(factor: str, analysis: StudyAnalysis) -> Iterator[Block]:
    levels = {row.variant: row.level for row in analysis.factors if row.factor == factor}
    known = levels.get(BASELINE)
    levels = {BASELINE: f"{known} (baseline)" if known else BASELINE} | {
        variant: level for variant, level in levels.items() if variant != BASELINE
    }
    lines = [
        Line(level, trial.losses, trial.diverged)
        for variant, level in levels.items()
        for trial in analysis.trials
        if trial.variant == variant and trial.losses
    ]
    undrawn = [row.name for row in analysis.trials if row.variant in levels and row.diverged and not row.losses]
    if len({line.level for line in lines}) < 2:
        if undrawn:
            yield Prose(f"{', '.join(undrawn)} diverged at the first step.")
        return
    title = f"Training loss by {factor}"
    absent = f" Diverged at the first step, and not drawn: {', '.join(undrawn)}." if undrawn else ""
    yield Figure(
        loss_curves(lines, title, list(levels.values())),
        f"{title}: one line per trial, faint each step, bold the running mean. A line that ends in a cross diverged: "
        "there a number was not finite, or the validation loss ended above the untrained model's. Losses far above all "
        f"others are drawn at the upper edge.{absent}",
    )


def _noise(analysis: StudyAnalysis) -> Iterator[Block]:
    if not analysis.noise_floor:
        yield Prose("It takes two completed trials of the baseline to say how much a seed changes. They are not there.")
        return
    yield Prose(
        "The baseline, trained again with other seeds on the same pairs: what differs here is luck. A difference "
        "between two single trials means little unless it is several times this standard deviation."
    )
    yield tables.noise_table(analysis.noise_floor)
    if analysis.gain:
        yield Prose("What training is worth at all, over the same noise:")
        yield tables.gain_table(analysis)


def _costs(analysis: StudyAnalysis) -> Iterator[Block]:
    spots = []
    for variant in dict.fromkeys(trial.variant for trial in analysis.trials):
        rows = [trial for trial in analysis.trials if trial.variant == variant and QUALITY in trial.metrics]
        if rows:
            score = fmean(trial.metrics[QUALITY].mean for trial in rows)
            spots.append(Spot(variant, fmean(trial.minutes for trial in rows), score, variant == BASELINE))
    if len(spots) < 2:
        return
    name, floor, base = metric_name(QUALITY), analysis.noise_floor.get(QUALITY), analysis.base.get(QUALITY)
    yield Figure(
        cost_against_quality(spots, floor.sd if floor else 0.0, base.mean if base else None, name),
        f"Mean {name} over mean minutes of each variant's completed trials, numbered as in the table. Dashed: the "
        "frontier, which no cheaper variant beats. Dotted: the untrained base model. Whiskers: one standard deviation "
        "between trainings that differ in their seed alone; no test: whether two variants differ the effects and the "
        "claims say. Minutes hold for the machine named below, and for what else it had to do.",
    )
    yield tables.costs_table(spots, find_frontier(spots), name)


def _trials(analysis: StudyAnalysis) -> Iterator[Block]:
    if analysis.trials:
        yield tables.trials_table(analysis.trials)
    remarks = [f"{trial.name}: {trial.status}; {trial.remark}." for trial in analysis.trials if trial.remark]
    if remarks:
        yield Points(tuple(remarks))
    if analysis.missing:
        yield Prose(f"Declared and not run yet: {'; '.join(analysis.missing)}.")


def _design(analysis: StudyAnalysis, material: StudyMaterial) -> Iterator[Block]:
    config = material.config
    design = {
        "one-factor": "one factor at a time: each level alone against the baseline",
        "grid": "grid: every combination of levels",
    }[config.design]
    rows = [
        ("design", design),
        ("baseline", config.baseline),
        ("set for all trials", ", ".join(config.set) or "nothing"),
        *((factor.name, _levels(factor)) for factor in config.factors),
        ("seeds of the baseline", _listed(config.baseline_seeds)),
        ("seeds of the other variants", _listed(config.seeds)),
        (
            "train pairs",
            "all" if material.train_pairs is None else f"{material.train_pairs:,}, the same in every trial",
        ),
        ("budget", f"{config.minutes:g} minutes for the whole study" if config.minutes else "none"),
        ("took", f"{sum(trial.minutes for trial in analysis.trials):,.0f} minutes, all trials added up"),
        ("margins", f"ROUGE {config.margins.rouge:g}, validation loss {config.margins.validation_loss:g}"),
        ("base model", material.base),
        ("corpus", material.corpus),
        ("computed on", material.device),
    ]
    yield Table(("what", "value"), tuple(rows), text_columns=2)
    if material.remarks:
        yield Points(material.remarks)
    yield Command(material.command)
    yield Table(("library", "version"), tuple(material.versions.items()), text_columns=2)


def _levels(factor: Factor) -> str:
    levels = "; ".join(level if isinstance(level, str) else " and ".join(level) for level in factor.levels)
    return levels if factor.seeds is None else f"{levels} (seeds {_listed(factor.seeds)})"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _limits(analysis: StudyAnalysis, material: StudyMaterial) -> tuple[str, ...]:
    config = material.config
    completed = sum(trial.variant == BASELINE and trial.status == "completed" for trial in analysis.trials)
    found = [
        "One corpus, one split, one set of test pairs and one base model: what is shown here is shown for them.",
        f"The variance between seeds is that of the baseline ({numbers.counted(completed, 'completed seed')}), taken "
        "for every variant. A variant whose training is less steady has wider intervals than those given here.",
    ]
    counts = Counter(trial.variant for trial in analysis.trials if trial.variant != BASELINE)
    if single := [variant for variant, count in counts.items() if count == 1]:
        some = single[0] if len(single) == 1 else f"Each of {', '.join(single)}"
        who = "Every variant but the baseline" if len(single) == len(counts) else some
        found.append(
            f"{who} was trained with a single seed: how steady it is was not measured, and that it diverged, or did "
            "not, was seen once."
        )
    if config.design == "one-factor":
        found.append("One factor at a time: how the factors work together was not measured.")
    if unequal := _left_out(analysis):
        found.append(f"{unequal} Only what completed is compared, which favours a variant that fails now and then.")
    if material.late_seeds:
        found.append(
            f"Trials ended after a verdict had been given without them ({'; '.join(material.late_seeds)}). Whoever "
            "adds seeds until a claim is shown sees it shown too often, and p is not corrected for looking twice."
        )
    found += [
        "No real difference is judged for each claim by itself, without a correction for their number; a margin that "
        "is chosen after the results are seen proves nothing.",
        "A short training on a subset may order recipes otherwise than a full one.",
        "ROUGE measures the overlap of words with a reference answer, not whether an answer is correct or safe.",
    ]
    return tuple(found)


def _left_out(analysis: StudyAnalysis) -> str:
    """Variants of which some trials completed and others did not."""
    statuses: dict[str, list[bool]] = {}
    for trial in analysis.trials:
        statuses.setdefault(trial.variant, []).append(trial.status == "completed")
    mixed = [
        f"{called(variant)} ({done.count(False)} of {len(done)})"
        for variant, done in statuses.items()
        if len({*done}) > 1
    ]
    return f"Trials that did not complete are left out: {', '.join(mixed)}." if mixed else ""
