"""What a scan found, as a table on disk: one row a video, in a CSV file that training and people can read."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, get_args

Verdict = Literal["ok", "bad"]
# bad for what the machine could give, not for what the file holds: with other limits these may be good
LIMITED = ("hang", "memory")


@dataclass(frozen=True, slots=True)
class ScanRow:
    """What is known of one video. Numbers that are not known are 0, words are empty.

    Attributes:
        path: Where it lies, relative to the scanned folder, with forward slashes; in a tar shard ``SHARD::NAME``.
        size_bytes: Bytes of the file; of all its images for a folder of frames.
        mtime_ns: When it was changed last, in nanoseconds since 1970.
        codec: FFmpeg's name of the codec.
        container: FFmpeg's name of the container; ``images`` and ``array`` for a folder of frames and an ``.npy`` file.
        height: Of the upright frames, in pixels.
        width: Of the upright frames, in pixels.
        frames_header: Frames that the header announces; 0 where it does not say.
        frames_decoded: Frames that came out of a decode from start to end.
        fps: Average frames per second.
        seconds: Duration.
        sha256: Hash of the content, in hexadecimal.
        decoder: What reads it in training.
        verdict: ``ok`` or ``bad``.
        kind: What kind of bad, in a word or two; empty for ``ok``.
        reason: What is wrong with it and what to try; empty for ``ok``.
        settings: What the verdict depends on beside the file: a digest of the kind of scan, decoder and limits.
        allowance: Time and memory that the check was given.
    """

    path: str
    size_bytes: int = 0
    mtime_ns: int = 0
    codec: str = ""
    container: str = ""
    height: int = 0
    width: int = 0
    frames_header: int = 0
    frames_decoded: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    sha256: str = ""
    decoder: str = ""
    verdict: Verdict = "bad"
    kind: str = ""
    reason: str = ""
    settings: str = ""
    allowance: str = ""

    def still_holds(self, other: ScanRow) -> bool:
        """Whether a check of ``other``, of which only the file and the settings are known, would say the same."""
        same = all(getattr(self, name) == getattr(other, name) for name in ("size_bytes", "mtime_ns", "settings"))
        return same and (self.allowance == other.allowance or self.kind not in LIMITED)


COLUMNS = tuple(field.name for field in dataclasses.fields(ScanRow))
_NUMBERS = {field.name: {"int": int, "float": float}[str(field.type)]
            for field in dataclasses.fields(ScanRow) if str(field.type) in ("int", "float")}  # fmt: skip


def read_scan(path: str | Path) -> dict[str, ScanRow]:
    """Read what a scan has written.

    Args:
        path: The CSV file.

    Returns:
        The row of every path, in the order of the file.

    Raises:
        ValueError: No such file, or not written by a scan; the text names the row.
    """
    path = Path(path)
    rows: dict[str, ScanRow] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            if tuple(next(reader, ())) != COLUMNS:
                raise ValueError(
                    f"{path}: is not what this version's scan writes: the first row must be {','.join(COLUMNS)}; "
                    "scan again into another file"
                )
            for fields in reader:
                row = _row(fields, f"{path}, row {reader.line_num}")
                if row.path in rows:
                    raise ValueError(f"{path}, row {reader.line_num}: {row.path!r} stands there twice; scan again")
                rows[row.path] = row
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file; make it with tools/scan.py") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give the CSV file of a scan") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error}); scan again") from error
    return rows


def _row(fields: Sequence[str], where: str) -> ScanRow:
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{where}: {len(fields)} fields instead of {len(COLUMNS)}; scan again")
    values: dict[str, object] = {}
    for name, text in zip(COLUMNS, fields, strict=True):
        if name in _NUMBERS:
            try:
                values[name] = number = _NUMBERS[name](text)
            except ValueError as error:
                raise ValueError(f"{where}: {name} is {text!r}, which is no number; scan again") from error
            if not 0 <= number < math.inf and name != "mtime_ns":  # dates before 1970 are below zero
                raise ValueError(f"{where}: {name} is {text!r}, which cannot be; scan again")
        else:
            values[name] = text
    row = ScanRow(**values)  # type: ignore[arg-type]
    if row.verdict not in get_args(Verdict) or not row.path:
        raise ValueError(f"{where}: verdict {row.verdict!r} of {row.path!r}; it is 'ok' or 'bad'; scan again")
    return row


def write_scan(rows: Iterable[ScanRow], path: Path) -> None:
    """Write rows, sorted by path; the file appears whole or not at all."""

    def write(file: IO[str]) -> None:
        plain = csv.writer(file, lineterminator="\n")
        # a bare carriage return ends a line for readers, but is nothing that older writers quote
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(COLUMNS)
        for row in sorted(rows, key=lambda row: row.path):
            values = [getattr(row, name) for name in COLUMNS]
            (quoted if "\r" in "".join(map(str, values)) else plain).writerow(values)

    _write_whole(path, write)


def write_exclude(paths: Iterable[str], path: Path) -> None:
    """Write a list of paths, one a line, sorted; the file appears whole or not at all.

    Args:
        paths: The paths. One that a plain line cannot hold (it has a line break, begins or ends with a space, or begins
            with a quote or ``#``) is written as a JSON string.
        path: The file.
    """

    def line(text: str) -> str:
        is_plain = text.isprintable() and text == text.strip() and text[:1] not in ('"', "#", "")
        return (text if is_plain else json.dumps(text, ensure_ascii=False)) + "\n"

    _write_whole(path, lambda file: file.writelines(map(line, sorted(set(paths)))))


def read_exclude(path: str | Path) -> tuple[str, ...]:
    """Read a list of paths, one a line, as ``write_exclude`` or a person writes it.

    Args:
        path: The file. Empty lines, and those that begin with ``#``, are not looked at.

    Raises:
        ValueError: No such file, not UTF-8, or a line that begins with a quote and is no JSON string.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); give a text file in UTF-8, one path a line") from error
    found = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if line.startswith('"'):
            try:
                found.append(str(json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: {line!r} is not a string in JSON ({error})") from error
        elif line and not line.startswith("#"):
            found.append(line)
    return tuple(found)


class Journal:
    """Rows as they come, beside the table that they will be in, so that a scan that dies has lost next to nothing.

    Args:
        table: The CSV file that the scan is to write.

    Raises:
        ValueError: Another scan is at it.
        OSError: The folder cannot be written.
    """

    def __init__(self, table: Path) -> None:
        import fcntl  # Windows has none, and no scan; but it reads tables

        self.path = table.with_name(table.name + ".journal")
        self._file = self.path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"{table}: another scan is writing it; wait for it, or give another output") from error

    def rows(self) -> dict[str, ScanRow]:
        """What an earlier scan left behind; lines that its end cut in two are as good as none."""
        rows = {}
        for line in self.path.read_bytes().split(b"\n"):
            try:
                row = ScanRow(**json.loads(line))
            except (ValueError, TypeError):
                continue
            rows[row.path] = row
        return rows

    def add(self, row: ScanRow) -> None:
        """Keep a row, safe from the death of this process; ``sync`` makes it safe from that of the machine."""
        # in front, a line break that ends what an earlier scan left unfinished
        self._file.write(b"\n" + json.dumps(dataclasses.asdict(row)).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Bring the rows to the disk."""
        os.fsync(self._file.fileno())

    def close(self, *, remove: bool) -> None:
        """Let go of it; ``remove`` it when its rows are in the table."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()


def _write_whole(path: Path, write: Callable[[IO[str]], None]) -> None:
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", newline="", encoding="utf-8") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
