"""Which videos there are and what they show: the list every data set is turned into."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from timesformer_plus.data.annotations import csv_lines, part_of, text_lines
from timesformer_plus.data.inventory import Inventory, inside
from timesformer_plus.data.vocabulary import CLASSES_FILE as CLASSES_FILE  # known to others from here
from timesformer_plus.data.vocabulary import given_or_beside, of_labels


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
        missing: What the manifest lists but the disk does not hold: where each was looked for.
        unreadable: Id of a sample that is known to be unreadable, as by a scan -> why. It is among ``samples``, where
            it counts, and nobody is to try it: a file may hang a decoder.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    multi_label: bool
    missing: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict, hash=False)


class Reader(Protocol):
    """What reads the annotations of a data set; ``catalogues.READERS`` has one for every format."""

    def __call__(
        self,
        annotations: Path,
        /,
        *,
        videos: Path,
        classes: Sequence[str] | None = None,
        multi_label: bool = False,
        target: str | None = None,
    ) -> Manifest:
        """Read a manifest.

        Args:
            annotations: The file, folder or pattern of files that says what there is.
            videos: Folder that the videos lie in, and which no path may leave (links inside it may).
            classes: Names of the classes in the order of their indices; the data set's own list if not given.
            multi_label: Whether a video has any number of labels instead of one.
            target: Which of several labellings or parts of the data set; None for formats that have one only.

        Raises:
            ValueError: A row, the annotations or an option is not what it should be; the text names file, row and
                remedy. Videos that are not there are no error: they are in ``Manifest.missing``.
        """
        ...


class Collector:
    """Puts a manifest together, row by row.

    Args:
        source: The annotations, for errors.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._samples: list[Sample] = []
        self._missing: list[str] = []
        self._rows: dict[str, int] = {}

    def add(self, sample: Sample, row: int, *, found: bool) -> None:
        """Take in one row: a sample, or where its video was looked for.

        Raises:
            ValueError: Another row has the same id.
        """
        first = self._rows.setdefault(sample.id, row)
        if first != row:
            raise ValueError(
                f"{self.source}, row {row}: {sample.id!r} stands in row {first} already; remove one of the two"
            )
        if found:
            self._samples.append(sample)
        else:
            self._missing.append(str(sample.path))

    def manifest(self, classes: Sequence[str], *, multi_label: bool = False) -> Manifest:
        """The manifest of all rows so far.

        Raises:
            ValueError: There was none.
        """
        if not self._rows:
            raise ValueError(f"{self.source}: the manifest lists no video; add a row for each")
        return Manifest(_paired(self._samples), tuple(classes), multi_label, tuple(self._missing))


class _Row(NamedTuple):
    line: int
    path: str
    labels: Sequence[str]
    pair: str = ""
    group: str = ""
    start: float = 0.0
    end: float | None = None


def read_csv(
    path: str | Path,
    *,
    root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
) -> Manifest:
    """Read a manifest from a CSV file with the columns ``path,label[,pair][,group][,start,end]``; others are ignored.

    A label is the name of a class or its number; in a multi-label file it is any number of them joined by ``;``.
    ``start`` and ``end`` are seconds of the video; with them one video may stand in many rows, and the id of such a
    sample is ``path#t=start,end``.

    Args:
        path: The CSV file, in UTF-8.
        root: Folder that the paths in the file are relative to, and which they may not leave (links inside it may);
            the CSV's own folder if not given. A path names a video file, a folder of frame images or an ``.npy`` clip.
        classes: Names of the classes. If not given, the lines of ``classes.txt`` beside the CSV; without such a file,
            the names that occur in the CSV, sorted (when all are numbers: every number from 0 to the largest).
            Give the names, or the file, when splits may not contain every class.
        multi_label: Whether a video has any number of labels instead of one.

    Returns:
        The manifest, in the order of the file.

    Raises:
        ValueError: The file is missing, empty or has no such columns; a label is outside the classes; a path is empty,
            repeated or leaves ``root``; a part has no length; a pair has a single row. The text names the row and the
            remedy. Videos that are not there are no error: they are in ``Manifest.missing``.
    """
    path = Path(path)
    return _assemble(path, list(_csv_rows(path, multi_label)), root, classes, multi_label)


def read_jsonl(
    path: str | Path,
    *,
    root: str | Path | None = None,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
) -> Manifest:
    """Read a manifest from a file with one JSON object a line; its keys are the columns of ``read_csv``.

    A label is the name of a class or its number; in a multi-label file it is a list of them.

    Args:
        path: The file, in UTF-8.
        root: As for ``read_csv``.
        classes: As for ``read_csv``.
        multi_label: As for ``read_csv``.

    Returns:
        The manifest, in the order of the file.

    Raises:
        ValueError: As for ``read_csv``, or a line is not a JSON object.
    """
    path = Path(path)
    return _assemble(path, list(_json_rows(path, multi_label)), root, classes, multi_label)


def _assemble(
    path: Path,
    rows: Sequence[_Row],
    root: str | Path | None,
    classes: Sequence[str] | None,
    multi_label: bool,
) -> Manifest:
    if not rows:
        raise ValueError(f"{path}: the manifest lists no video; add a row for each")
    root = path.parent if root is None else Path(root)
    vocabulary = given_or_beside(path, classes) or of_labels(path, (name for row in rows for name in row.labels))
    inventory = Inventory(root)
    collector = Collector(path)
    pairs = Counter(row.pair for row in rows if row.pair)
    source = str(path)  # made once: there may be millions of rows
    for row in rows:
        where = f"{source}, row {row.line}"
        sample_id = name = inside(row.path, root, where)
        if row.start or row.end is not None:
            sample_id += f"#t={row.start:.12g},{'' if row.end is None else format(row.end, '.12g')}"
        indices = [vocabulary.index(label, where) for label in row.labels]
        if pairs[row.pair] == 1:
            raise ValueError(f"{where}: pair {row.pair!r} has no second row; add its partner or leave it empty")
        label = vocabulary.marks(indices) if multi_label else indices[0]
        sample = Sample(sample_id, root / name, label, row.pair, row.group, row.start, row.end)
        collector.add(sample, row.line, found=inventory.holds(name))
    return collector.manifest(vocabulary.names, multi_label=multi_label)


def _csv_rows(path: Path, multi_label: bool) -> Iterator[_Row]:
    lines = csv_lines(path)
    _, columns = next(lines, (1, []))
    for column in ("path", "label"):
        if column not in columns:
            raise ValueError(
                f"{path}: no column {column!r} among {columns}; the first row must be "
                "path,label[,pair][,group][,start,end]"
            )
    at_path, at_label = columns.index("path"), columns.index("label")
    # a row has one field more than it has columns: the empty one, which stands for columns that are not there
    at_pair, at_group, at_start, at_end = (
        columns.index(name) if name in columns else -1 for name in ("pair", "group", "start", "end")
    )
    for line, row in lines:
        if len(row) != len(columns):
            raise ValueError(
                f"{path}, row {line}: expected the {len(columns)} fields {columns}; quote a comma in a name"
            )
        row.append("")
        start, end = part_of(row[at_start], row[at_end], path, line)
        label = row[at_label].strip()
        labels = [label] if not multi_label else [name for name in map(str.strip, label.split(";")) if name]
        yield _Row(line, row[at_path], labels, row[at_pair], row[at_group], start, end)


def _json_rows(path: Path, multi_label: bool) -> Iterator[_Row]:
    for line, text in text_lines(path):
        where = f"{path}, row {line}"
        try:
            entry: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error}); write one object a line") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or "label" not in entry:
            raise ValueError(f'{where}: expected an object such as {{"path": "a.mp4", "label": "run"}}')
        given = entry["label"] if isinstance(entry["label"], list) else [entry["label"]]
        if isinstance(entry["label"], list) != multi_label:
            kind = "a list of labels" if multi_label else "one label; set multi_label for several"
            raise ValueError(f"{where}: label {entry['label']!r} must be {kind}")
        if not all(isinstance(name, str | int) and not isinstance(name, bool) for name in given):
            raise ValueError(f"{where}: label {entry['label']!r} must be a class name or a number")
        pair, group = ("" if entry.get(key) is None else str(entry[key]) for key in ("pair", "group"))
        start, end = part_of(entry.get("start"), entry.get("end"), path, line)
        yield _Row(line, entry["path"], [str(name).strip() for name in given], pair, group, start, end)


def _paired(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """A sample whose partners are not there is no partner any more."""
    samples = tuple(samples)
    counts = Counter(sample.pair for sample in samples if sample.pair)
    if 1 not in counts.values():
        return samples
    return tuple(dataclasses.replace(s, pair="") if counts[s.pair] == 1 else s for s in samples)


def without(manifest: Manifest, ids: Iterable[str]) -> Manifest:
    """Leave samples out: those that a scan found bad, or a list excludes.

    Args:
        manifest: The manifest.
        ids: Ids of samples; those of other splits may be among them.

    Returns:
        The rest, in the same order. A sample that loses its last partner loses its pair name.
    """
    bad = set(ids)
    kept = _paired(sample for sample in manifest.samples if sample.id not in bad)
    return dataclasses.replace(manifest, samples=kept)


def manifest_digest(manifest: Manifest) -> str:
    """Tell two splits apart, or two states of one: a digest that goes with a run and with every number.

    Args:
        manifest: The manifest.

    Returns:
        SHA-256, in hex, over the classes and the id, label, pair, group, start and end of every sample, in their order
        (which training's order builds on). The folder that the videos lie in does not matter, nor does what is in
        them.
    """
    digest = hashlib.sha256()
    header = ["manifest", 1, manifest.multi_label, *manifest.classes]
    rows = ([s.id, s.label, s.pair, s.group, s.start, s.end] for s in manifest.samples)
    for row in (header, *rows):
        digest.update(json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()
