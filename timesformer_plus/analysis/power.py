"""How many seeds it takes to see a difference."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

MOST_SEEDS = 1000
POWER = 0.8


def power_of(seeds: int, *, std: float, gap: float, level: float = 0.05) -> float:
    """Probability that a paired two-sided t-test over ``seeds`` finds a true mean difference ``gap``.

    Args:
        seeds: Number of shared seeds, at least 2.
        std: Standard deviation of the differences of single seeds.
        gap: True mean of the differences, in the same unit.
        level: p below which a difference is found.
    """
    if std == 0:
        return 1.0 if gap else 0.0
    shift = abs(gap) / std * math.sqrt(seeds)
    if shift > 35:  # beyond what the noncentral t is computed for; certain at every level that anybody uses
        return 1.0
    critical = stats.t.ppf(1 - level / 2, seeds - 1)
    found = float(stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift))
    if math.isfinite(found):
        return found
    # scipy has no number for two seeds that lie far from zero: the same integral, over the spread that they show
    spread = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, seeds - 1) / (seeds - 1))
    return float(np.mean(stats.norm.sf(critical * spread - shift) + stats.norm.cdf(-critical * spread - shift)))


def seeds_needed(std: float, gap: float, *, power: float = POWER, level: float = 0.05) -> int | None:
    """Fewest shared seeds with which a paired t-test finds a difference as often as ``power`` says.

    By the noncentral t distribution. Std and gap are usually themselves estimates over a handful of seeds, so the
    number is one of magnitude.

    Args:
        std: Standard deviation of the differences of single seeds.
        gap: Mean of the differences, in the same unit.
        power: Probability of finding it, 0..1.
        level: p below which it is found, 0..1.

    Returns:
        At least 2; None where there is no gap, or where more than 1000 would be needed.

    Raises:
        ValueError: ``std`` is negative, or ``power`` or ``level`` not between 0 and 1.
    """
    if std < 0 or not 0 < power < 1 or not 0 < level < 1:
        raise ValueError(f"{std=}, {power=}, {level=}: std must not be negative, the others lie between 0 and 1")
    if gap == 0 or power_of(MOST_SEEDS, std=std, gap=gap, level=level) < power:
        return None
    low, high = 1, MOST_SEEDS  # power grows with the seeds: too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        if power_of(middle, std=std, gap=gap, level=level) < power:
            low = middle
        else:
            high = middle
    return high
