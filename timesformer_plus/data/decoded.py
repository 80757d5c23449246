"""Whole decoded videos in a folder, so that many runs over the same small files decode each of them once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np

from timesformer_plus.data.decoders import Frames


class DecodedFolder:
    """Decoded frames as ``.npy`` files, found again by the video's path, size and time of change, and by its decoder.

    Several processes may share a folder: a file appears in it whole or not at all.

    Args:
        folder: Made when the first video is stored.
        decoder: Name of the decoder whose frames these are.
    """

    def __init__(self, folder: Path, decoder: str) -> None:
        self.folder = folder
        self.decoder = decoder

    def load(self, path: Path) -> Frames | None:
        """Return the frames of a video, uint8 (N, H, W, 3), or ``None`` where they are not stored whole."""
        try:
            # a file that a crash of the machine cut short is as good as none
            frames: Frames = np.load(self._place(path), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return frames

    def store(self, path: Path, frames: Frames) -> None:
        """Keep the frames of a video.

        Args:
            path: The video file.
            frames: All of its frames, uint8 (N, H, W, 3).

        Raises:
            OSError: The folder cannot be written, or the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self._place(path)
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, frames, allow_pickle=False)
            os.replace(temporary, place)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def _place(self, path: Path) -> Path:
        facts = path.stat()
        name = f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}\0{self.decoder}"
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()}.npy"
