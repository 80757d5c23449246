"""What resampling a handful of seeds says about two variants, without supposing that scores are normal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

# all sign patterns of up to 13 differences, 8192 of them; beyond, as many drawn at random from a fixed seed
FLIPS = 9999
RESAMPLES = 2000


@dataclass(frozen=True)
class Improvement:
    """How probable it is that a seed of one variant beats a seed of another.

    Attributes:
        probability: Over all pairs of seeds, ties counting one half; 0..1.
        low: Lower end of the bootstrap interval; None with a single seed on a side.
        high: Upper end; None with a single seed on a side.
        confidence: Nominal coverage, 0..1.
    """

    probability: float
    low: float | None
    high: float | None
    confidence: float


def sign_flip_p(differences: Iterable[float]) -> float | None:
    """Two-sided p of "either of the two could as well have been the other", by flipping the signs of the differences.

    Exact for up to 13 differences. It supposes nothing but symmetry, and pays for it: with n differences it is never
    below 2 / 2^n, so that five seeds (1 in 16) can never reach .05, whatever the gap; six can.

    Args:
        differences: One a seed.

    Returns:
        p; None with fewer than two differences.
    """
    sample = np.fromiter((float(difference) for difference in differences), dtype=np.float64)
    if len(sample) < 2:
        return None
    # differences of shares of videos: sums that are equal must not be told apart by their last bits
    scale = float(np.abs(sample).max()) or 1.0
    sample = np.round(sample / scale, 9)
    test = stats.permutation_test(
        (sample,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        random_state=np.random.default_rng(0),
    )
    return float(test.pvalue)


def probability_of_improvement(
    values: Iterable[float], reference: Iterable[float], *, confidence: float = 0.95
) -> Improvement:
    """P(X > Y) for a seed X of one variant and a seed Y of another, ties counting one half.

    The measure of Agarwal et al. 2021 (arXiv 2108.13264, section 4.3). The interval is a percentile bootstrap over the
    seeds of both sides, from a fixed seed. It is rough: where the seeds do not overlap it has no width, and for two
    equal variants of five seeds it covers 91 % of the time where 95 % are asked for (measured in the tests). So nothing
    is decided by it.

    Args:
        values: Scores, one a seed.
        reference: Scores of the other, one a seed; need not be the same seeds.
        confidence: Nominal coverage.

    Raises:
        ValueError: One of the two has no score.
    """
    ours = np.fromiter((float(value) for value in values), dtype=np.float64)
    theirs = np.fromiter((float(value) for value in reference), dtype=np.float64)
    if not len(ours) or not len(theirs):
        raise ValueError("no scores to compare; both variants need a finished seed")
    gap = ours[:, None] - theirs[None]
    # scores that differ in the last bit are the same score
    wins = np.where(np.abs(gap) < 1e-12, 0.5, gap > 0)
    probability = float(wins.mean())
    if min(wins.shape) < 2:
        return Improvement(probability, None, None, confidence)
    generator = np.random.default_rng(0)
    rows = generator.multinomial(len(ours), np.full(len(ours), 1 / len(ours)), RESAMPLES) / len(ours)
    columns = generator.multinomial(len(theirs), np.full(len(theirs), 1 / len(theirs)), RESAMPLES) / len(theirs)
    again = np.einsum("bi,ij,bj->b", rows, wins, columns)
    low, high = np.quantile(again, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Improvement(probability, float(max(low, 0.0)), float(min(high, 1.0)), confidence)
