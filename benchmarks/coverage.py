"""How often do the intervals contain the truth, and how often does the paired test err when there is no difference?

    python -m benchmarks.coverage [--quick] [--repetitions N] [--out FILE]

Simulated scores look like ROUGE: skewed, in [0, 1], alike within a group; group sizes are log-normal (mean 3.4, most
groups have one to four pairs, one in a hundred has more than 16). Every scenario's truth is known. Writes
a JSON file and prints the table of docs/statistics.md.
"""

import argparse
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.results import RESULTS
from numpy.typing import NDArray
from scipy.stats import beta, norm

from vademecum.evaluation.intervals import estimate, paired_p
from vademecum.files import write_json

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Array, list[str]]]

GROUPS = (3, 5, 10, 20, 30, 50, 100, 300)
LEVEL = 0.95
RESAMPLES = 2_000
"""Fewer than the product's 10,000, which a simulation cannot afford; it adds a little noise and no bias to speak of."""
SIZE_SCALE = 0.8
"""Standard deviation of a group size's logarithm."""


def draw_groups(rng: np.random.Generator, count: int) -> tuple[Array, Array, NDArray[np.int64]]:
    """Per group two standard normal effects (size and score) and the number of pairs."""
    size_effect, score_effect = rng.normal(size=(2, count))
    sizes = np.maximum(1, np.rint(np.exp(0.9 + SIZE_SCALE * size_effect))).astype(np.int64)
    return size_effect, score_effect, sizes


def group_means(effect: Array, mean: float) -> Array:
    """Group means in [0, 1], beta distributed around `mean` with a standard deviation of about .13."""
    return np.asarray(beta.ppf(norm.cdf(effect), 10 * mean, 10 * (1 - mean)), dtype=np.float64)


def scores(rng: np.random.Generator, means: Array, precision: float) -> Array:
    """One score per pair, beta distributed around its group's mean."""
    means = np.clip(means, 1e-3, 1 - 1e-3)
    return rng.beta(precision * means, precision * (1 - means))


def names(sizes: NDArray[np.int64]) -> list[str]:
    return [f"g{i:04d}" for i in np.repeat(np.arange(len(sizes)), sizes)]


def one_system(rng: np.random.Generator, count: int) -> tuple[Array, list[str]]:
    """Scores of one system; the truth is .25."""
    _, effect, sizes = draw_groups(rng, count)
    return scores(rng, np.repeat(group_means(effect, 0.25), sizes), 8), names(sizes)


def size_matters(rng: np.random.Generator, count: int) -> tuple[Array, list[str]]:
    """As `one_system`, but large groups score higher (correlation .3 of the effects)."""
    size_effect, effect, sizes = draw_groups(rng, count)
    mixed = 0.3 * size_effect + np.sqrt(1 - 0.3**2) * effect
    return scores(rng, np.repeat(group_means(mixed, 0.25), sizes), 8), names(sizes)


def two_systems(rng: np.random.Generator, count: int) -> tuple[Array, list[str]]:
    """Differences of two systems whose group means correlate by .7; the truth is .05."""
    _, effect, sizes = draw_groups(rng, count)
    other = 0.7 * effect + np.sqrt(1 - 0.7**2) * rng.normal(size=count)
    system = scores(rng, np.repeat(group_means(other, 0.30), sizes), 8)
    return system - scores(rng, np.repeat(group_means(effect, 0.25), sizes), 8), names(sizes)


def no_difference(rng: np.random.Generator, count: int) -> tuple[Array, list[str]]:
    """Differences of two systems that are alike in every respect."""
    _, effect, sizes = draw_groups(rng, count)
    other = 0.7 * effect + np.sqrt(1 - 0.7**2) * rng.normal(size=count)
    effect = 0.7 * effect + np.sqrt(1 - 0.7**2) * rng.normal(size=count)
    means = [np.repeat(group_means(each, 0.25), sizes) for each in (effect, other)]
    return scores(rng, means[0], 8) - scores(rng, means[1], 8), names(sizes)


def equal_means(rng: np.random.Generator, count: int) -> tuple[Array, list[str]]:
    """Differences of two systems with one mean, where one scatters far more than the other (skewed differences)."""
    _, effect, sizes = draw_groups(rng, count)
    calm = scores(rng, np.full(int(sizes.sum()), 0.25), 40)
    return scores(rng, np.repeat(group_means(effect, 0.25), sizes), 3) - calm, names(sizes)


def truth_where_size_matters() -> float:
    """Mean over pairs in a population of two million groups."""
    rng = np.random.default_rng(20_000)
    size_effect, effect, sizes = draw_groups(rng, 2_000_000)
    means = group_means(0.3 * size_effect + np.sqrt(1 - 0.3**2) * effect, 0.25)
    return float((means * sizes).sum() / sizes.sum())


def coverage(draw: Draw, truth: float, count: int, repetitions: int) -> dict[str, float]:
    """Shares of intervals that contain, lie below and lie above the truth; mean width."""
    rng = np.random.default_rng([1, count])
    below = above = 0
    width = 0.0
    for seed in range(repetitions):
        values, groups = draw(rng, count)
        found = estimate(values.tolist(), groups, level=LEVEL, resamples=RESAMPLES, seed=seed, bounds=(-1.0, 1.0))
        below += found.high < truth
        above += found.low > truth
        width += found.high - found.low
    return {
        "covered": 1 - (below + above) / repetitions,
        "below": below / repetitions,
        "above": above / repetitions,
        "width": width / repetitions,
    }


def level(draw: Draw, count: int, repetitions: int) -> dict[str, float]:
    """Share of p values below .05."""
    rng = np.random.default_rng([2, count])
    rejected = 0
    for seed in range(repetitions):
        values, groups = draw(rng, count)
        rejected += paired_p(values.tolist(), groups, resamples=RESAMPLES, seed=seed) < 0.05
    return {"rejected": rejected / repetitions}


def measure(counts: tuple[int, ...], repetitions: int) -> list[dict[str, Any]]:
    """One row per number of groups."""
    truth = truth_where_size_matters()
    return [
        {
            "groups": count,
            "one_system": coverage(one_system, 0.25, count, repetitions),
            "difference": coverage(two_systems, 0.05, count, repetitions),
            "size_matters": coverage(size_matters, truth, count, repetitions),
            "test_no_difference": level(no_difference, count, repetitions),
            "test_equal_means": level(equal_means, count, repetitions),
        }
        for count in counts
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, in per cent."""
    lines = [
        "| groups | one system | difference | large groups differ | test, no difference | test, equal means only |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        covered = [row[name]["covered"] for name in ("one_system", "difference", "size_matters")]
        rejected = [row[name]["rejected"] for name in ("test_no_difference", "test_equal_means")]
        lines.append(f"| {row['groups']} | " + " | ".join(f"{100 * x:.1f}" for x in [*covered, *rejected]) + " |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 repetitions, four numbers of groups")
    parser.add_argument("--repetitions", type=int, default=2_000)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Simulate and write."""
    given = parse()
    counts, repetitions = ((3, 10, 20, 50), 200) if given.quick else (GROUPS, given.repetitions)
    rows = measure(counts, repetitions)
    result = {
        "n": repetitions,
        "nominal_level": LEVEL,
        "resamples": RESAMPLES,
        "standard_error_at_nominal": (LEVEL * (1 - LEVEL) / repetitions) ** 0.5,
        "rows": rows,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy")},
        },
    }
    # Simulated: the same on every machine.
    file = given.out or RESULTS / f"coverage{'-quick' if given.quick else ''}.json"
    write_json(file, result)
    print(table(rows))
    print(f"\n{repetitions} repetitions; written to {file}")


if __name__ == "__main__":
    main()
