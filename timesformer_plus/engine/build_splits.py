"""Which videos a run works with: what its splits list, less what is missing, unreadable or excluded; all counted."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from timesformer_plus.data.catalogues import read_manifest
from timesformer_plus.data.copies import find_copies, place_of
from timesformer_plus.data.manifests import Manifest, Sample, without
from timesformer_plus.data.scan import SCAN_FILE, scan_settings
from timesformer_plus.data.scan_check import fingerprint
from timesformer_plus.data.scan_table import LIMITED, ScanRow, read_exclude, read_scan
from timesformer_plus.data.splits import check_classes, check_coverage, check_leaks, find_leaks
from timesformer_plus.engine.data_config import DataConfig, require
from timesformer_plus.engine.processes import agreed

# verdicts on what a decoder or a limit made of a file, not on the file
OF_THE_SETTINGS = ("unsupported", "too large", *LIMITED)


@dataclass(frozen=True)
class SplitCounts:
    """What became of the videos that a split lists.

    Attributes:
        expected: Videos that it lists, without those to exclude.
        found: Videos that are used: trained on, or scored.
        missing: Videos that are not there.
        unreadable: Videos that the scan could not read. Training leaves them out; of a split that is scored they are
            among those found, and wrong.
        excluded: Videos that were left out by the list in `data.exclude`.
    """

    expected: int
    found: int
    missing: int
    unreadable: int
    excluded: int


class SplitReader:
    """Reads splits by one configuration, with the scan and the list of exclusions read once.

    Args:
        data: The options.

    Attributes:
        counts: Name of a split that was read -> what became of its videos.
        lines: The same for people: a line a split, and what else should be known.

    Raises:
        ValueError: The scan or the list of exclusions is malformed, or is not there although it is named.
    """

    def __init__(self, data: DataConfig) -> None:
        self.data = data
        self.counts: dict[str, SplitCounts] = {}
        self.lines: list[str] = []
        self._scan_path = data.videos_root / SCAN_FILE if data.scan == "auto" else Path(data.scan)
        reads = data.scan != "none" and (data.scan != "auto" or self._scan_path.is_file())
        self._scan = read_scan(self._scan_path) if reads else {}
        excluded = () if data.exclude is None else read_exclude(data.exclude)
        self._excluded = {posixpath.normpath(path) for path in excluded}
        self._settings = scan_settings(data.decoder, data.limits) if self._scan else ""

    def read(
        self, name: str, file: str | Path, classes: tuple[str, ...] | None = None, *, scored: bool = False
    ) -> Manifest:
        """Read a split.

        Args:
            name: What to call it.
            file: Its annotations, relative to `data.root`.
            classes: Names of the classes; those of the annotations if not given.
            scored: Whether the split is scored: videos that the scan calls bad then stay in it, as
                ``Manifest.unreadable``, and count as wrong. Else they are left out and count as missing.

        Returns:
            What can be used of it.

        Raises:
            ValueError: The annotations are missing or malformed, a label is outside the classes, more videos than
                `data.max_missing` are missing (or, if not `scored`, bad), or the scan calls all of them bad.
        """
        data = self.data
        listed = read_manifest(
            data.root / file,
            format=data.format,
            videos=data.videos_root,
            classes=classes,
            multi_label=data.multi_label,
            target=data.target,
        )
        named = [s.id for s in listed.samples if self._excluded & {s.id, self.relative(s)}]
        there = without(listed, named)
        bad = self._unreadable(there)
        if scored:
            manifest = dataclasses.replace(there, unreadable=bad)
        else:
            # a pair that loses one of its two is none any more: without() sees to that
            manifest = without(there, bad)
            lost = (f"{sample.path} ({bad[sample.id]})" for sample in there.samples if sample.id in bad)
            manifest = dataclasses.replace(manifest, missing=(*listed.missing, *lost))
        line = check_coverage(manifest, name, data.max_missing)
        require(
            not scored or len(bad) < len(manifest.samples),
            f"{line}; {self._scan_path} calls all of them bad, so there is nothing to score: get them again",
        )
        self.counts[name] = SplitCounts(
            expected=len(manifest.samples) + len(manifest.missing),
            found=len(manifest.samples),
            missing=len(listed.missing),
            unreadable=len(bad),
            excluded=len(named),
        )
        if bad:
            what = f"; {len(bad)} of those found count as wrong, by" if scored else f" ({len(bad)} of them by"
            line += f"{what} {self._scan_path}{'' if scored else ')'}"
        self.lines.append(f"{line}; {len(named)} more are excluded" if named else line)
        return manifest

    def relative(self, sample: Sample) -> str:
        """A video's path as the scan calls it."""
        root = self.data.videos_root
        path = (sample.path.relative_to(root) if sample.path.is_relative_to(root) else sample.path).as_posix()
        return path if sample.member is None else f"{path}::{sample.member.name}"

    def check(self, manifests: Mapping[str, Manifest]) -> None:
        """Look at all splits together: at what they share, and at lists that fit none of them.

        Raises:
            ValueError: A video, its copy or a recording is in two splits and `data.allow_leaks` is not set; or the scan
                or the list of exclusions knows none of the videos although it was named.
        """
        data, samples = self.data, [sample for manifest in manifests.values() for sample in manifest.samples]
        left_out = sum(counts.excluded for counts in self.counts.values())
        require(
            left_out > 0 or not self._excluded,
            f"data.exclude={data.exclude}: none of its {len(self._excluded)} paths is in a split; they are relative to "
            f"{data.videos_root}, as in {self.relative(samples[0])}",
        )
        self.check_scan(samples)
        # by the main process alone: files of one size are read, which on a network disk is not for every process to do
        copies = agreed(lambda: find_copies(manifests, self._digest if self._scan else None))
        if data.allow_leaks:
            leaks = find_leaks(manifests, lambda sample: copies.get(place_of(sample)))
            self.lines += [f"{len(leaks)} videos or recordings are in two splits"] if leaks else []
        else:
            check_leaks(manifests, lambda sample: copies.get(place_of(sample)))

    def check_scan(self, samples: Sequence[Sample]) -> None:
        """Note how many videos the scan does not know.

        Raises:
            ValueError: It knows none although it was named.
        """
        if not self._scan:
            return
        unknown = sum(self.relative(sample) not in self._scan for sample in samples)
        require(
            self.data.scan == "auto" or unknown < len(samples),
            f"data.scan={self.data.scan} knows none of the videos; its paths are relative to the folder that was "
            f"scanned, here they are relative to {self.data.videos_root}; scan that one",
        )
        if unknown:
            self.lines.append(f"{self._scan_path} does not know {unknown} of {len(samples)} videos")

    def _digest(self, sample: Sample) -> str | None:
        row = self._scan.get(self.relative(sample))
        return None if row is None or _has_changed(sample, row) else row.sha256

    def _unreadable(self, manifest: Manifest) -> dict[str, str]:
        """Sample -> why the scan could not read it, unless the file has changed since."""
        bad: dict[str, str] = {}
        passed_over = 0
        for sample in manifest.samples:
            row = self._scan.get(self.relative(sample))
            if row is None or row.verdict == "ok" or _has_changed(sample, row):
                continue
            if row.kind in OF_THE_SETTINGS and row.settings != self._settings:
                passed_over += 1
            else:
                bad[sample.id] = f"{row.kind}: {row.reason}" if row.reason else row.kind
        if passed_over:
            self.lines.append(
                f"{self._scan_path} calls {passed_over} videos bad for a decoder or limits other than those of this "
                "run, which reads them; scan again with the same"
            )
        return bad


def _has_changed(sample: Sample, row: ScanRow) -> bool:
    """Whether a file is another one than the scan saw."""
    part = None if sample.member is None else (sample.member.offset, sample.member.length)
    return fingerprint(sample.path, part) != (row.size_bytes, row.mtime_ns)


class Splits(NamedTuple):
    """The manifests of a run; they share their classes.

    Attributes:
        train: What is trained on.
        val: What selects the best epoch.
        test: What is scored at the end.
        counts: Name of a split -> what became of the videos that it lists.
        report: The same for people, a line a split, and what else should be known.
    """

    train: Manifest
    val: Manifest
    test: Manifest | None
    counts: dict[str, SplitCounts]
    report: tuple[str, ...]


def build_splits(data: DataConfig) -> Splits:
    """Find the videos of all splits; the classes of the training split are those of the others.

    Raises:
        ValueError: Annotations are missing or malformed, a label is outside the classes, more videos than
            `data.max_missing` are missing (of the training split: or unreadable by the scan), a video or a recording is
            in two splits, or a class has no video to learn it from.
    """
    reader = SplitReader(data)
    train = reader.read("train", data.train)
    if not data.allow_empty_classes:
        check_classes(train, "train")
    val = reader.read("val", data.val, train.classes, scored=True)
    test = None if data.test is None else reader.read("test", data.test, train.classes, scored=True)
    apart = {"train": train, "val": val}
    if test is not None and data.test == data.val:
        # common where a data set publishes no labels for its test split
        reader.lines.append(
            f"val and test are both {data.val}: the score reported is that of the split that chose the epoch"
        )
    elif test is not None:
        apart["test"] = test
    reader.check(apart)
    return Splits(train, val, test, reader.counts, tuple(reader.lines))
