"""Which videos there are and what they show: the list every data set is turned into."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

CLASSES_FILE = "classes.txt"
# Numbers without names make a class for every number up to the largest: an id given as label must not make millions.
MAX_UNNAMED_CLASSES = 100_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled video, or a labelled part of one.

    Attributes:
        id: Its name in the manifest, unique there: the path as the manifest gives it, unless the data set has a better.
        path: Where it lies: a video file, a folder of frame images, an ``.npy`` clip, or the tar shard that holds it.
        label: A class index, or in a multi-label manifest one 0 or 1 for every class.
        pair: Samples that share a non-empty pair name are partners, which a model should get right together.
        group: Samples that share a non-empty group name were cut from one recording; no two splits may share one.
        start: Where the labelled part begins, in seconds of the video.
        end: Where it ends, in seconds; ``None`` for the end of the video.
        member: In a tar shard, the video's name there, the place of its first byte and its length in bytes.
    """

    id: str
    path: Path
    label: int | tuple[int, ...]
    pair: str = ""
    group: str = ""
    start: float = 0.0
    end: float | None = None
    member: Member | None = None


class Member(NamedTuple):
    """A file inside a tar shard, by the bytes that it takes up there."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True)
class Manifest:
    """The videos of one split.

    Attributes:
        samples: The videos that are there, in the order of the file.
        classes: Name of every class; its place is the class index.
        multi_label: Whether labels are one 0 or 1 for every class instead of one index.
        missing: What the manifest lists but the disk does not hold.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    multi_label: bool
    missing: tuple[str, ...] = ()


def read_csv(
    path: str | Path,
    *,
    root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
) -> Manifest:
    """Read a manifest from a CSV file whose header is ``path,label`` or ``path,label,pair``; other columns are ignored.

    A label is the name of a class or its number; in a multi-label file it is any number of them joined by ``;``.

    Args:
        path: The CSV file, in UTF-8.
        root: Folder that the paths in the file are relative to, and which they may not leave (links inside it may);
            the CSV's own folder if not given.
        classes: Names of the classes. If not given, the lines of ``classes.txt`` beside the CSV; without such a file,
            the names that occur in the CSV, sorted (when all are numbers: every number from 0 to the largest).
            Give the names, or the file, when splits may not contain every class.
        multi_label: Whether a video has any number of labels instead of one.

    Returns:
        The manifest, in the order of the file.

    Raises:
        ValueError: The file is missing, empty or has no such columns; a label is outside the classes; a path is empty,
            repeated, leaves ``root`` or has no file; a pair has a single row. The text names the row and the remedy.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    rows = _read_rows(path)
    labels = [_split_label(row["label"], multi_label) for _, row in rows]
    names = _class_names(path, labels, classes)
    numbers = {name: i for i, name in enumerate(names)}

    samples = []
    first_row: dict[str, int] = {}
    missing = []
    for (line, row), parts in zip(rows, labels, strict=True):
        where = f"{path}, row {line}"
        sample_id = _checked_path(row["path"], root, where)
        if sample_id in first_row:
            raise ValueError(f"{where}: path {sample_id!r} stands in row {first_row[sample_id]} already; remove one")
        first_row[sample_id] = line
        if not (root / sample_id).is_file():
            missing.append(f"{root / sample_id} (row {line})")
        indices = [_class_index(part, numbers, where) for part in parts]
        label = tuple(int(i in indices) for i in range(len(names))) if multi_label else indices[0]
        samples.append(Sample(sample_id, root / sample_id, label, row.get("pair") or ""))
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(rows)} videos are not there, first {'; '.join(missing[:3])}; "
            f"paths are relative to {root}: give another `root`, or remove the rows"
        )
    _check_pairs(path, samples, list(first_row.values()))
    return Manifest(tuple(samples), names, multi_label)


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Every row with the number of its (last) line in the file."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such manifest; it must be a CSV file with the header path,label[,pair]")
    try:
        # utf-8-sig: spreadsheets begin a CSV file with a byte-order mark, which would become part of the first name
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    for column in ("path", "label"):
        if column not in columns:
            raise ValueError(f"{path}: no column {column!r} among {columns}; the first row must be path,label[,pair]")
    if not rows:
        raise ValueError(f"{path}: the manifest lists no video; add a row for each")
    for line, row in rows:
        # DictReader files surplus fields under None and fills lacking ones with None
        if None in row or row["path"] is None or row["label"] is None:
            raise ValueError(
                f"{path}, row {line}: expected the {len(columns)} fields {columns}; quote a comma in a name"
            )
    return rows


def _split_label(label: str, multi_label: bool) -> list[str]:
    if not multi_label:
        return [label.strip()]
    return [part.strip() for part in label.split(";") if part.strip()]


def _class_names(path: Path, labels: list[list[str]], classes: Sequence[str] | None) -> tuple[str, ...]:
    source = "`classes`"
    if classes is None and (beside := path.with_name(CLASSES_FILE)).is_file():
        source = str(beside)
        classes = [line.strip() for line in beside.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if classes is None:
        source = str(path)
        used = {part for parts in labels for part in parts}
        if used and all(_is_number(name) for name in used):
            largest = max(map(int, used))
            if largest >= MAX_UNNAMED_CLASSES:
                raise ValueError(
                    f"{path}: class number {largest} without class names; name the classes in {CLASSES_FILE}"
                )
            classes = [str(i) for i in range(largest + 1)]
        else:
            classes = sorted(used - {""})
    names = tuple(classes)
    if not names:
        raise ValueError(f"{source}: no class name; write one a line in {CLASSES_FILE}, or label the videos")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{source}: class {twice!r} is listed twice; class names must differ")
    return names


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _class_index(name: str, numbers: dict[str, int], where: str) -> int:
    if name in numbers:
        return numbers[name]
    if _is_number(name) and int(name) < len(numbers):
        return int(name)
    some = ", ".join(repr(known) for known in list(numbers)[:8]) + (", ..." if len(numbers) > 8 else "")
    raise ValueError(
        f"{where}: label {name!r} is not one of the {len(numbers)} classes ({some}, or a number from 0 to "
        f"{len(numbers) - 1}); correct it, or add it to {CLASSES_FILE}"
    )


def _checked_path(text: str, root: Path, where: str) -> str:
    if not text.strip():
        raise ValueError(f"{where}: the path is empty; give the video's path relative to {root}")
    normal = os.path.normpath(text)
    # windows rules too, so that a manifest means the same everywhere: "C:x" and "\\host\x" are absolute there
    absolute = os.path.isabs(normal) or bool(PureWindowsPath(text).drive or PureWindowsPath(text).root)
    if absolute or ".." in PurePosixPath(Path(normal).as_posix()).parts:
        raise ValueError(f"{where}: path {text!r} leaves {root}; give a relative path inside it, or another `root`")
    return Path(normal).as_posix()


def _check_pairs(path: Path, samples: Sequence[Sample], lines: Sequence[int]) -> None:
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.pair] = counts.get(sample.pair, 0) + 1
    for line, sample in zip(lines, samples, strict=True):
        if sample.pair and counts[sample.pair] == 1:
            raise ValueError(
                f"{path}, row {line}: pair {sample.pair!r} has no second row; add its partner or leave it empty"
            )
