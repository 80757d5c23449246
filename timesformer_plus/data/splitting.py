"""A manifest divided into training, validation and test splits that share no recording."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.data.stills import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")


def split_manifest(
    manifest: Manifest, shares: Sequence[float] = (0.7, 0.15, 0.15), *, seed: int = 0
) -> dict[str, list[Sample]]:
    """Deal out the samples so that every class is spread over the splits by their shares.

    What belongs together stays together: samples of one group, of one pair, of one file, and of files (or folders of
    frames) that hold the same bytes. The largest of these go first, each to the split that its classes lack most. The
    outcome depends on the samples and the seed alone, not on the order of the samples.

    Args:
        manifest: What to divide.
        shares: Shares of train, val and test; a split with share 0 is left out.
        seed: Seed of the order in which recordings of the same size are dealt out.

    Returns:
        Name of the split -> its samples, in the order of the manifest.

    Raises:
        ValueError: The shares do not add up to 1; the same bytes have two labels; a class has fewer recordings than
            there are splits, so that one would lack it.
    """
    if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6) or not shares[0]:
        raise ValueError(f"shares={list(shares)}: give those of train, val and test, such as [0.7, 0.15, 0.15]; sum 1")
    splits = {name: share for name, share in zip(SPLITS, shares, strict=True) if share > 0}
    recordings = _recordings(manifest)
    _check_enough(recordings, manifest, splits)
    random.Random(seed).shuffle(recordings)
    recordings.sort(key=len, reverse=True)  # stable: recordings of one size stay shuffled
    dealt = _deal(recordings, splits)
    _check_whole(dealt, manifest)
    order = {sample.id: i for i, sample in enumerate(manifest.samples)}
    return {name: sorted(samples, key=lambda sample: order[sample.id]) for name, samples in dealt.items()}


def same_content(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples whose files, or folders of frames, hold the same bytes; only those of the same size are read.

    Returns:
        Lists of two or more samples.
    """
    by_size: dict[object, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.member is None and sample.start == 0 and sample.end is None:
            files = _files(sample.path)
            by_size[tuple(file.stat().st_size for file in files)].append(sample)
    same: dict[object, list[Sample]] = defaultdict(list)
    for size, alike in by_size.items():
        for sample in alike if len(alike) > 1 else ():
            same[size, tuple(map(_digest, _files(sample.path)))].append(sample)
    return [alike for alike in same.values() if len(alike) > 1]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _labels(sample: Sample) -> tuple[int, ...]:
    """The classes of a sample; for a single-label manifest one."""
    if isinstance(sample.label, int):
        return (sample.label,)
    return tuple(i for i, mark in enumerate(sample.label) if mark)


def _recordings(manifest: Manifest) -> list[list[Sample]]:
    """Samples that belong together, each in one list; sorted by their smallest id."""
    parent = {sample.id: sample.id for sample in manifest.samples}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    together: dict[object, list[Sample]] = defaultdict(list)
    for sample in manifest.samples:
        together["path", sample.path, sample.member].append(sample)
        if sample.group:
            together["group", sample.group].append(sample)
        if sample.pair:
            together["pair", sample.pair].append(sample)
    for alike in (copies := same_content(manifest.samples)):
        if len({sample.label for sample in alike}) > 1:
            names = " and ".join(f"{sample.id} ({_names(sample, manifest)})" for sample in alike[:3])
            raise ValueError(f"{names} hold the same bytes but have different labels; keep the right one")
    for alike in [*together.values(), *copies]:
        for sample in alike[1:]:
            first, other = sorted((find(alike[0].id), find(sample.id)))
            parent[other] = first
    recordings: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(manifest.samples, key=lambda sample: sample.id):
        recordings[find(sample.id)].append(sample)
    return [recordings[name] for name in sorted(recordings)]


def _names(sample: Sample, manifest: Manifest) -> str:
    return ";".join(manifest.classes[i] for i in _labels(sample)) or "no label"


def _check_enough(recordings: list[list[Sample]], manifest: Manifest, splits: Mapping[str, float]) -> None:
    have = Counter(label for recording in recordings for label in {i for s in recording for i in _labels(s)})
    for label, count in sorted(have.items()):
        if count < len(splits):
            videos = sum(label in _labels(sample) for sample in manifest.samples)
            raise ValueError(
                f"class {manifest.classes[label]!r} has {videos} videos from {count} recordings, too few for one in "
                f"each of {', '.join(splits)}: add some, remove the class, or give a split the share 0"
            )


def _goals(count: int, splits: Mapping[str, float]) -> dict[str, int]:
    """Samples of a class that each split should get: one at least, the rest by largest remainder."""
    goals = {name: max(1, math.floor(share * count)) for name, share in splits.items()}
    while sum(goals.values()) < count:
        lacking = max(splits, key=lambda name: splits[name] * count - goals[name])
        goals[lacking] += 1
    while sum(goals.values()) > count and max(goals.values()) > 1:
        goals[max(goals, key=lambda name: goals[name])] -= 1
    return goals


def _deal(recordings: list[list[Sample]], splits: Mapping[str, float]) -> dict[str, list[Sample]]:
    totals = Counter(label for recording in recordings for sample in recording for label in _labels(sample))
    lack = {(label, name): goal for label, n in totals.items() for name, goal in _goals(n, splits).items()}
    waiting = Counter(label for recording in recordings for label in {i for s in recording for i in _labels(s)})
    empty = {label: set(splits) for label in totals}
    dealt: dict[str, list[Sample]] = {name: [] for name in splits}
    for recording in recordings:
        counts = Counter(label for sample in recording for label in _labels(sample))
        # a class with as few recordings left as splits still without it must give each of them one
        urgent = [empty[label] for label in sorted(counts) if empty[label] and waiting[label] <= len(empty[label])]
        allowed = set.intersection(*urgent) or set.union(*urgent) if urgent else set(splits)
        # without labels, to the split that is furthest below its share
        chosen = max(
            (name for name in splits if name in allowed),
            key=lambda name: (
                sum(lack[label, name] * n for label, n in counts.items())
                if counts
                else splits[name] * (1 + sum(map(len, dealt.values()))) - len(dealt[name])
            ),
        )
        dealt[chosen] += recording
        for label, n in counts.items():
            lack[label, chosen] -= n
            waiting[label] -= 1
            empty[label].discard(chosen)
    return dealt


def _check_whole(dealt: Mapping[str, list[Sample]], manifest: Manifest) -> None:
    present = {name: {label for s in samples for label in _labels(s)} for name, samples in dealt.items()}
    every = set().union(*present.values())
    for name, labels in present.items():
        if lacking := sorted(every - labels):
            raise ValueError(
                f"class {manifest.classes[lacking[0]]!r} cannot be in {name}, as its recordings are bound to other "
                "classes' by their groups: make the groups smaller, give another seed, or give a split the share 0"
            )
