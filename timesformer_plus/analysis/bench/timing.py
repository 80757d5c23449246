"""Times of several passes that take turns, so that what slows the machine down for a while slows all of them."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

Seconds = dict[str, list[float]]

LEAST_ROUNDS = 3
# what is shorter is repeated until it takes so long: a clock's tick and a thread's awakening are not what is measured
SHORTEST = 0.03


def take_turns(
    passes: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    budget: float = math.inf,
    warmup: int = 1,
    device: torch.device | str = "cpu",
) -> Seconds:
    """Time passes in turn: each round runs all of them once, in the opposite order of the round before.

    Args:
        passes: Name -> what to run. All stay in memory.
        rounds: Timed rounds.
        budget: Seconds that warm-up and rounds may take; slow passes get fewer rounds, though never fewer than 3 (or
            ``rounds``, if that is less).
        warmup: Rounds before that are not timed; without one nobody knows how long a pass takes, so that none is
            repeated and ``budget`` counts for nothing.
        device: What the passes compute on; work on a GPU is waited for.

    Returns:
        Name -> seconds of a pass, one value a round; the values of all names at one place are of one round.

    Raises:
        ValueError: ``rounds`` below 1 or ``warmup`` below 0.
        Exception: Whatever a pass raises.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"need {rounds=} >= 1 and {warmup=} >= 0")
    device = torch.device(device)
    begin, once = time.perf_counter(), dict.fromkeys(passes, SHORTEST)
    with _no_garbage_collection():
        for _ in range(warmup):
            once = {name: _time(run, 1, device) for name, run in passes.items()}
        repeats = {name: max(1, min(100, math.ceil(SHORTEST / max(t, 1e-9)))) for name, t in once.items()}
        a_round = sum(once[name] * repeats[name] for name in passes)
        left = budget - (time.perf_counter() - begin)
        if warmup and a_round * rounds > left:
            rounds = min(rounds, max(LEAST_ROUNDS, int(left / a_round)))
        seconds: Seconds = {name: [] for name in passes}
        order = list(passes)
        for _ in range(rounds):
            for name in order:
                seconds[name].append(_time(passes[name], repeats[name], device) / repeats[name])
            order.reverse()
    return seconds


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Quotients round by round: what disturbs a whole round is in both."""
    return [a / b for a, b in zip(over, under, strict=True)]


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Median seconds by name."""
    return {f"{name}_s": statistics.median(times) for name, times in seconds.items()}


def _time(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
