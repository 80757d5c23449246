"""Options that a format has no use for are refused, so that none is ignored."""

from __future__ import annotations

from pathlib import Path


def refuse(name: str, *, multi_label: bool = False, target: str | None = None) -> None:
    """Raise for options that are set.

    Args:
        name: The format, for the error.
        multi_label: To be refused if true.
        target: To be refused if given.

    Raises:
        ValueError: One is set.
    """
    if multi_label:
        raise ValueError(f"multi_label: in {name} a video has one label; leave it out")
    if target is not None:
        raise ValueError(f"target={target!r}: {name} has one labelling only; leave it out")


def check_below(annotations: Path, videos: Path) -> None:
    """Check, for annotations that are the videos themselves, that they lie where the videos are said to be.

    Raises:
        ValueError: They lie elsewhere.
    """
    if annotations != videos and videos not in annotations.parents:
        raise ValueError(
            f"{annotations} is not in `videos` ({videos}); leave out `videos`, this format has no use for it"
        )
