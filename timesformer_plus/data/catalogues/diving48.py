"""Diving48, by its official JSON files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timesformer_plus.data.annotations import json_file
from timesformer_plus.data.catalogues.options import refuse
from timesformer_plus.data.inventory import Inventory, inside
from timesformer_plus.data.manifests import Collector, Manifest, Sample
from timesformer_plus.data.vocabulary import Vocabulary, given_or_own


def read_diving48(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a JSON file of Diving48: a list of ``{"vid_name", "label", "start_frame", "end_frame"}``.

    The video of an entry is called like its ``vid_name``, ``ID_00000.mp4``, and holds the dive alone, so that the frame
    numbers have no use. The published splits do not promise different recordings, so samples have no group.

    Args:
        annotations: ``Diving48_V2_train.json`` or ``Diving48_V2_test.json``.
        videos: Folder of the videos (``rgb``).
        classes: Names of the classes; those of ``Diving48_vocab.json`` beside the annotations (a list of the four parts
            of every dive), joined by blanks, if not given.
        multi_label: Has no use here.
        target: Has no use here.

    Raises:
        ValueError: An entry is malformed or twice there, or there is no such class.
    """
    refuse("Diving48", multi_label=multi_label, target=target)
    vocabulary = given_or_own(annotations, classes, ("Diving48_vocab.json",), _vocab)
    entries = json_file(annotations)
    if not isinstance(entries, list):
        raise ValueError(f"{annotations}: expected a list of objects with vid_name and label")
    inventory = Inventory(videos)
    collector = Collector(annotations)
    for row, entry in enumerate(entries, 1):
        where = f"{annotations}, entry {row}"
        name, label = (entry.get("vid_name"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(label, int) or isinstance(label, bool):
            raise ValueError(f'{where}: expected an object such as {{"vid_name": "ID_00000", "label": 12}}')
        name = inside(name, videos, where)
        index = vocabulary.index(str(label), where)
        path = inventory.find(("",), (name,))
        collector.add(Sample(name, videos / (path or f"{name}.mp4"), index), row, found=path is not None)
    return collector.manifest(vocabulary.names)


def _vocab(path: Path) -> Vocabulary:
    dives = json_file(path)
    if not isinstance(dives, list) or not all(isinstance(dive, list) for dive in dives):
        raise ValueError(f'{path}: expected a list of dives such as ["Back", "15som", "05Twis", "FREE"]')
    return Vocabulary((" ".join(map(str, dive)) for dive in dives), str(path))
