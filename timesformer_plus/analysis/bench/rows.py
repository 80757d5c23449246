"""What a table of the benchmark is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, cast, get_args

import numpy as np

Unit = Literal["ratio", "percent", "exponent", "seconds", "MB"]
Better = Literal["higher", "lower"]

DIMENSIONLESS: tuple[Unit, ...] = ("ratio", "percent", "exponent")
"""Units of what may be compared between machines."""


class Row(TypedDict):
    """One figure.

    Attributes:
        table: The table that it belongs to.
        name: What was measured; with table and unit it tells the row from all others.
        unit: Of median, quartiles, values and target. ``MB`` is 10^6 bytes.
        median: Of ``values``.
        q1: Their lower quartile.
        q3: Their upper quartile.
        values: One a round, in the order in which they were taken.
        detail: What the figure was made of, for whoever wants to know: medians in absolute numbers, sizes.
        target: What it was to reach; None where nothing was set.
        better: Which way is better.
        note: One line on what limits it.
    """

    table: str
    name: str
    unit: Unit
    median: float
    q1: float
    q3: float
    values: list[float]
    detail: dict[str, Any]
    target: float | None
    better: Better
    note: str


class Progress(Protocol):
    """Where a table says what it is doing, and what it leaves out."""

    def __call__(self, text: str) -> None:
        """Show what is being measured, until the next one."""

    def say(self, text: str) -> None:
        """Print a line that stays, and keep it in the file."""


def make_row(
    table: str,
    name: str,
    values: Sequence[float],
    *,
    unit: Unit = "ratio",
    better: Better = "higher",
    target: float | None = None,
    note: str = "",
    detail: Mapping[str, Any] | None = None,
    quartiles: tuple[float, float] | None = None,
) -> Row:
    """Sum up the rounds of a measurement.

    Args:
        table: The table.
        name: Of the row.
        values: One a round; at least one, all finite.
        unit: Their unit.
        better: Which way is better.
        target: What was to be reached.
        note: One line on what limits it.
        detail: See ``Row``.
        quartiles: Where they do not come from the values: those of a fit's error, say.

    Raises:
        ValueError: No values, or one that is no number.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"{table}: {name} has values {list(values)}; a row needs one finite number or more")
    q1, median, q3 = (float(q) for q in np.quantile(list(values), (0.25, 0.5, 0.75)))
    q1, q3 = quartiles or (q1, q3)
    return Row(
        table=table,
        name=name,
        unit=unit,
        median=median,
        q1=q1,
        q3=q3,
        values=[float(value) for value in values],
        detail=dict(detail or {}),
        target=target,
        better=better,
        note=note,
    )


def check_row(row: Mapping[str, Any]) -> Row:
    """Take a dict for a row, if it is one.

    Raises:
        ValueError: It lacks a key or has one too many, or a value is of the wrong kind.
    """
    wanted, given = set(Row.__annotations__), set(row)
    where = f"row {row.get('name')!r} of table {row.get('table')!r}"
    if wanted != given:
        raise ValueError(f"{where} lacks {sorted(wanted - given)} and has {sorted(given - wanted)} too many")
    if row["unit"] not in get_args(Unit) or row["better"] not in get_args(Better):
        raise ValueError(
            f"{where}: unit {row['unit']!r} has to be one of {', '.join(get_args(Unit))}, and better "
            f"{row['better']!r} one of {', '.join(get_args(Better))}"
        )
    numbers = [row["median"], row["q1"], row["q3"], *row["values"], *([] if row["target"] is None else [row["target"]])]
    if not row["values"] or not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
        raise ValueError(f"{where} has something other than finite numbers: {numbers}")
    if not row["q1"] <= row["median"] <= row["q3"]:
        raise ValueError(f"{where}: its median {row['median']} is outside its quartiles {row['q1']}, {row['q3']}")
    if not isinstance(row["detail"], dict) or not isinstance(row["note"], str):
        raise ValueError(f"{where}: detail has to be a dict and note a text")
    return cast(Row, dict(row))


def is_reached(row: Row) -> bool | None:
    """Whether the median has reached the target; None where there is none."""
    if row["target"] is None:
        return None
    return row["median"] >= row["target"] if row["better"] == "higher" else row["median"] <= row["target"]
