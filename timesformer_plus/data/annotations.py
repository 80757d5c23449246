"""Rows of annotation files as people and spreadsheets leave them: byte-order marks, CRLF and blank lines are fine."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def csv_lines(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Fields of every row of a CSV file that is not blank, with the number of its (last) line.

    Raises:
        ValueError: There is no such file, or it is no CSV file in UTF-8.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such manifest; give a file")
    try:
        # utf-8-sig: spreadsheets begin a CSV file with a byte-order mark, which would become part of the first name
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from error


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Every line of a text file that is not blank, stripped, with its number.

    Raises:
        ValueError: There is no such file, or it is no text in UTF-8.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line := line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from error


def part_of(start: object, end: object, path: Path, line: int) -> tuple[float, float | None]:
    """The labelled part of a video, in seconds; an empty start is the video's, an empty end its end.

    Raises:
        ValueError: One is no number of seconds from 0, or the part has no length.
    """
    if start in ("", None) and end in ("", None):
        return 0.0, None
    try:
        first = 0.0 if start in ("", None) else float(start)  # type: ignore[arg-type]
        last = None if end in ("", None) else float(end)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        first, last = math.nan, None
    if not 0 <= first < (math.inf if last is None else last) or last == math.inf:
        raise ValueError(f"{path}, row {line}: start {start!r} and end {end!r}; give seconds, 0 <= start < end")
    return first, last


def json_file(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: There is no such file, or it is no JSON in UTF-8.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise ValueError(f"{path}: not a JSON file in UTF-8 ({error})") from error


def records(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with a header, column -> field, with the number of their (last) line.

    Args:
        path: The file.
        needed: Columns that it must have.

    Raises:
        ValueError: It lacks a column, or a row has more or fewer fields than there are columns.
    """
    lines = csv_lines(path)
    _, columns = next(lines, (1, []))
    if lacking := [column for column in needed if column not in columns]:
        raise ValueError(f"{path}: no column {lacking[0]!r} among {columns}; the first row must name the columns")
    for line, row in lines:
        if len(row) != len(columns):
            raise ValueError(f"{path}, row {line}: expected the {len(columns)} fields {columns}; found {len(row)}")
        yield line, dict(zip(columns, row, strict=True))


def first_beside(annotations: Path, names: Sequence[str]) -> Path | None:
    """The first of several files in the folder of the annotations that is there; None where none is."""
    return next((path for name in names if (path := annotations.parent / name).is_file()), None)


def beside(annotations: Path, names: Sequence[str], content: str) -> Path:
    """The first of several files in the folder of the annotations that is there.

    Args:
        annotations: The annotations.
        names: Names that the file goes by.
        content: What it holds, for the error.

    Raises:
        ValueError: None is there.
    """
    path = first_beside(annotations, names)
    if path is not None:
        return path
    raise ValueError(
        f"{annotations.parent}: there is no {' or '.join(names)}, which holds {content}; put it beside "
        f"{annotations.name}, or give `classes`"
    )
