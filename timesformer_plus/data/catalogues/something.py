"""Something-Something v1 and v2, and Jester: labels are sentences, with a list of them in a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from timesformer_plus.data.annotations import json_file, text_lines
from timesformer_plus.data.catalogues.options import refuse
from timesformer_plus.data.inventory import Inventory
from timesformer_plus.data.manifests import Collector, Manifest, Sample
from timesformer_plus.data.vocabulary import Vocabulary, given_or_own, listed, of_json


def read_something_v2(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a JSON file of Something-Something v2: a list of ``{"id", "label", "template", "placeholders"}``.

    The class is the template without its square brackets. The video of an entry is called like its id: ``ID.webm``, or
    with another suffix, or a folder of frames.

    Args:
        annotations: ``train.json`` or ``validation.json``, with or without ``something-something-v2-`` in front.
        videos: Folder of the videos.
        classes: Names of the classes; those of ``labels.json`` beside the annotations (name -> number) if not given.
        multi_label: Has no use here.
        target: Has no use here.

    Raises:
        ValueError: The file has no labels, as that of the test split; an entry is malformed, twice there, or its label
            unknown.
    """
    refuse("Something-Something", multi_label=multi_label, target=target)
    entries = json_file(annotations)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
        raise ValueError(f"{annotations}: expected a list of objects with an id; give train.json or validation.json")
    if entries and not any("template" in entry for entry in entries):
        raise ValueError(f"{annotations}: has no labels, as the test split; nothing can be learned from it")
    names = ("labels.json", "something-something-v2-labels.json")
    vocabulary = given_or_own(annotations, classes, names, of_json, "the number of every class")
    rows = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry.get("template"), str):
            raise ValueError(f"{annotations}, entry {number}: has no template, which is its label; correct it")
        rows.append((number, str(entry["id"]), entry["template"]))
    return _by_id(annotations, videos, rows, vocabulary)


def read_something_v1(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a file of Something-Something v1: lines ``ID;label``; a video is the folder ``ID`` of JPEG images.

    Args:
        annotations: ``something-something-v1-train.csv`` or ``-validation.csv``.
        videos: Folder of the folders.
        classes: Names of the classes; the lines of ``something-something-v1-labels.csv`` beside it if not given.
        multi_label: Has no use here.
        target: Has no use here.

    Raises:
        ValueError: The file has no labels, as that of the test split; a row is malformed, an id twice there, or a label
            unknown.
    """
    refuse("Something-Something", multi_label=multi_label, target=target)
    return _semicolons(annotations, videos, classes, ("something-something-v1-labels.csv", "labels.csv"))


def read_jester(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a file of Jester: lines ``ID;label``; a video is the folder ``ID`` of JPEG images.

    Args:
        annotations: ``jester-v1-train.csv`` or ``jester-v1-validation.csv``.
        videos: Folder of the folders.
        classes: Names of the classes; the lines of ``jester-v1-labels.csv`` beside it if not given.
        multi_label: Has no use here.
        target: Has no use here.

    Raises:
        ValueError: As for ``read_something_v1``.
    """
    refuse("Jester", multi_label=multi_label, target=target)
    return _semicolons(annotations, videos, classes, ("jester-v1-labels.csv", "labels.csv"))


def _semicolons(annotations: Path, videos: Path, classes: Sequence[str] | None, names: Sequence[str]) -> Manifest:
    rows = []
    for line, text in text_lines(annotations):
        video, mark, label = text.partition(";")
        if not mark:
            raise ValueError(
                f"{annotations}, row {line}: {text!r} has no label behind a semicolon; the test split has none, so "
                "nothing can be learned from it"
            )
        rows.append((line, video.strip(), label.strip()))
    return _by_id(annotations, videos, rows, given_or_own(annotations, classes, names, listed))


def _by_id(annotations: Path, videos: Path, rows: Iterable[tuple[int, str, str]], vocabulary: Vocabulary) -> Manifest:
    inventory = Inventory(videos)
    collector = Collector(annotations)
    for row, video, label in rows:
        where = f"{annotations}, row {row}"
        if not video.isdecimal():
            raise ValueError(f"{where}: id {video!r} is not a number; correct it")
        path = inventory.find(("",), (video,))
        index = vocabulary.index(label.replace("[", "").replace("]", ""), where)
        collector.add(Sample(video, videos / (path or video), index), row, found=path is not None)
    return collector.manifest(vocabulary.names)
