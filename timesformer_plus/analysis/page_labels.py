"""Where the marks of a picture of points go, and the names beside them, so that none lies on another.

All of it is arithmetic on rectangles in pixels, y downwards. Sizes of texts are estimated: what draws them is a browser
that is not there yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

A_CHARACTER, A_LINE = 7.5, 13.0  # of the bold names, which are set in 12.5 pixels
MARK = 6.0  # half a mark
GAP = 8.0  # from a mark's centre to a name; plotly's: radius / .8 + 1

# plotly's text position -> how the name lies to the mark, in units of the gap and of its own half size
SIDES = {
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top center": (0, -1),
    "bottom center": (0, 1),
    "top right": (1, -1),
    "bottom right": (1, 1),
    "top left": (-1, -1),
    "bottom left": (-1, 1),
}


class Box(NamedTuple):
    """A rectangle, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


def spread(places: Sequence[float], step: float) -> list[float]:
    """Move points of one place side by side: the first given stays, the others go right and left of it in turn.

    Args:
        places: Along one axis, in pixels; within half a pixel is the same place.
        step: Between neighbours, in pixels.
    """
    moved = list(places)
    order = sorted(range(len(places)), key=lambda index: places[index])
    while order:
        same = [index for index in order if places[index] - places[order[0]] < 0.5]
        order = order[len(same) :]
        for rank, index in enumerate(sorted(same)):  # as given, not by the last digits of their places
            moved[index] += (rank + 1) // 2 * (step if rank % 2 else -step)
    return moved


def place_names(
    names: Sequence[str],
    marks: Sequence[tuple[float, float]],
    frame: Box,
    *,
    first: Sequence[int] = (),
    lines: Sequence[Box] = (),
) -> list[str]:
    """Find a side for every name, one name after another.

    Args:
        names: A name a mark.
        marks: Centres of the marks.
        frame: What no name may leave.
        first: Marks whose names choose first, in this order.
        lines: What names keep as clear of as they can, such as error bars.

    Returns:
        Keys of ``SIDES``; empty for a name that has no room beside the marks and the names before it.
    """
    taken = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in marks]
    sides = [""] * len(names)
    for index in dict.fromkeys([*first, *range(len(names))]):
        boxes = {side: box_of(names[index], marks[index], side) for side in SIDES}
        free = [side for side, box in boxes.items() if box.within(frame) and not any(map(box.meets, taken))]
        if free:
            sides[index] = min(free, key=lambda side: sum(map(boxes[side].meets, lines)))  # the first of the clearest
            taken.append(boxes[sides[index]])
    return sides


def box_of(name: str, mark: tuple[float, float], side: str) -> Box:
    """The rectangle of a name beside its mark."""
    width, (right, down) = A_CHARACTER * len(name), SIDES[side]
    x, y = mark[0] + right * (GAP + width / 2), mark[1] + down * (GAP + A_LINE / 2)
    return Box(x - width / 2, y - A_LINE / 2, x + width / 2, y + A_LINE / 2)
