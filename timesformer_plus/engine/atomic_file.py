"""Files that are whole or not there: a reader finds the old one or the new one, never half of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Write a file which takes the place of ``target`` if the block succeeds, and vanishes if it does not.

    Args:
        target: Where the file is to be; folders above it are made. Until the block succeeds it is untouched.

    Yields:
        The path to write to, beside ``target``. It is forced to the disk before it is renamed.

    Raises:
        OSError: It cannot be written, because of a full disk, say.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield staged
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step.

    Raises:
        OSError: It cannot be written.
    """
    with new_file(path) as staged:
        staged.write_text(text, encoding="utf-8", newline="")
