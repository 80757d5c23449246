"""Look at every video before training does: which can be read, what they are, and what is wrong with the others.

Files are checked in other processes with limits of time and memory, so that one that hangs or crashes a decoder
is a verdict and not the end. A scan that is interrupted, in whatever way, is taken up where it stopped, and one that is
repeated looks at new and changed files only. Nothing is ever repaired, moved or deleted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from timesformer_plus.data.decoders import DecoderName, describe_auto, resolve_decoder
from timesformer_plus.data.guard import Limits
from timesformer_plus.data.inventory import VIDEO_SUFFIXES
from timesformer_plus.data.manifests import Manifest
from timesformer_plus.data.sandbox import Outcome, Sandbox
from timesformer_plus.data.scan_check import check_video, fingerprint
from timesformer_plus.data.scan_summary import ScanProgress, print_summary, what_to_do
from timesformer_plus.data.scan_table import Journal, ScanRow, read_exclude, read_scan, write_exclude, write_scan

__all__ = ["Scan", "ScanRow", "find_videos", "main", "read_exclude", "read_scan", "scan_videos", "write_exclude"]

SCAN_FILE = "scan.csv"
# Goes up when the same file and options give another verdict or other columns.
FORMAT = 1
# What checks import; imported once for all of them.
_LIBRARIES = ("av", "decord", "torchcodec.decoders", "timesformer_plus.data.stills")
# Seconds between two times that the rows found are brought to the disk.
_SYNC_EVERY = 2.0


class Target(NamedTuple):
    """A video to check.

    Attributes:
        name: What it is called in the table: its path relative to the scanned folder; for a member ``SHARD::NAME``.
        path: Where it lies.
        member: Offset and length of its bytes in ``path``, for a member of a tar archive.
    """

    name: str
    path: Path
    member: tuple[int, int] | None = None


class Scan(NamedTuple):
    """What a scan found.

    Attributes:
        rows: One for every video, by path.
        checked: How many of them were looked at now; the other rows were still good.
        left: Videos that an interrupted scan did not come to.
    """

    rows: tuple[ScanRow, ...]
    checked: int
    left: int

    @property
    def bad(self) -> tuple[ScanRow, ...]:
        """The rows of the videos that cannot be trained on."""
        return tuple(row for row in self.rows if row.verdict == "bad")


def scan_videos(
    root: str | Path,
    output: str | Path | None = None,
    *,
    manifests: Sequence[Manifest] = (),
    decoder: DecoderName = "auto",
    limits: Limits | None = None,
    jobs: int | None = None,
    max_seconds_per_file: float = 60.0,
    max_memory_mb: float = 2048.0,
    progress: bool = True,
    check: Callable[..., object] = check_video,
) -> Scan:
    """Check the videos of a folder and write what was found as a CSV file.

    Args:
        root: The folder. Without ``manifests``, every file below it with a video's suffix is checked, as
            ``find_videos`` says.
        output: The CSV file; ROOT/scan.csv if not given. Rows in it that still hold are kept, those of videos that are
            not there any more dropped. While the scan runs, its rows are also in a file beside it, ending in .journal.
        manifests: Check what these list instead, what they miss included.
        decoder: What training will read with; see ``open_video``.
        limits: How large a video may be; the usual limits if not given.
        jobs: Videos to check at the same time; one for every processor if not given.
        max_seconds_per_file: Time that the check of a video may take, in seconds, by the clock. A long video is decoded
            whole and may need more.
        max_memory_mb: Memory that the check of a video may take, in MB (10^6 bytes); enforced on Linux only.
        progress: Show a progress bar (on a terminal) or a line now and then (elsewhere).
        check: What to do with a video; for tests. Called as ``check_video`` is, in another process.

    Returns:
        What was found. Ctrl-C ends a scan early, with what there is; see ``Scan.left``.

    Raises:
        ValueError: No such folder, no video in it, ``output`` is something else or used by another scan, or an option
            that cannot be.
        ImportError: The decoder is not installed.
        OSError: ``output`` cannot be written.
        RuntimeError: The process that checks videos for this one has died.
    """
    root = Path(root)
    limits = limits or Limits()
    table = root / SCAN_FILE if output is None else Path(output)
    decoder = resolve_decoder(decoder)
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder; give the folder that the videos lie in")
    targets = _listed(root, manifests) if manifests else find_videos(root)
    if not targets:
        raise ValueError(f"{root}: there is no video in it, no file ending in {' '.join(VIDEO_SUFFIXES)}")
    sandbox = Sandbox(
        check,
        jobs=_processors() if jobs is None else jobs,
        max_seconds=max_seconds_per_file,
        max_memory_mb=max_memory_mb,
        preload=_LIBRARIES if check is check_video else (),
    )
    known = read_scan(table) if table.exists() else {}
    allowance = f"{max_seconds_per_file:g} s {max_memory_mb:g} MB"
    blank = ScanRow("", settings=scan_settings(decoder, limits), allowance=allowance)
    journal = Journal(table)
    try:
        known |= journal.rows()
        rows, waiting = _sort_out(targets, blank, known)
        kept = sum(known.get(row.path) == row for row in rows)
        if waiting:
            with ScanProgress(len(waiting), enabled=progress) as bar:
                _check_all(sandbox, waiting, (decoder, dataclasses.asdict(limits)), journal, rows, bar)
        write_scan(rows, table)
    except BaseException:
        journal.close(remove=False)
        raise
    journal.close(remove=True)
    rows.sort(key=lambda row: row.path)
    return Scan(tuple(rows), checked=len(rows) - kept, left=len(targets) - len(rows))


def find_videos(root: Path) -> list[Target]:
    """The video files below a folder, by path.

    These are the files with a video's suffix, whatever they are (a pipe or a link to nowhere is a bad video), and
    folders with one. Folders of frames called otherwise and ``.npy`` files are found through a manifest only: such a
    file may be anything. Hidden files and folders are passed over. Links are followed, as training does; a folder that
    several names lead to is gone through once, under its own name if that is below ``root``.

    Args:
        root: The folder.

    Raises:
        OSError: A folder cannot be listed.
    """
    found: list[Target] = []
    seen: set[tuple[int, int]] = set()
    folders: list[Path] = [root]
    links: list[Path] = []
    while folders or links:
        # links last, so that a folder is known by its own name
        folder = folders.pop() if folders else links.pop(0)
        facts = folder.stat()
        if (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                path = folder / entry.name
                if path.suffix.lower() in VIDEO_SUFFIXES and path.suffix.lower() != ".npy":
                    found.append(Target(path.relative_to(root).as_posix(), path))
                if _is_folder(entry):
                    (links if entry.is_symlink() else folders).append(path)
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _listed(root: Path, manifests: Sequence[Manifest]) -> list[Target]:
    def named(path: Path) -> str:
        return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()

    found: set[Target] = set()
    for manifest in manifests:
        found |= {Target(named(Path(path)), Path(path)) for path in manifest.missing}
        for sample in manifest.samples:
            if sample.member is None:
                found.add(Target(named(sample.path), sample.path))
            else:
                part = (sample.member.offset, sample.member.length)
                found.add(Target(f"{named(sample.path)}::{sample.member.name}", sample.path, part))
    return sorted(found, key=lambda target: target.name)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def scan_settings(decoder: DecoderName, limits: Limits) -> str:
    """What verdicts depend on beside the files, as a digest: the scan's own format, the decoder and the limits."""
    reads = describe_auto() if decoder == "auto" else decoder
    text = json.dumps([FORMAT, decoder, reads, dataclasses.asdict(limits)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sort_out(
    targets: Sequence[Target], blank: ScanRow, known: dict[str, ScanRow]
) -> tuple[list[ScanRow], list[tuple[Target, ScanRow]]]:
    """Rows that need no look at the file, and the files that do, with what is known of each."""
    rows, waiting = [], []
    for target in targets:
        size, changed = fingerprint(target.path, target.member)
        # a name in bytes that are no UTF-8 has lone surrogates in it, which no text file can hold
        name = target.name.encode(errors="backslashreplace").decode()
        row = dataclasses.replace(blank, path=name, size_bytes=size, mtime_ns=changed)
        if name != target.name:
            reason = "its name is not in UTF-8, so that no manifest can list it; rename it"
            rows.append(dataclasses.replace(row, kind="name", reason=reason))
        elif name in known and known[name].still_holds(row):
            rows.append(known[name])
        else:
            waiting.append((target, row))
    return rows, waiting


def _check_all(
    sandbox: Sandbox,
    waiting: Sequence[tuple[Target, ScanRow]],
    arguments: Sequence[Any],
    journal: Journal,
    rows: list[ScanRow],
    bar: ScanProgress,
) -> None:
    """Check files and add their rows, which are in the journal by then. Ctrl-C is the end."""
    synced = time.monotonic()
    calls = ((i, (str(target.path), target.member, *arguments)) for i, (target, _) in enumerate(waiting))
    try:
        with sandbox:
            for outcome in sandbox.run(calls):
                row = _judged(waiting[outcome.key][1], outcome)
                journal.add(row)
                rows.append(row)
                bar.step(row)
                if time.monotonic() - synced > _SYNC_EVERY:
                    journal.sync()
                    synced = time.monotonic()
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: writing what there is\n")


def _judged(row: ScanRow, outcome: Outcome) -> ScanRow:
    notes = dict(outcome.notes)
    stage = notes.pop("stage", "")
    if outcome.status != "done":
        where = f" while {stage}" if stage else ""
        advice = {
            "hang": "; a long video may need more: raise max_seconds_per_file, or leave it out",
            "memory": "; raise max_memory_mb, or leave it out",
        }.get(outcome.status, "; leave it out, or convert it")
        notes |= {"verdict": "bad", "kind": outcome.status, "reason": outcome.detail + where + advice}
    return dataclasses.replace(row, **notes)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of ``tools/scan.py``.

    Returns:
        0 if all videos are good, 1 if some are bad, 2 if there was nothing to scan, or something is wrong with the
        options, 130 if it was interrupted.
    """
    from jsonargparse import ArgumentParser

    from timesformer_plus.data.catalogues import read_manifest

    parser = ArgumentParser(
        prog="scan",
        description="Check every video of a folder and write scan.csv, which training reads. Changes no video. Run it "
        "again after an interruption, or when videos have changed: what is known is kept.",
        allow_abbrev=False,
    )
    skipped: set[str | int] = {"manifests", "check", "limits", "root"}
    parser.add_argument("root", type=Path, help="The folder of the videos.")
    parser.add_function_arguments(scan_videos, skip=skipped, as_group=False)
    parser.add_class_arguments(Limits, "limits")
    parser.add_argument("--manifest", nargs="+", default=[], help="Check what these list, instead of all videos.")
    parser.add_argument("--format", default="auto", help="What the manifests are, as in training.")
    parser.add_argument("--target", type=str | None, default=None, help="As in training, for formats that have one.")
    parser.add_argument("--multi_label", type=bool, default=False, help="As in training.")
    parser.add_argument("--exclude", type=Path | None, default=None, help="Also write the bad paths here, one a line.")
    words = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(words)
    try:
        options = parser.instantiate(options).as_dict()
    except ValueError as error:
        parser.error(str(error))
    exclude, named = options.pop("exclude"), options.pop("manifest")
    reading = {name: options.pop(name) for name in ("format", "target", "multi_label")}
    try:
        root = options["root"]
        if exclude is not None and not exclude.parent.is_dir():
            raise ValueError(f"exclude={exclude}: there is no folder {exclude.parent}; make it first")
        listed = [Path(name) if Path(name).exists() else root / name for name in named]
        manifests = [read_manifest(path, videos=root, **reading) for path in listed]
        scan = scan_videos(manifests=manifests, **options)
        if exclude is not None:
            write_exclude([row.path for row in scan.bad], exclude)
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print_summary(scan.rows, checked=scan.checked)
    if scan.left:
        sys.stderr.write(f"{scan.left} videos were not looked at; run it again to go on\n")
        return 130
    if scan.bad:
        print(what_to_do(exclude, words, options["root"]))
    return 1 if scan.bad else 0
