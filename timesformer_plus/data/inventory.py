"""What lies below a folder, asked of the disk once a folder instead of once a file."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from timesformer_plus.data.stills import IMAGE_SUFFIXES

# Sets are published as one of these and kept as another; where two files differ in the suffix alone, the earlier wins.
VIDEO_SUFFIXES = (
    ".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".asf", ".3gp", ".npy",
)  # fmt: skip
# Most paths are of this form: in normal form, below the root, and in no need of a closer look.
_PLAIN = re.compile(r"[^\s./\\:\0][^/\\:\0]*(?:/[^./\\:\0][^/\\:\0]*)*")


def inside(text: str, root: Path, where: str) -> str:
    r"""Check that a path out of a manifest stays below its root.

    Args:
        text: The path as the manifest gives it.
        root: The folder that it is relative to; only named in the error.
        where: File and row, for the error.

    Returns:
        The path in normal form with forward slashes: ``a//./b`` is ``a/b``.

    Raises:
        ValueError: The path is empty, holds a NUL, is absolute or climbs out of ``root``, by the rules of POSIX or of
            Windows (``C:x``, ``\\host\x``, ``..\x``), so that a manifest means the same everywhere.
    """
    if _PLAIN.fullmatch(text):
        return text
    if not text.strip():
        raise ValueError(f"{where}: the path is empty; give the video's path relative to {root}")
    if "\0" in text:
        raise ValueError(f"{where}: path {text!r} holds a NUL character; correct it")
    normal = Path(os.path.normpath(text)).as_posix()
    # "./C:x" is a relative path until it is in normal form
    windows = (PureWindowsPath(text), PureWindowsPath(normal))
    absolute = normal.startswith("/") or any(path.drive or path.root for path in windows)
    if absolute or ".." in normal.split("/") or ("\\" in text and ".." in windows[0].parts):
        raise ValueError(f"{where}: path {text!r} leaves {root}; give a relative path inside it, or another `root`")
    return normal


class Inventory:
    """The files below a folder. Each folder is listed at most once, when first asked about; links are followed.

    Paths that climb out of the folder or are absolute are refused, whether something is there or not. Readers check
    them before with ``inside``, which can name the row; here none can be forgotten.

    Args:
        root: The folder.

    Raises:
        ValueError: There is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"{root}: there is no such folder; give the folder that the videos lie in")
        self.root = root
        self._names: dict[str, dict[str, bool]] = {}
        self._stems: dict[str, dict[str, str]] = {}
        self._frames: dict[str, bool] = {}

    def names(self, folder: str) -> dict[str, bool]:
        """Regular files and folders directly in ``folder`` (relative, ``""`` for the root) -> whether it is a folder.

        A folder that is not there has none.

        Raises:
            ValueError: It leaves the root, or cannot be listed.
        """
        if folder not in self._names:
            self._check(folder)
            names: dict[str, bool] = {}
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        if (is_folder := _is_folder(entry)) is not None:
                            names[entry.name] = is_folder
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                    raise ValueError(f"{self.root / folder}: cannot be listed ({error.strerror})") from error
            self._names[folder] = names
        return self._names[folder]

    def holds(self, path: str) -> bool:
        """Whether there is such a file, or such a folder with images directly in it (the frames of a video).

        Raises:
            ValueError: The path leaves the root.
        """
        folder, _, name = path.rpartition("/")
        is_folder = self.names(folder).get(name)
        if is_folder is None:
            self._check(path)
        return self.holds_frames(path) if is_folder else is_folder is not None

    def holds_frames(self, folder: str) -> bool:
        """Whether images lie directly in a folder, which makes it a video."""
        if folder not in self._frames:
            self._check(folder)
            # not by names(): a hundred thousand folders of frames would keep the names of all their images in memory
            try:
                with os.scandir(self.root / folder) as entries:
                    self._frames[folder] = any(
                        entry.name[0] != "." and entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries
                    )
            except OSError as error:
                raise ValueError(f"{self.root / folder}: cannot be listed ({error.strerror})") from error
        return self._frames[folder]

    def find(self, folders: Iterable[str], stems: Iterable[str]) -> str | None:
        """The first video called one of ``stems``, with whatever suffix of a video or as a folder of frames.

        Args:
            folders: Where to look, relative to the root, in this order.
            stems: Names without suffix, in this order in each folder.

        Returns:
            Its path relative to the root; None where there is none.

        Raises:
            ValueError: A folder or name leaves the root.
        """
        stems = tuple(stems)
        for folder in folders:
            known = self._by_stem(folder)
            for stem in stems:
                if stem in known:
                    path = f"{folder}/{known[stem]}" if folder else known[stem]
                    if not self.names(folder)[known[stem]] or self.holds_frames(path):
                        return path
        for stem in stems:  # those of files that are there were no paths
            self._check(stem)
        return None

    def _check(self, path: str) -> None:
        where = f"videos in {self.root}"
        # a/../b would be inside as text, but not where a is a link to elsewhere
        if path and inside(path, self.root, where) != path:
            raise ValueError(f"{where}: path {path!r} is not in normal form; write it without '.', '..' and '//'")

    def _by_stem(self, folder: str) -> dict[str, str]:
        if folder not in self._stems:
            ranked: dict[str, tuple[int, str]] = {}
            for name, is_folder in self.names(folder).items():
                stem, suffix = (name, "") if is_folder else os.path.splitext(name)
                suffix = suffix.lower()
                if is_folder or suffix in VIDEO_SUFFIXES:
                    rank = len(VIDEO_SUFFIXES) if is_folder else VIDEO_SUFFIXES.index(suffix)
                    ranked[stem] = min(ranked.get(stem, (rank, name)), (rank, name))
            self._stems[folder] = {stem: name for stem, (_, name) in ranked.items()}
        return self._stems[folder]


def _is_folder(entry: os.DirEntry[str]) -> bool | None:
    """None for what is neither a folder nor a regular file: a pipe, or a link to nowhere or to itself."""
    try:
        return True if entry.is_dir() else False if entry.is_file() else None
    except OSError:
        return None
