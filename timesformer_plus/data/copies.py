"""Videos that two splits share under different names, found by their bytes without reading most of them.

Only files of which another split has one of the same size are opened, and only those whose first 64 kB agree are read
whole. Of the 260,000 videos of Kinetics-400 that is a look at every file's size and into a few thousand.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from timesformer_plus.data.manifests import Manifest, Member, Sample
from timesformer_plus.data.stills import IMAGE_SUFFIXES

Place = tuple[Path, Member | None]

HEAD_BYTES = 1 << 16
_PIECE = 1 << 20
# what takes long on a network disk is waiting
_THREADS = 16

T = TypeVar("T")


def place_of(sample: Sample) -> Place:
    """Where the bytes of a sample lie: its file or folder, or its part of a tar shard."""
    return sample.path, sample.member


def find_copies(
    manifests: Mapping[str, Manifest], known: Callable[[Sample], str | None] | None = None
) -> dict[Place, str]:
    """Digests of the videos whose bytes are in more than one split.

    Empty files and files that cannot be read are no copies of anything. A folder of frames is its images in the order
    of their names, whatever these are.

    Args:
        manifests: Name -> split.
        known: Gives the digest of a video where it is known already, as by a scan, else ``None`` or "". It is believed
            where all videos of a size have one.

    Returns:
        Place -> digest, the same for the same bytes.
    """
    splits: dict[Place, set[str]] = defaultdict(set)
    samples: dict[Place, Sample] = {}
    for name, manifest in manifests.items():
        for sample in manifest.samples:
            splits[place_of(sample)].add(name)
            samples[place_of(sample)] = sample
    if len(manifests) < 2:
        return {}
    found: dict[Place, str] = {}
    for alike in _shared(splits, _each(splits, _size)):
        digests = {} if known is None else {place: known(samples[place]) for place in alike}
        if not digests or not all(digests.values()):
            heads = _shared(splits, _each(alike, _head))
            digests = {place: digest for same in heads for place, digest in _each(same, _digest).items()}
        for same in _shared(splits, digests):
            found |= {place: str(digests[place]) for place in same}
    return found


def _shared(splits: Mapping[Place, set[str]], keys: Mapping[Place, Hashable]) -> list[list[Place]]:
    """Two or more places with one key, together in more than one split; a key of ``None`` says nothing."""
    groups: dict[Hashable, list[Place]] = defaultdict(list)
    for place, key in keys.items():
        if key is not None:
            groups[key].append(place)
    several = (group for group in groups.values() if len(group) > 1)
    return [group for group in several if len(set().union(*(splits[place] for place in group))) > 1]


def _each(places: Iterable[Place], look: Callable[[Place], T]) -> dict[Place, T | None]:
    """What a look at each place gives; ``None`` where the disk refuses it."""
    places = list(places)
    if len(places) < _THREADS:
        return dict(zip(places, _look(places, look), strict=True))
    parts = [places[start::_THREADS] for start in range(_THREADS)]
    seen: dict[Place, T | None] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        for part, found in zip(parts, threads.map(lambda part: _look(part, look), parts), strict=True):
            seen.update(zip(part, found, strict=True))
    return seen


def _look(places: Sequence[Place], look: Callable[[Place], T]) -> list[T | None]:
    found: list[T | None] = [None] * len(places)
    for i, place in enumerate(places):
        with contextlib.suppress(OSError):
            found[i] = look(place)
    return found


def _size(place: Place) -> tuple[int, int] | None:
    """Number of files and size of the first, in bytes; ``None`` for none."""
    path, member = place
    if member is not None:
        return (1, member.length) if member.length else None
    facts = path.stat()
    if not stat.S_ISDIR(facts.st_mode):
        return (1, facts.st_size) if facts.st_size else None
    images = _images(path)
    return (len(images), images[0].stat().st_size) if images else None


def _head(place: Place) -> bytes:
    return _hash(place, HEAD_BYTES).digest()


def _digest(place: Place) -> str:
    path, member = place
    if member is not None or not path.is_dir():
        return _hash(place).hexdigest()
    return hashlib.sha256(b"".join(_hash((image, None)).digest() for image in _images(path))).hexdigest()


def _hash(place: Place, most: int | None = None) -> hashlib._Hash:
    """Hash of a file, of a part of a shard or of the first image of a folder; of its first ``most`` bytes if given."""
    path, member = place
    offset, length = (0, None) if member is None else (member.offset, member.length)
    left = min(size for size in (length, most, 1 << 62) if size is not None)
    digest = hashlib.sha256()
    with (_images(path)[0] if member is None and path.is_dir() else path).open("rb") as file:
        file.seek(offset)
        while left and (piece := file.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
    return digest


def _images(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES]
    return [folder / name for name in sorted(names)]
