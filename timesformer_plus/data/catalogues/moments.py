"""Moments in Time, by its official CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timesformer_plus.data.annotations import csv_lines, text_lines
from timesformer_plus.data.catalogues.options import refuse
from timesformer_plus.data.inventory import Inventory, inside
from timesformer_plus.data.manifests import Collector, Manifest, Sample
from timesformer_plus.data.vocabulary import Vocabulary, given_or_own, numbered

_FOLDERS = {"trainingSet.csv": "training/", "validationSet.csv": "validation/"}


def read_moments(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a CSV file of Moments in Time: ``class/file.mp4,class,votes for,votes against``, without a header.

    Args:
        annotations: ``trainingSet.csv`` or ``validationSet.csv``.
        videos: Folder that the paths are relative to, or the one above it, which holds ``training`` and ``validation``.
        classes: Names of the classes; those of ``moments_categories.txt`` beside the CSV (``name,number``) if not
            given.
        multi_label: Has no use here.
        target: Has no use here.

    Raises:
        ValueError: A row is malformed, a video listed twice, a label unknown; a path leaves ``videos``.
    """
    refuse("Moments in Time", multi_label=multi_label, target=target)
    vocabulary = given_or_own(
        annotations, classes, ("moments_categories.txt",), _categories, "the number of every class"
    )
    inventory = Inventory(videos)
    split = _FOLDERS.get(annotations.name, "")
    prefix = split if split and inventory.names("").get(split[:-1]) else ""
    collector = Collector(annotations)
    for line, row in csv_lines(annotations):
        where = f"{annotations}, row {line}"
        if len(row) < 2:
            raise ValueError(f"{where}: expected path,label,votes for,votes against; found {row}")
        path = inside(row[0], videos, where)
        label = vocabulary.index(row[1].strip(), where)
        collector.add(Sample(path, videos / (prefix + path), label), line, found=inventory.holds(prefix + path))
    return collector.manifest(vocabulary.names)


def _categories(path: Path) -> Vocabulary:
    pairs = (text.rpartition(",") for _, text in text_lines(path))
    return numbered(((number.strip(), name.strip()) for name, _, number in pairs), path)
