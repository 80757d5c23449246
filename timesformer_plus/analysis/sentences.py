"""The sentences that the figures of a suite support, and the warnings that they call for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .power import POWER, seeds_needed
from .statistics import LEVEL, MeanInterval, PairedDifference, is_separated, paired_difference
from .sweep import Suite

if TYPE_CHECKING:
    from .findings import Row


def format_percent(score: MeanInterval | None) -> str:
    """``"97.1 % [95.0, 99.2]"``; a single seed has no interval and says so."""
    if score is None:
        return "–"
    if score.low is None or score.high is None:
        return f"{100 * score.mean:.1f} % [one seed]"
    return f"{100 * score.mean:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def find_sentences(suite: Suite, rows: Sequence[Row]) -> Iterator[str]:
    """What the rows of a suite support."""
    scored = {row.variant: row.score for row in rows if row.score is not None}
    if not scored:
        yield "No run is finished yet."
        return
    top = max(score.mean for score in scored.values())
    best = [name for name, score in scored.items() if math.isclose(score.mean, top, abs_tol=1e-9)]
    reference = scored.get(suite.reference)
    apart = {row.variant: row.difference for row in rows if row.difference is not None}
    beside = "" if suite.reference in best else f"; the reference {suite.reference} has {format_percent(reference)}"
    if beside and best[0] in apart:
        beside += _on_shared_seeds(apart[best[0]])
    yield f"Highest mean {suite.metric}: {_list(best)}, {format_percent(scored[best[0]])}{beside}."
    if apart:
        corrected = {row.variant: row.holm_p for row in rows}
        separated = {name: d for name, d in apart.items() if is_separated(d, corrected[name])}
        better = [name for name, d in separated.items() if d.mean > 0]
        worse = [name for name, d in separated.items() if d.mean < 0]
        unclear = [name for name in apart if name not in {*better, *worse}]
        yield (
            f"Against {suite.reference}, at 95 % for all comparisons together (Holm): better {_list(better)}; "
            f"worse {_list(worse)}; not separated {_list(unclear)}."
        )
        yield from _another_test_set([row for row in rows if row.variant in separated])
    if suite.ceiling is not None and all(score.n == 1 for score in scored.values()):
        yield f"One seed has no interval that could be held against the ceiling of {100 * suite.ceiling:.0f} %."
    elif suite.ceiling is not None and suite.readable and any(row.parts for row in rows):
        yield from _cells_against_ceiling(suite, suite.ceiling, rows)
    elif suite.ceiling is not None:
        above = [name for name, score in scored.items() if score.is_above(suite.ceiling)]
        others = [f"{name} ({_beside(score, suite.ceiling, 1)})" for name, score in scored.items() if name not in above]
        yield (
            f"Above the ceiling of {100 * suite.ceiling:.0f} % with 95 % confidence: {_list(above)}; "
            f"at, below or not separated from it: {_list(others)}."
        )


def left_out(results: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What the videos behind the scores lack, so that nobody takes them for those of the whole data set."""
    results = list(results)
    for split in ("train", "val", "test"):
        counts = [(result.get("videos") or {}).get(split) or {} for result in results]
        # of a split that is scored, what the scan calls bad is not left out: it counts as wrong
        kinds = ("missing", "unreadable", "excluded") if split == "train" else ("missing", "excluded")
        lost = {kind: {count.get(kind, 0) for count in counts} - {0} for kind in kinds}
        parts = [f"{'/'.join(map(str, sorted(numbers)))} {kind}" for kind, numbers in lost.items() if numbers]
        if parts:
            expected = "/".join(map(str, sorted({count["expected"] for count in counts if "expected" in count})))
            yield f"Of the {expected} videos of the {split} split, {', '.join(parts)}: these figures are without them."
    replaced = [sum((result.get("bad_videos") or {}).values()) for result in results]
    if any(replaced):
        yield f"Training put other videos in the place of unreadable ones, at most {max(replaced)} times a run."


def _cells_against_ceiling(suite: Suite, ceiling: float, rows: Sequence[Row]) -> Iterator[str]:
    """Hold every class or bit of every variant against the ceiling, and the outcome against theory."""
    predicted = [row for row in rows if row.variant in suite.readable]
    for readable in (True, False):
        cells = {
            f"{row.variant}/{part}": interval
            for row in predicted
            for part, interval in row.parts.items()
            if (part in suite.readable[row.variant]) == readable
        }
        if not cells:
            continue
        above = [name for name, interval in cells.items() if interval.is_above(ceiling)]
        surprises = [name for name in cells if (name in above) != readable]
        shown = [f"{name} ({_beside(cells[name], ceiling, 0)})" for name in surprises]
        yield (
            f"Above the ceiling of {100 * ceiling:.0f} %, each with 95 % confidence: {len(above)} of {len(cells)} "
            f"cells that theory says can{'' if readable else 'not'} be read"
            + (f"; {'the others' if readable else 'against theory'}: {_list(shown)}." if shown else ".")
        )


def _on_shared_seeds(difference: PairedDifference) -> str:
    """What the seeds that both have say of the highest mean, which may rest on others."""
    seeds = f"{difference.n} seed{'s' * (difference.n > 1)}"
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return f", and {seeds} {'do' if difference.n > 1 else 'does'} not tell the two apart at 95 %"
    return "" if difference.low > 0 else f", but over the {seeds} that both have it is the lower one"


def _beside(score: MeanInterval, ceiling: float, digits: int) -> str:
    """The mean; with its interval where the mean alone would seem to be above the ceiling, and is not separated."""
    mean = f"{100 * score.mean:.{digits}f} %"
    if score.mean <= ceiling or score.is_above(ceiling):
        return mean
    if score.low is None or score.high is None:
        return f"{mean} [one seed]"
    return f"{mean} [{100 * score.low:.{digits}f}, {100 * score.high:.{digits}f}]"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def _another_test_set(separated: Sequence[Row]) -> Iterator[str]:
    """Whether what is separated on these test videos would be on others."""
    known = {row.variant: row.difference_elsewhere for row in separated if row.difference_elsewhere is not None}
    if known:
        holds = [name for name, interval in known.items() if interval.low > 0 or interval.high < 0]
        yield (
            "Of the separated ones, with seeds and test videos both drawn again (bootstrap, each alone at 95 %), which "
            f"speaks of other test sets as well: separated still {_list(holds)}; "
            f"not separated {_list([name for name in known if name not in holds])}."
        )


def find_warnings(suite: Suite, rows: Sequence[Row]) -> Iterator[str]:
    """What a reader should not believe: parts that there are not, and a ranking of neighbours with too few seeds."""
    parts = {part for row in rows for part in row.parts}
    unknown = {part for readable in suite.readable.values() for part in readable} - parts
    if unknown and any(row.score for row in rows):
        yield (
            f"`readable` names {_list(sorted(unknown))}, which the score {suite.metric} does not have; its parts are "
            f"{_list(sorted(parts))}."
        )
    ranking = sorted((row for row in rows if row.score is not None), key=lambda row: -_mean(row))
    close = []
    for upper, lower in pairwise(ranking):
        if len(upper.scores.keys() & lower.scores.keys()) < 2:
            close.append(f"{upper.variant} and {lower.variant} (fewer than two shared seeds, so no interval)")
            continue
        difference = paired_difference(upper.scores, lower.scores, bounds=(-1, 1))
        if difference.mean < 0:
            close.append(f"{upper.variant} and {lower.variant} (the other way round over the seeds that both have)")
        elif difference.mean > 0 and not is_separated(difference, difference.p):
            needed = seeds_needed(difference.std or 0.0, difference.mean)
            about = "more than 1000" if needed is None else f"about {needed}"
            close.append(f"{upper.variant} and {lower.variant} (gap {100 * difference.mean:.1f}, {about})")
    if close:
        said = (
            "Too few seeds to say which of these neighbours in the ranking is better, each pair alone at "
            f"{100 * (1 - LEVEL):.0f} %: {'; '.join(close)}."
        )
        if any("(gap " in pair for pair in close):
            said += (
                " In brackets the gap in percentage points and the seeds that would show it "
                f"{100 * POWER:.0f} % of the time, were gap and spread what these seeds say."
            )
        yield said


def _mean(row: Row) -> float:
    return row.score.mean if row.score is not None else 0.0
