"""What is asked of the splits of a data set before anything is trained on them: that they are whole, and apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from timesformer_plus.data.manifests import Manifest, Sample

# classes that an error names
NAMED = 5


class Coverage(NamedTuple):
    """How many videos of a split are there.

    Attributes:
        expected: Those that it lists.
        found: Those that are there.
        missing: Those that are not, or cannot be read.
    """

    expected: int
    found: int
    missing: int


def coverage(manifest: Manifest) -> Coverage:
    """Count the videos of a split."""
    found, missing = len(manifest.samples), len(manifest.missing)
    return Coverage(found + missing, found, missing)


def check_coverage(manifest: Manifest, name: str, max_missing: float = 0.0) -> str:
    """Report how many of the listed videos are there, and refuse when too many are not.

    Args:
        manifest: The split.
        name: Its name, for the report.
        max_missing: Largest share of the listed videos that may be missing, 0 to 1.

    Returns:
        The report, such as ``train: 200 expected, 195 found, 5 missing``.

    Raises:
        ValueError: More are missing, or all of them are, or none is listed; the text says where the first ones were
            looked for.
    """
    if not 0 <= max_missing <= 1:
        raise ValueError(f"max_missing={max_missing} is not a share; give a number from 0 to 1, such as 0.01")
    expected, found, missing = coverage(manifest)
    report = f"{name}: {expected} expected, {found} found, {missing} missing"
    if found and missing <= max_missing * expected:
        return report
    if not expected:
        raise ValueError(
            f"{report}. Nothing is left in the split: all of its videos are excluded; exclude fewer, or leave it out"
        )
    first = "; ".join(manifest.missing[:3]) + ("; ..." if missing > 3 else "")
    remedy = (
        "none is there: the folder of the videos is probably another one"
        if not found
        else f"that is more than max_missing={max_missing:g}: get them, name them in data.exclude, or "
        f"raise max_missing to at least {math.ceil(1000 * missing / expected) / 1000:g} and say so with your numbers"
    )
    raise ValueError(f"{report}; first {first}. {remedy}")


class Leak(NamedTuple):
    """Something that two splits share: the same video, or parts of one recording."""

    what: str
    first: str
    second: str


def find_leaks(manifests: Mapping[str, Manifest], digest: Callable[[Sample], str | None] | None = None) -> list[Leak]:
    """Videos (the same file, member of a shard, or content) and groups that more than one split has.

    Args:
        manifests: Name -> split.
        digest: Gives the hash of a video's content, as ``copies.find_copies`` has it; empty or None where it is not
            known. Without it a copy under another name is not seen.

    Returns:
        One leak for each, in the order of the splits; a file that two splits list is one leak, not one by its content
        again.
    """
    owners: dict[tuple[str, object], tuple[str, Sample]] = {}
    leaks: dict[tuple[object, ...], Leak] = {}
    for split, manifest in manifests.items():
        for sample in manifest.samples:
            file: tuple[str, object] = ("file", (sample.path, sample.member and sample.member.name))
            keys = [file]
            if sample.group:
                keys.append(("group", sample.group))
            if digest is not None and (content := digest(sample)):
                keys.append(("content", content))
            for key in keys:
                owner, first = owners.setdefault(key, (split, sample))
                # every copy is a leak by itself, for each has to go
                leak: tuple[object, ...] = (*key, *file) if key[0] == "content" else key
                if owner != split and leak not in leaks and not (key[0] == "content" and file in leaks):
                    leaks[leak] = Leak(_shared(key[0], first, sample), owner, split)
    return list(leaks.values())


def _shared(kind: str, first: Sample, second: Sample) -> str:
    if kind == "group":
        return f"group {second.group!r}"
    names = [str(s.path) if s.member is None else f"{s.path} {s.member.name}" for s in (first, second)]
    return names[1] if kind == "file" else f"the content of {names[0]} and {names[1]}"


def check_leaks(manifests: Mapping[str, Manifest], digest: Callable[[Sample], str | None] | None = None) -> None:
    """Refuse splits that share a video or a recording: a score on them says less than it seems to.

    Args:
        manifests: Name -> split.
        digest: As for ``find_leaks``.

    Raises:
        ValueError: There is a leak; the text counts them and names the first ones.
    """
    if leaks := find_leaks(manifests, digest):
        shown = "; ".join(f"{leak.what} is in {leak.first} and {leak.second}" for leak in leaks[:3])
        more = "; ..." if len(leaks) > 3 else ""
        raise ValueError(f"{len(leaks)} leaks between splits: {shown}{more}. Keep each recording in one split only")


def check_classes(manifest: Manifest, name: str) -> None:
    """Refuse a split for training in which a class has no video: its place in the model would learn only "no".

    Raises:
        ValueError: There are such classes; the first ones are named.
    """
    seen = {
        index
        for sample in manifest.samples
        for index in ([sample.label] if isinstance(sample.label, int) else [i for i, v in enumerate(sample.label) if v])
    }
    empty = [name for index, name in enumerate(manifest.classes) if index not in seen]
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        raise ValueError(
            f"{name}: {len(empty)} of {len(manifest.classes)} classes have no video: {', '.join(empty[:NAMED])}{more}; "
            "add some, take them out of the list of classes, or set data.allow_empty_classes"
        )
