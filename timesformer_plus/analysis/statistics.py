"""Intervals for a handful of seeds.

With n seeds a mean plus or minus 1.96 standard errors covers the truth far less often than 95 % (70 % at n = 2, 81 % at
n = 3), and a percentile bootstrap less often still. Student's t covers at its nominal rate for every n, provided that
the scores of the seeds are roughly normal; so t is what this module uses.

All intervals here speak about *seeds*: another seed on the same test set. They say nothing about another test set;
``bootstrap`` does. What needs no normal scores is in ``permutation``, how many seeds it takes in ``power``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy import stats

from .permutation import sign_flip_p

LEVEL = 0.05  # of all comparisons of a table together
MOST_VIDEOS = 100_000  # scores that are no fractions of so many videos are not counts of right ones


@dataclass(frozen=True)
class MeanInterval:
    """A mean over seeds with its Student-t interval.

    Attributes:
        mean: Arithmetic mean, in the unit of the values.
        low: Lower end of the interval; None with a single value, where no interval exists.
        high: Upper end; None with a single value.
        std: Sample standard deviation (n - 1 in the denominator); None with a single value.
        n: Number of values.
        confidence: Nominal coverage, 0..1.
    """

    mean: float
    low: float | None
    high: float | None
    std: float | None
    n: int
    confidence: float

    def is_above(self, level: float) -> bool:
        """Whether the whole interval lies above ``level``; never so for a single value."""
        return self.low is not None and self.low > level


@dataclass(frozen=True)
class PairedDifference:
    """Mean of the differences ``value - reference`` over shared seeds.

    Attributes:
        mean: Mean difference, in the unit of the values.
        low: Lower end of the t-interval; None with fewer than two shared seeds.
        high: Upper end; None with fewer than two shared seeds.
        p: Two-sided p of the paired t-test against "no difference". Where all differences are the same number it is 1
            if that is zero, else that of differences which spread as whole videos round (``resolution`` / sqrt(12)):
            two seeds that both lose one video must not pass for certainty. None with fewer than two shared seeds, and
            for equal differences of scores that are no shares of videos.
        n: Number of shared seeds.
        confidence: Nominal coverage, 0..1.
        std: Standard deviation of the differences; None with fewer than two shared seeds.
        permutation_p: Exact sign-flip p, see ``permutation.sign_flip_p``; None with fewer than two shared seeds.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    confidence: float
    std: float | None = None
    permutation_p: float | None = None


def mean_interval(
    values: Iterable[float],
    *,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> MeanInterval:
    """Mean and two-sided Student-t interval.

    Args:
        values: One number a seed, all finite.
        confidence: Nominal coverage, between 0 and 1.
        bounds: What the mean can be at all, e.g. ``(0, 1)`` for an accuracy. The interval is cut to it; as the truth
            lies within the bounds anyway, that costs no coverage.

    Returns:
        The interval; without ends for a single value, because one seed says nothing about the spread.

    Raises:
        ValueError: No value, a value that is not finite or outside ``bounds``, or ``confidence`` outside (0, 1).
    """
    sample = _sample(values)
    _check_confidence(confidence)
    if bounds is not None and (sample.min() < bounds[0] or sample.max() > bounds[1]):
        raise ValueError(f"values {sample.tolist()} leave the {bounds=}; give fractions, not percent, for an accuracy")
    mean, n = float(sample.mean()), len(sample)
    if n == 1:
        return MeanInterval(mean, None, None, None, n, confidence)
    std = float(sample.std(ddof=1))
    half = _t_quantile(n - 1, confidence) * std / math.sqrt(n)
    low, high = mean - half, mean + half
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return MeanInterval(mean, low, high, std, n, confidence)


def paired_difference(
    values: Mapping[int, float],
    reference: Mapping[int, float],
    *,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> PairedDifference:
    """Difference to a reference, paired by seed.

    Runs of one seed share data order and augmentation, so what that seed's luck does to both cancels.

    Args:
        values: Seed -> score.
        reference: Seed -> score of the reference.
        confidence: Nominal coverage, between 0 and 1.
        bounds: What the difference can be at all, e.g. ``(-1, 1)`` for accuracies; the interval is cut to it.

    Returns:
        Mean difference, t-interval and p over the seeds that both have.

    Raises:
        ValueError: No shared seed, a score that is not finite, a difference outside ``bounds``, or ``confidence``
            outside (0, 1).
    """
    shared = sorted(values.keys() & reference.keys())
    if not shared:
        raise ValueError(
            f"no shared seed: values have {sorted(values)}, the reference has {sorted(reference)}; "
            "train both with the same seeds"
        )
    differences = _sample(values[seed] - reference[seed] for seed in shared)
    interval = mean_interval(differences, confidence=confidence, bounds=bounds)
    p: float | None = None
    # A rounding error in equal differences must not pass for a spread: it would make p a confident nonsense.
    noise = 1e-12 * max(max(abs(values[seed]), abs(reference[seed])) for seed in shared)
    if interval.std is not None and interval.std > noise:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    elif interval.n > 1 and abs(interval.mean) <= noise:
        p = 1.0
    elif interval.n > 1:
        step = resolution(score for seed in shared for score in (values[seed], reference[seed]))
        if step is not None:
            p = float(2 * stats.t.sf(abs(interval.mean) / step * math.sqrt(12 * interval.n), interval.n - 1))
    return PairedDifference(
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        p=p,
        n=interval.n,
        confidence=confidence,
        std=interval.std,
        permutation_p=sign_flip_p(differences),
    )


def resolution(scores: Iterable[float]) -> float | None:
    """The step in which scores go, 1 / N for shares of N videos; None where they are no shares of few enough.

    Args:
        scores: Fractions.
    """
    videos = 1
    for score in scores:
        share = Fraction(score).limit_denominator(MOST_VIDEOS)
        videos = math.lcm(videos, share.denominator)
        if abs(float(share) - score) > 1e-12 or videos > MOST_VIDEOS:
            return None
    return 1 / videos


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: p-values of several comparisons such that one below .05 errs in 5 % of sweeps, not of rows.

    The k-th smallest of m is multiplied by m - k + 1, none is smaller than the one before it, and none greater than 1
    (Holm 1979, "A simple sequentially rejective multiple test procedure").

    Args:
        p_values: Name -> p of one comparison, in 0..1.

    Returns:
        Name -> corrected p, in the order given.

    Raises:
        ValueError: A p is not in 0..1.
    """
    for name, p in p_values.items():
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p of {name} is {p}, not in 0..1; leave undefined ones out")
    corrected: dict[str, float] = {}
    greatest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        greatest = max(greatest, min(1.0, (len(p_values) - place) * p_values[name]))
        corrected[name] = greatest
    return {name: corrected[name] for name in p_values}


def is_separated(difference: PairedDifference, p: float | None) -> bool:
    """Whether a difference is apart from zero.

    Args:
        difference: It, with its interval.
        p: Its p, corrected for the comparisons that it is one of; None where there is none, which separates nothing.
    """
    return difference.low is not None and difference.mean != 0 and p is not None and p < LEVEL


def correct(differences: Mapping[str, PairedDifference]) -> dict[str, float | None]:
    """Name -> p corrected for all of the comparisons (Holm); None where it is undefined."""
    corrected = holm({name: d.p for name, d in differences.items() if d.p is not None})
    return {name: corrected.get(name) for name in differences}


def _sample(values: Iterable[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    sample = np.fromiter((float(value) for value in values), dtype=np.float64)
    if not len(sample):
        raise ValueError("no values: a mean needs at least one finished seed")
    if not np.isfinite(sample).all():
        raise ValueError(f"values must be finite, got {sample.tolist()}; leave failed runs out")
    return sample


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"{confidence=} must lie between 0 and 1, e.g. 0.95")


@lru_cache
def _t_quantile(degrees: int, confidence: float) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, df=degrees))
