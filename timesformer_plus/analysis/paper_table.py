"""The paper's comparison of its five schemes, and whether ours comes out the same way.

TimeSformer (arXiv 2102.05095v4), Table 1: ViT-B/16 from ImageNet-21k, 8 frames of 224 pixels, one training a scheme.
No seeds and no intervals are published, so of the paper there is an order and nothing else: whether two of its schemes
are apart by more than luck, nobody knows. Ours says so by rule, see ``compare_pairs``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from .statistics import PairedDifference, correct, is_separated, paired_difference

Verdict = Literal["agrees", "does not", "not separated"]


class Published(NamedTuple):
    """A row of the paper's table.

    Attributes:
        name: What the paper calls the scheme.
        params: 10^6 parameters.
        kinetics: Top-1 on Kinetics-400, percent.
        something: Top-1 on Something-Something v2, percent, which asks for the order of frames.
    """

    name: str
    params: float
    kinetics: float
    something: float


PAPER = {
    "s": Published("Space", 85.9, 76.9, 36.6),
    "j": Published("Joint Space-Time", 85.9, 77.4, 58.5),
    "ts": Published("Divided Space-Time", 121.4, 78.0, 59.5),
    "lg": Published("Sparse Local Global", 121.4, 75.9, 56.3),
    "twh": Published("Axial", 156.8, 73.5, 56.2),
}
"""Canonical pattern -> the paper's row."""


class Pair(NamedTuple):
    """Two schemes, and by how much the second is better than the first.

    Attributes:
        first: Pattern.
        second: Pattern.
        ours: Difference of our scores, second minus first, over the shared seeds, as a fraction.
        p: Two-sided p, corrected for all pairs (Holm); None where it is undefined, as for one seed.
        kinetics: The paper's difference on Kinetics-400, percentage points.
        something: The same on Something-Something v2.
    """

    first: str
    second: str
    ours: PairedDifference
    p: float | None
    kinetics: float
    something: float

    def verdict(self, paper: float) -> Verdict:
        """Whether our difference has the sign of the paper's; only said where ours is separated from zero."""
        if not is_separated(self.ours, self.p):
            return "not separated"
        return "agrees" if (self.ours.mean > 0) == (paper > 0) else "does not"


def compare_pairs(scores: Mapping[str, Mapping[int, float]]) -> list[Pair]:
    """Hold every two of the paper's schemes against each other.

    Args:
        scores: Canonical pattern -> seed -> score, fractions. Patterns that the paper does not have are left out.

    Returns:
        A pair for every two schemes that share a seed, in the paper's order.
    """
    known = [pattern for pattern in PAPER if pattern in scores]
    pairs = [
        (first, second)
        for first, second in itertools.combinations(known, 2)
        if scores[first].keys() & scores[second].keys()
    ]
    ours = {
        f"{first} {second}": paired_difference(scores[second], scores[first], bounds=(-1, 1)) for first, second in pairs
    }
    p = correct(ours)
    return [
        Pair(
            first,
            second,
            ours[f"{first} {second}"],
            p[f"{first} {second}"],
            PAPER[second].kinetics - PAPER[first].kinetics,
            PAPER[second].something - PAPER[first].something,
        )
        for first, second in pairs
    ]


def sum_up(pairs: Sequence[Pair]) -> list[str]:
    """What the pairs come to, a sentence for each of the paper's two data sets."""
    sentences = []
    for name, published in (("Something-Something v2", "something"), ("Kinetics-400", "kinetics")):
        found: dict[Verdict, list[str]] = {"agrees": [], "does not": [], "not separated": []}
        for pair in pairs:
            found[pair.verdict(getattr(pair, published))].append(f"{pair.second} against {pair.first}")
        agrees, against, unclear = (len(names) for names in found.values())
        which = f" ({', '.join(found['does not'])})" if against else ""
        sentences.append(
            f"Of {len(pairs)} pairs of schemes {agrees} agree{'s' * (agrees == 1)} with the paper's order on {name}, "
            f"{against} {'does' if against == 1 else 'do'} not{which}, and {unclear} {'is' if unclear == 1 else 'are'} "
            "not separated by our seeds."
        )
    return sentences
