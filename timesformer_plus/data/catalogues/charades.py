"""Charades: videos of many actions each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from timesformer_plus.data.annotations import records
from timesformer_plus.data.catalogues.options import refuse
from timesformer_plus.data.inventory import Inventory, inside
from timesformer_plus.data.manifests import Collector, Manifest, Sample
from timesformer_plus.data.vocabulary import given_or_own, listed

_ACTION = re.compile(r"(c\d{3}) \d+(?:\.\d+)? \d+(?:\.\d+)?")


def read_charades(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a CSV file of Charades; the label of a video is every action of its column ``actions``, whenever it occurs.

    The column reads ``c092 11.90 21.20;c147 0.00 12.60``; it is empty where nothing occurs. The video of a row is
    called like its id. The group of a sample is its ``subject``, the person who made it.

    Args:
        annotations: ``Charades_v1_train.csv`` or ``Charades_v1_test.csv``.
        videos: Folder of the videos (``Charades_v1_480``).
        classes: Names of the classes, each beginning with its code; the lines of ``Charades_v1_classes.txt`` beside the
            CSV (``c000 Holding some clothes``) if not given.
        multi_label: Must be true: it changes the loss and the metrics, so it is not switched on by itself.
        target: Has no use here.

    Raises:
        ValueError: ``multi_label`` is not set; a row is malformed, a video listed twice, an action unknown.
    """
    refuse("Charades", target=target)
    if not multi_label:
        raise ValueError(f"{annotations}: videos of Charades have several labels each; set multi_label")
    vocabulary = given_or_own(annotations, classes, ("Charades_v1_classes.txt",), listed)
    codes = {name.partition(" ")[0]: i for i, name in enumerate(vocabulary.names)}
    inventory = Inventory(videos)
    collector = Collector(annotations)
    for line, row in records(annotations, ("id", "subject", "actions")):
        where = f"{annotations}, row {line}"
        indices = []
        for action in filter(None, row["actions"].split(";")):
            match = _ACTION.fullmatch(action)
            if match is None:
                raise ValueError(f"{where}: action {action!r} is not of the form 'c092 11.90 21.20'; correct it")
            if match[1] not in codes:
                raise ValueError(f"{where}: there is no action {match[1]} in {vocabulary.source}")
            indices.append(codes[match[1]])
        name = inside(row["id"], videos, where)
        path_found = inventory.find(("",), (name,))
        sample = Sample(name, videos / (path_found or f"{name}.mp4"), vocabulary.marks(indices), group=row["subject"])
        collector.add(sample, line, found=path_found is not None)
    return collector.manifest(vocabulary.names, multi_label=True)
