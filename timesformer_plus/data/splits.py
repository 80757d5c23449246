"""What is asked of the splits of a data set before anything is trained on them: that they are whole, and apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from timesformer_plus.data.manifests import Manifest


def check_coverage(manifest: Manifest, name: str, max_missing: float = 0.0) -> str:
    """Report how many of the listed videos are there, and refuse when too many are not.

    Args:
        manifest: The split.
        name: Its name, for the report.
        max_missing: Largest share of the listed videos that may be missing, 0 to 1.

    Returns:
        The report, such as ``train: 200 expected, 195 found, 5 missing``.

    Raises:
        ValueError: More are missing, or all of them are; the text says where the first ones were looked for.
    """
    if not 0 <= max_missing <= 1:
        raise ValueError(f"max_missing={max_missing} is not a share; give a number from 0 to 1, such as 0.01")
    found, missing = len(manifest.samples), len(manifest.missing)
    expected = found + missing
    report = f"{name}: {expected} expected, {found} found, {missing} missing"
    if found and missing <= max_missing * expected:
        return report
    first = "; ".join(manifest.missing[:3]) + ("; ..." if missing > 3 else "")
    remedy = (
        "none is there: the folder of the videos is probably another one"
        if not found
        else f"that is more than max_missing={max_missing:g}: get them, or raise max_missing to at least "
        f"{math.ceil(1000 * missing / expected) / 1000:g} and say so with your numbers"
    )
    raise ValueError(f"{report}; first {first}. {remedy}")


class Leak(NamedTuple):
    """Something that two splits share: the same video, or parts of one recording."""

    what: str
    first: str
    second: str


def find_leaks(manifests: Mapping[str, Manifest]) -> list[Leak]:
    """Videos (the same file, or member of a shard) and groups that more than one split has.

    Args:
        manifests: Name -> split.

    Returns:
        One leak for each, in the order of the splits.
    """
    owners: dict[tuple[object, ...], str] = {}
    leaks: dict[tuple[object, ...], Leak] = {}
    for split, manifest in manifests.items():
        for sample in manifest.samples:
            member = "" if sample.member is None else sample.member.name
            keys: list[tuple[object, ...]] = [(sample.path, member)]
            if sample.group:
                keys.append((sample.group,))
            for key in keys:
                owner = owners.setdefault(key, split)
                if owner != split and key not in leaks:
                    shown = f"group {sample.group!r}" if len(key) == 1 else " ".join(filter(None, map(str, key)))
                    leaks[key] = Leak(shown, owner, split)
    return list(leaks.values())


def check_leaks(manifests: Mapping[str, Manifest]) -> None:
    """Refuse splits that share a video or a recording: a score on them says less than it seems to.

    Args:
        manifests: Name -> split.

    Raises:
        ValueError: There is a leak; the text counts them and names the first ones.
    """
    if leaks := find_leaks(manifests):
        shown = "; ".join(f"{leak.what} is in {leak.first} and {leak.second}" for leak in leaks[:3])
        more = "; ..." if len(leaks) > 3 else ""
        raise ValueError(f"{len(leaks)} leaks between splits: {shown}{more}. Keep each recording in one split only")
