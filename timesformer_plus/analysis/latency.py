"""Equal latency: two models timed side by side, and the size of one at which it takes as long as the other.

A clock never says the same twice, so it may send the search the wrong way. That happens only near the goal, and is made
good there: what seems to be within the tolerance counts only if a second measurement says so too, and a search that
ends without is begun anew at the best so far, with longer measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from .cost import measure_speed

# timed passes of each model; the second search takes its time
ROUNDS = (15, 45)


class Reached(NamedTuple):
    """What a model of so many units has come to.

    Attributes:
        units: Size of the model.
        reached: Its quantity, such as milliseconds a clip.
        target: That of the model that it is to be equal to.
    """

    units: int
    reached: float
    target: float

    @property
    def difference(self) -> float:
        """Relative difference of the two."""
        return self.reached / self.target - 1


def side_by_side(network: nn.Module, other: nn.Module, *, threads: int, rounds: int) -> tuple[float, float]:
    """Latency of two models on one clip, on the CPU, in alternating order.

    Args:
        network: A model that lies on the CPU; its weights may be random.
        other: Another one.
        threads: Threads to compute with.
        rounds: Reached passes of each; the median counts.

    Returns:
        Milliseconds of the one and of the other.
    """
    speeds = measure_speed({"one": network, "other": other}, batch_size=1, repeats=rounds, threads=threads)
    return 1e3 / speeds["one"].clips_per_second, 1e3 / speeds["other"].clips_per_second


def search_latency(
    measure: Callable[[int, int], tuple[float, float]], *, unit: int, low: int, high: int, start: int, tolerance: float
) -> Reached:
    """Find the number of units with which a model takes as long as another one.

    Args:
        measure: Units and rounds -> latency of the model with so many units, and of the other one.
        unit: Smallest step.
        low: Least number of units.
        high: Greatest number of units.
        start: Units to begin with.
        tolerance: Greatest relative difference that counts as equal.

    Returns:
        What is within the tolerance, measured twice; else the nearest that was measured.
    """
    nearest = None
    for rounds in ROUNDS:
        nearest = _bisect(measure, rounds, unit, low, high, start, tolerance)
        if abs(nearest.difference) <= tolerance:
            break
        start = nearest.units
    assert nearest is not None
    return nearest


def _bisect(
    measure: Callable[[int, int], tuple[float, float]],
    rounds: int,
    unit: int,
    low: int,
    high: int,
    units: int,
    tolerance: float,
) -> Reached:
    fast: int | None = None
    slow: int | None = None
    seen: list[Reached] = []
    while True:
        timed = Reached(units, *measure(units, rounds))
        if abs(timed.difference) <= tolerance:
            timed = Reached(units, *measure(units, rounds))
            if abs(timed.difference) <= tolerance:
                return timed
        seen.append(timed)
        fast, slow = (fast, units) if timed.difference > 0 else (units, slow)
        if slow is None:
            if units == high:
                break
            units = min(2 * units, high)
        elif fast is None:
            if units == low:
                break
            units = max(units // 2 // unit * unit, low)
        else:
            if slow - fast <= unit:
                break
            units = fast + (slow - fast) // (2 * unit) * unit
    return min(seen, key=lambda timed: abs(timed.difference))
