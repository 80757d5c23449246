"""Whole decoded videos in a folder of limited size, mapped into memory: small videos are decoded once for all runs.

A map costs no memory of its own: what the machine has to spare holds the pages, once for all processes that read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from filelock import FileLock

from timesformer_plus.data.decoders import Frames
from timesformer_plus.data.manifests import Member, Sample

# of a video's bytes, these at its beginning and its end tell its content from another's of the same size and date
TELLING_BYTES = 1 << 16
NPY_HEADER = 128
# maps that a process keeps open; systems allow it some 65,000
MAX_MAPS = 8192


class Decoded(NamedTuple):
    """A decoded video.

    Attributes:
        frames: uint8, (N, H, W, 3).
        times: Seconds after the stream's start, one a frame; empty for pictures without times.
    """

    frames: Frames
    times: Sequence[float]


class DecodedFolder:
    """Decoded videos as ``.npy`` files, found again by what they were made from and how.

    A video is known by its path, its place in a tar shard, its size, its time of change and its first and last bytes,
    and by the ``recipe``; what is stored of an older content of the same file is removed when the new one is stored.
    Whole videos are stored, so how clips are sampled from them does not matter. Any number of processes may share a
    folder: a video appears in it whole or not at all, and together they keep to the limit.

    Args:
        folder: Made when the first video is stored.
        recipe: What else the frames depend on: the decoder's name and the size that they are decoded at.
        limit_mb: Size that the folder may reach, in MB (10^6 bytes). What no longer fits is not stored.
    """

    def __init__(self, folder: Path, *, recipe: str, limit_mb: float) -> None:
        self.folder = folder
        self.recipe = recipe
        self.limit = int(limit_mb * 1e6)
        self._keys: dict[tuple[Path, Member | None], tuple[str, str]] = {}
        self._maps: dict[str, Decoded] = {}
        self._counted = False

    def load(self, sample: Sample) -> Decoded | None:
        """Return the frames of a video as a read-only map, or ``None`` where they are not stored whole."""
        try:
            source, content = self._key(sample)
            if source in self._maps:
                return self._maps[source]
            facts = self._facts(source)
            if facts is None or facts["content"] != content:
                return None
            # a file that a crash of the machine cut short is as good as none
            frames: Frames = np.load(self._frames(source, content), mmap_mode="r", allow_pickle=False)
            frames = np.asarray(frames)  # the same map, without numpy.memmap's work for every piece that is cut out
        except (OSError, ValueError, EOFError):
            return None
        if len(self._maps) >= MAX_MAPS:
            del self._maps[next(iter(self._maps))]
        self._maps[source] = Decoded(frames, facts["times"])
        return self._maps[source]

    def store(self, sample: Sample, decoded: Decoded) -> bool:
        """Keep a video if it fits.

        Args:
            sample: Which video.
            decoded: All of its frames and their times.

        Returns:
            Whether it is stored now.

        Raises:
            OSError: The folder cannot be written, or the disk is full.
        """
        source, content = self._key(sample)
        facts = json.dumps({"content": content, "times": list(decoded.times)})
        self.folder.mkdir(parents=True, exist_ok=True)
        # one writer at a time: two would both believe that the last megabyte is theirs
        with FileLock(self.folder / ".lock"):
            total = self._total() if self._counted else self._count()
            self._counted = True
            known = self._facts(source)
            if known is not None:
                old = self._frames(source, known["content"])
                if self.load(sample) is not None:
                    return True
                total -= _size(old)
                old.unlink(missing_ok=True)
            frames = self._frames(source, content)
            size = NPY_HEADER + decoded.frames.nbytes + len(facts)
            fits = total + size <= self.limit
            if fits:
                # the facts last: where they are, the frames are
                _write(frames, lambda file: np.save(file, decoded.frames, allow_pickle=False))
                _write(self.folder / f"{source}.json", lambda file: file.write(facts.encode()))
                total += size
            self._note(total)
        return fits

    def fits(self, size: int) -> bool:
        """Whether there is room for a video of ``size`` bytes, which saves decoding the whole of one for nothing."""
        if self._total() + size > self.limit and not self._counted and self.folder.is_dir():
            # who has made room by hand, or died while writing, leaves a total that would say no for ever
            self._counted = True
            with contextlib.suppress(OSError), FileLock(self.folder / ".lock"):  # who may not write need not know
                self._note(self._count())
        return self._total() + size <= self.limit

    def __getstate__(self) -> dict[str, Any]:
        # a spawned worker opens its own maps; pickled, they would be sent to it as whole arrays
        return self.__dict__ | {"_maps": {}}

    def _total(self) -> int:
        try:
            return int((self.folder / ".total").read_bytes())
        except (OSError, ValueError):
            return 0

    def _note(self, total: int) -> None:
        """Write the running total down; by who has the lock."""
        # in place and always as long: renaming over a file makes some file systems wait for the disk, for every video
        handle = os.open(self.folder / ".total", os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.write(handle, f"{total:020d}".encode())
        finally:
            os.close(handle)

    def _count(self) -> int:
        """What the folder really holds: a process that died between two steps leaves the running total wrong."""
        total = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((".npy", ".json")):
                    total += entry.stat().st_size
                elif entry.name.endswith(".part"):  # of a process that died: who writes has the lock, as we do now
                    os.unlink(entry)
        return total

    def _facts(self, source: str) -> dict[str, Any] | None:
        try:
            facts: dict[str, Any] = json.loads((self.folder / f"{source}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return facts

    def _frames(self, source: str, content: str) -> Path:
        return self.folder / f"{source}-{content}.npy"

    def _key(self, sample: Sample) -> tuple[str, str]:
        """Which video, and which content of it. Settled once a process: within a run a video does not change."""
        video = (sample.path, sample.member)
        if video not in self._keys:
            source = _digest(f"{sample.path.resolve()}\0{sample.member}\0{self.recipe}".encode())
            self._keys[video] = source, _digest(_content(sample))
        return self._keys[video]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _content(sample: Sample) -> bytes:
    facts = sample.path.stat()
    what = f"{facts.st_size}\0{facts.st_mtime_ns}\0".encode()
    if sample.path.is_dir():
        # of a folder of images the names, sizes and dates of all
        with os.scandir(sample.path) as entries:
            images = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
        return what + repr(images).encode()
    start, length = (sample.member.offset, sample.member.length) if sample.member else (0, facts.st_size)
    with sample.path.open("rb") as file:
        file.seek(start)
        head = file.read(min(TELLING_BYTES, length))
        file.seek(start + max(0, length - TELLING_BYTES))
        return what + head + file.read(min(TELLING_BYTES, length))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()
