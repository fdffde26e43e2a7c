"""Means with intervals, standard errors and p values for scores that come in groups.

Pairs of one group (one disease, one document) are alike, so the group is what is drawn: from here on a mean over pairs
is a ratio, the sum of the groups' sums over the sum of their sizes. docs/statistics.md explains each choice and shows
the measured coverage; benchmarks/coverage.py measures it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vademecum.errors import RunError
from vademecum.records import Estimate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CELLS_AT_A_TIME = 1_000_000
"""Resamples times groups held in memory at once."""


def estimate(
    values: Sequence[float],
    groups: Sequence[str],
    *,
    level: float,
    resamples: int,
    seed: int,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    """Mean over pairs, with an interval from a bootstrap over groups.

    `values[i]` belongs to `groups[i]`. The interval is the bootstrap's percentile interval with expanded percentiles
    (Hesterberg, "What teachers should know about the bootstrap", 2015): as wide as a t interval would be
    for few groups. The degrees of freedom come from the effective number of groups, (sum of sizes)^2 / sum of squared
    sizes, because a few large groups carry most of the pairs. It always contains the mean and collapses on it where
    all values are equal. One group says nothing about other groups: its interval is `bounds`, all that a value can be.

    The result depends on the seed, not on the order of the input. Raises RunError without values, with values that
    are not finite, and when the two sequences differ in length.
    """
    import numpy as np

    sums, sizes = _group_sums(values, groups)
    n, count = len(values), len(sums)
    mean = math.fsum(values) / n
    if count == 1:
        low, high = bounds
    elif min(values) == max(values):
        low = mean = high = float(values[0])
    else:
        means = _resampled_means(sums, sizes, resamples, seed)
        tail = _expanded_tail(sizes, level)
        low, high = (float(bound) for bound in np.quantile(means, [tail, 1 - tail]))
    return Estimate(mean=mean, low=min(low, mean), high=max(high, mean), level=level, n=n, groups=count)


def clustered_standard_error(values: Sequence[float], groups: Sequence[str]) -> float:
    """Standard error of the mean over pairs, by linearisation over groups with the factor G / (G - 1).

    Cochran, "Sampling Techniques", 1977 (ratio estimates). With one group it cannot be estimated, and the answer is 1:
    the largest it could be for differences of scores, which lie in [-1, 1]. Raises RunError like `estimate`.
    """
    sums, sizes = _group_sums(values, groups)
    if len(sums) == 1:
        return 1.0
    if min(values) == max(values):
        return 0.0
    n = len(values)
    residuals = sums - sizes * (math.fsum(values) / n)
    return float(math.sqrt(len(sums) / (len(sums) - 1) * math.fsum(residuals**2)) / n)


def paired_p(differences: Sequence[float], groups: Sequence[str], *, resamples: int, seed: int) -> float:
    """Two-sided p of a mean paired difference, by approximate randomisation over groups.

    Without a difference the two systems' names could be swapped within any group, which turns the sign of the group's
    sum. p is (b + 1) / (resamples + 1), where b counts the random swaps whose mean is at least as far from zero as the
    one found (Noreen 1989; Phipson and Smyth 2010 for the 1). Raises RunError like `estimate`.
    """
    import numpy as np

    sums, _ = _group_sums(differences, groups)
    # Rounding must not make a swap that gives back the same number look smaller than it.
    found = abs(math.fsum(sums)) * (1 - 1e-9)
    rng = np.random.default_rng(seed % 2**64)
    extreme = 0
    for rows in _portions(resamples, len(sums)):
        coins = np.unpackbits(rng.integers(0, 256, (rows, -(-len(sums) // 8)), np.uint8), axis=1, count=len(sums))
        extreme += int(np.count_nonzero(np.abs(sums.sum() - 2 * (coins @ sums)) >= found))
    return (extreme + 1) / (resamples + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979), in the order of the input: the k-th smallest p times (m - k + 1), never
    below the one before, at most 1."""
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted


def _group_sums(values: Sequence[float], groups: Sequence[str]) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Sum and size of each group, in the order of the groups' names; exact sums, so order of input cannot matter."""
    import numpy as np

    if len(values) != len(groups):
        raise RunError(f"{len(values)} values but {len(groups)} groups", hint="score again: `--force score`")
    if not values:
        raise RunError("there are no scores to average", hint="answer at least one test pair")
    if not all(math.isfinite(value) for value in values):
        raise RunError("a score is not a finite number", hint="score again: `--force score`")
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    ordered = [members[group] for group in sorted(members)]
    return np.array([math.fsum(group) for group in ordered]), np.array([float(len(group)) for group in ordered])


def _portions(resamples: int, groups: int) -> list[int]:
    rows = max(1, _CELLS_AT_A_TIME // groups)
    return [min(rows, resamples - done) for done in range(0, resamples, rows)]


def _resampled_means(
    sums: "NDArray[np.float64]", sizes: "NDArray[np.float64]", resamples: int, seed: int
) -> "NDArray[np.float64]":
    """Shape [resamples]: the mean over pairs of as many groups as there are, drawn with replacement."""
    import numpy as np

    rng = np.random.default_rng(seed % 2**64)
    means = []
    for rows in _portions(resamples, len(sums)):
        drawn = rng.integers(0, len(sums), (rows, len(sums)), dtype=np.int32)
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def _expanded_tail(sizes: "NDArray[np.float64]", level: float) -> float:
    """The share to cut off at each end: that of a normal variable beyond sqrt(G / (G - 1)) t quantiles."""
    from scipy.stats import norm, t

    count = len(sizes)
    effective = float(sizes.sum() ** 2 / (sizes**2).sum())
    quantile = t.ppf((1 + level) / 2, max(1.0, effective - 1))
    return float(norm.cdf(-math.sqrt(count / (count - 1)) * quantile))
