"""The generic manifests as readers of the one signature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timesformer_plus.data.catalogues.options import refuse
from timesformer_plus.data.manifests import Manifest, read_csv, read_jsonl


def read_csv_table(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a CSV file, see ``read_csv``."""
    refuse("a CSV manifest", target=target)
    return read_csv(annotations, root=videos, classes=classes, multi_label=multi_label)


def read_jsonl_table(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a file of JSON lines, see ``read_jsonl``."""
    refuse("a JSONL manifest", target=target)
    return read_jsonl(annotations, root=videos, classes=classes, multi_label=multi_label)
