"""Equal budgets: what a variant needs to have the parameters, the arithmetic or the latency of another one.

Solved before anything is trained. Parameters and multiply-adds are counted on models without weights (the meta device);
with the width, the depth and the epochs they grow, so the solution is found by bisection over whole units, the same on
every machine. Latency has to be measured, so its solution holds for the machine that found it: see ``latency``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal

from .data_digest import why_unusable
from .knobs import By, Knob, find_knob, option_of
from .latency import ROUNDS, Reached, search_latency, side_by_side
from .options import Options, merge
from .quantities import Countable, config_of, count_quantity, network_of, network_on_cpu, replaced
from .split_sizes import split_sizes

DECIDE_VIDEOS = ("root", "train", "format", "videos", "target", "scan", "exclude", "max_missing")
DECIDE_CLIPS = ("batch_size", "drop_last")


@dataclass(frozen=True)
class Match:
    """Equal budgets: every variant of a suite is given the parameters, the arithmetic or the latency of one of them.

    Args:
        quantity: What is made equal: params; flops of a forward pass; train_flops, which is 3 x forward x clips trained
            on, whatever is frozen or computed again; latency of one clip on the CPU, measured once and kept in
            matches.json. none leaves the variants as they are.
        to: The variant whose quantity the others are given; it stays as it is.
        by: What is changed to get there: mlp_ratio (the width of the MLPs, by whole units), embed_dim (the width of the
            model, in steps that the heads and the positions allow), depth, or, for train_flops alone, steps (the
            updates of training, in whole epochs; the warm-up and the milestones stay where they are).
        tolerance: Greatest relative difference that counts as equal.
    """

    quantity: Literal["none", "params", "flops", "train_flops", "latency"] = "none"
    to: str = ""
    by: By = "mlp_ratio"
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if (self.quantity == "none") != (not self.to):
            raise ValueError(f"match: quantity={self.quantity} with to={self.to!r}; name both, or neither")
        if self.by == "steps" and self.quantity != "train_flops":
            raise ValueError(
                f"match: by=steps changes how long is trained, which {self.quantity} does not depend on; give "
                "quantity=train_flops, or by=mlp_ratio, embed_dim or depth"
            )
        if not 0 < self.tolerance < 1:
            raise ValueError(f"match: tolerance={self.tolerance} is not a share in (0, 1); 0.02 is 2 %")


@dataclass(frozen=True)
class Solution:
    """What gives a variant the budget of another one.

    Attributes:
        value: Of what ``Match.by`` names: a ratio, a width, a depth, epochs; None for the variant that the others are
            matched to, which stays as it is.
        quantity: What the variant then has: parameters, multiply-adds, multiply-adds a training video, milliseconds.
        target: What the variant has that it is matched to.
        classes: Number of classes that the heads were counted with; None where it makes no difference.
        solved_for: Digest of everything that the solution follows from.
    """

    value: float | None
    quantity: float
    target: float
    classes: int | None
    solved_for: str

    @property
    def difference(self) -> float:
        """Relative difference to the target."""
        return self.quantity / self.target - 1


def solve_matches(
    variants: Mapping[str, Options], match: Match, *, threads: int = 1, stored: Mapping[str, Any] | None = None
) -> dict[str, Solution]:
    """Find what gives all variants of a suite the budget of one of them.

    Args:
        variants: Name -> complete options of a training, nested.
        match: What is made equal, and how.
        threads: Threads that a latency is measured with.
        stored: Name -> solution of before, as ``asdict`` makes it. Used again where it was solved for the same.

    Returns:
        Name -> solution; empty for ``quantity: none``.

    Raises:
        ValueError: A variant cannot be made, or does not come within the tolerance; with the nearest that it can.
    """
    if match.quantity == "none":
        return {}
    _check_videos(variants, match)
    texts = {name: json.dumps(options) for name, options in variants.items()}
    to = texts[match.to]
    widths = {str(getattr(network_of(text, None), "embed_dim", "")) for text in texts.values()}
    heads = match.quantity == "params" and (match.by == "embed_dim" or len(widths) > 1)
    solutions = {}
    for name, text in texts.items():
        solved_for = _digest(text, to, match, threads)
        kept = _stored(stored, name, solved_for)
        classes = _classes(text, kept) if heads else None
        if kept is not None and kept.classes == classes and _still_holds(kept, text, match):
            solutions[name] = kept
            continue
        solutions[name] = Solution(*_solve(name, text, to, match, threads, classes), classes, solved_for)
    return solutions


def match_budgets(
    variants: Mapping[str, Options], match: Match, solutions: Mapping[str, Solution] | None = None
) -> dict[str, Options]:
    """Give all variants of a suite the budget of one of them.

    Args:
        variants: Name -> complete options of a training, nested.
        match: What is made equal, and how.
        solutions: What ``solve_matches`` has found; None to solve it here.

    Returns:
        Name -> options, with the option set that ``match.by`` stands for where it had to change.

    Raises:
        ValueError: As ``solve_matches``.
    """
    solutions = solve_matches(variants, match) if solutions is None else solutions
    values = {name: solution.value for name, solution in solutions.items()}
    return {
        name: options if (value := values.get(name)) is None else merge(options, {option_of(match.by): value})
        for name, options in variants.items()
    }


def describe_matches(solutions: Mapping[str, Solution], match: Match) -> list[str]:
    """What matching has found, a line a variant: its budget, how far that is from the target, and by which value.

    Args:
        solutions: What ``solve_matches`` has found.
        match: What was made equal.
    """
    unit = {"latency": " ms", "train_flops": " a training video"}.get(match.quantity, "")
    lines = []
    for name, found in solutions.items():
        by = "as it is" if found.value is None else f"with {option_of(match.by).rpartition('.')[2]} {found.value}"
        number = f"{found.quantity:,.3f}" if match.quantity == "latency" else f"{found.quantity:,}"
        lines.append(f"{name}: {match.quantity} {number}{unit} ({found.difference:+.2%}) {by}")
    return lines


@lru_cache(maxsize=256)  # a latency is measured once in a process, too
def _solve(
    name: str, options: str, to: str, match: Match, threads: int, classes: int | None
) -> tuple[float | None, float, float]:
    """Value of the option, quantity and target."""
    if name == match.to:
        target = _own(options, match, threads, classes)
        return None, target, target
    knob = find_knob(options, match.by)
    found = (
        _by_clock(knob, options, to, match, threads, classes)
        if match.quantity == "latency"
        else _by_count(knob, options, to, match, classes)
    )
    if abs(found.difference) > match.tolerance:
        raise ValueError(
            f"{name} cannot be given the {match.quantity} of {match.to} ({found.target:,}) by {match.by}: the nearest "
            f"is {found.reached:,} ({found.difference:+.1%}) with {knob.key.rpartition('.')[2]}="
            f"{knob.setting(found.units)}, and match.tolerance is {match.tolerance:.1%}; raise it, match by something "
            "else, or leave the variant out"
        )
    return knob.setting(found.units), found.reached, found.target


def _own(options: str, match: Match, threads: int, classes: int | None) -> float:
    if match.quantity == "latency":
        network = network_on_cpu(options, classes)
        return side_by_side(network, network, threads=threads, rounds=ROUNDS[-1])[0]
    return count_quantity(options, _countable(match), classes)


def _by_count(knob: Knob, options: str, to: str, match: Match, classes: int | None) -> Reached:
    target = count_quantity(to, _countable(match), classes)

    def quantity(units: int) -> int:
        return count_quantity(knob.turned(options, units), _countable(match), classes)

    return search_count(quantity, knob, target)


def search_count(quantity: Callable[[int], int], knob: Knob, target: int) -> Reached:
    """Find the units whose quantity is nearest to the target, where it grows with them.

    Args:
        quantity: Of so many units. It is asked rarely: what it has said is laid a straight line through.
        knob: The units that there are.
        target: What the quantity is to be.
    """
    low, high = _bracket(quantity, knob, target)
    straight = True
    # the smallest that reaches the target lies in (low, high]
    while high - low > knob.unit and quantity(low) < target <= quantity(high):
        steps = (high - low) // knob.unit
        share = (target - quantity(low)) / (quantity(high) - quantity(low)) if straight else 0.5
        middle = low + min(max(math.ceil(share * steps), 1), steps - 1) * knob.unit
        straight = not straight or quantity(middle) == target
        low, high = (middle, high) if quantity(middle) < target else (low, middle)
    nearest = min((low, high), key=lambda units: abs(quantity(units) - target))
    return Reached(nearest, quantity(nearest), target)


def _bracket(quantity: Callable[[int], int], knob: Knob, target: int) -> tuple[int, int]:
    """Units below the target and at or above it, as far as there are."""
    low = high = min(max(knob.now // knob.unit * knob.unit, knob.low), knob.high)
    while quantity(high) < target and high < knob.high:
        low, high = high, min(2 * high, knob.high)
    while quantity(low) >= target and low > knob.low:
        low, high = max(low // 2 // knob.unit * knob.unit, knob.low), low
    return low, high


def _countable(match: Match) -> Countable:
    assert match.quantity != "none"
    assert match.quantity != "latency"
    return match.quantity


def _by_clock(knob: Knob, options: str, to: str, match: Match, threads: int, classes: int | None) -> Reached:
    other = network_on_cpu(to, classes)

    def measure(units: int, rounds: int) -> tuple[float, float]:
        return side_by_side(network_on_cpu(knob.turned(options, units), classes), other, threads=threads, rounds=rounds)

    return search_latency(
        measure, unit=knob.unit, low=knob.low, high=knob.high, start=knob.now, tolerance=match.tolerance
    )


def _classes(options: str, kept: Solution | None) -> int | None:
    """Classes of the data; those of the stored solution where there are no data (any more)."""
    unusable = why_unusable(json.loads(options))
    if unusable is None:
        return split_sizes(config_of(options).data).classes
    if kept is not None and kept.classes is not None:
        return kept.classes
    raise ValueError(
        "equal budgets: the models differ in width, so their heads differ by the number of classes, which cannot be "
        f"read: {unusable}"
    )


def _check_videos(variants: Mapping[str, Options], match: Match) -> None:
    """Refuse to compare the arithmetic of trainings on different videos: clips are counted as epochs."""
    if match.quantity != "train_flops":
        return
    said = {name: _what_decides_clips(options) for name, options in variants.items()}
    for name, own in said.items():
        other = [
            f"{key} {value}, not {said[match.to][key]}" for key, value in own.items() if value != said[match.to][key]
        ]
        if other:
            raise ValueError(
                f"match: train_flops counts epochs over the same clips as those of {match.to}, but {name} has "
                f"{'; '.join(other)}"
            )


def _what_decides_clips(options: Options) -> dict[str, Any]:
    """Options that say which clips an epoch trains on, as the trainer reads them."""
    config = config_of(json.dumps(options))
    data = {key: str(getattr(config.data, key)) for key in DECIDE_VIDEOS}
    # the ragged end of an epoch is left out, or not
    return {
        **{f"data.{key}": value for key, value in data.items()},
        **{key: getattr(config, key) for key in DECIDE_CLIPS},
    }


def _digest(options: str, to: str, match: Match, threads: int) -> str:
    """Of what a solution follows from: the models, the shape of their clips, how long is trained, and the budget."""

    def said(text: str) -> list[Any]:
        config = config_of(text)
        return [
            asdict(config.model),
            config.data.num_frames,
            config.data.img_size,
            config.epochs,
            config.schedule.warmup_epochs,
            config.augment.repeats,
        ]

    clock = threads if match.quantity == "latency" else None
    text = json.dumps([said(options), said(to), asdict(match), clock], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _stored(stored: Mapping[str, Any] | None, name: str, solved_for: str) -> Solution | None:
    found = (stored or {}).get(name)
    if not isinstance(found, Mapping) or found.get("solved_for") != solved_for:
        return None
    return Solution(**{field.name: found[field.name] for field in fields(Solution)})


def _still_holds(kept: Solution, options: str, match: Match) -> bool:
    """Whether what can be counted still comes to what it came to; what was measured holds."""
    if match.quantity == "latency":
        return True
    turned = options if kept.value is None else replaced(options, option_of(match.by), kept.value)
    return count_quantity(turned, _countable(match), kept.classes) == kept.quantity
