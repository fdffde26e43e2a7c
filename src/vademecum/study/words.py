"""What a study's results are called in sentences, tables and figures."""

from vademecum.report import numbers
from vademecum.study.effects import VALIDATION_LOSS, Effect
from vademecum.study.records import BASELINE


def called(variant: str) -> str:
    """A variant inside a sentence."""
    return "the baseline" if variant == BASELINE else variant


def metric_name(metric: str) -> str:
    """As the field writes it: ROUGE-L, validation loss."""
    return "validation loss" if metric == VALIDATION_LOSS else numbers.metric(metric)


def pair_name(metric: str) -> str:
    """Of the pairs that it is measured on."""
    return "validation pair" if metric == VALIDATION_LOSS else "test pair"


def seeds_against(seeds: int, against: int) -> str:
    """Such as `1 seed against 5`."""
    return f"{numbers.counted(seeds, 'seed')} against {against}"


def compared(effect: Effect) -> str:
    """Which of the two has more, and by how much."""
    size = numbers.score(abs(effect.difference))
    direction = "higher" if effect.difference > 0 else "lower"
    if effect.metric == VALIDATION_LOSS:
        return f"{called(effect.variant)} has a validation loss {size} {direction} than {called(effect.against)}"
    where = metric_name(effect.metric)
    return f"{called(effect.variant)} scores {size} {direction} than {called(effect.against)} in {where}"


def subtracted(effect: Effect, p_holm: float | None) -> str:
    """One minus the other, with the numbers behind it."""
    return (
        f"{called(effect.variant)} minus {called(effect.against)} in {metric_name(effect.metric)} is "
        f"{numbers.difference(effect.difference)} ({behind(effect, p_holm)})"
    )


def behind(effect: Effect, p_holm: float | None) -> str:
    """The numbers behind a difference, for brackets; without p where it is not tested."""
    tail = ""
    if p_holm is not None:
        p = numbers.p_value(p_holm)
        tail = f", p {p if p.startswith('<') else f'= {p}'} after Holm"
    tested = f"{numbers.counted(effect.n, pair_name(effect.metric))} in {numbers.counted(effect.groups, 'group')}"
    return (
        f"{numbers.level(effect.level)} interval {numbers.difference(effect.low)} to "
        f"{numbers.difference(effect.high)}, {tested}, {seeds_against(effect.seeds, effect.against_seeds)}{tail}"
    )


def sentence(text: str) -> str:
    """With its stop; a variant's name keeps its small letter."""
    return f"{f'T{text[1:]}' if text.startswith('the baseline') else text}."


def all_of(trials: int) -> str:
    """Such as `all of its 3 trials`."""
    return "its only trial" if trials == 1 else f"all of its {trials} trials"
