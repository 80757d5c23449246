"""Kinetics-400, -600 and -700, by their official CSV files, and the lists of paths and labels in circulation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from timesformer_plus.data.annotations import csv_lines, records, text_lines
from timesformer_plus.data.catalogues.options import refuse
from timesformer_plus.data.inventory import Inventory, inside
from timesformer_plus.data.manifests import Collector, Manifest, Sample
from timesformer_plus.data.vocabulary import Vocabulary, given_or_beside, is_number, of_labels

# Folders that a split's videos are kept in, by the name of the split in the CSV.
_SPLIT_FOLDERS = {"validate": ("validate", "val", "validation"), "val": ("val", "validate", "validation")}
_LISTED = re.compile(r"(.*[^\s,])\s*[,\s]\s*([0-9]{1,18})")


def read_kinetics(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read an official CSV file of Kinetics (``label,youtube_id,time_start,time_end,split[,is_cc]``).

    The video of a row is called ``ID_000010_000020`` (start and end in whole seconds) or just ``ID``, which is taken
    for the same ten seconds cut out. It lies in ``videos``, in a folder named like the class (blanks or underscores,
    with or without apostrophes), or in such places in a folder named like the split. The id of a sample is the longer
    name. A file without this header is read as a list, see ``read_list``.

    The published splits promise different recordings within a class only, so samples have no group.

    Args:
        annotations: The CSV file.
        videos: Folder of the videos.
        classes: Names of the classes; the lines of ``classes.txt`` beside the CSV if not given; without such a file,
            the labels that occur, sorted, which is the usual order of the 400, 600 or 700.
        multi_label: Has no use here.
        target: Which split, in a file that holds several.

    Raises:
        ValueError: The file has no labels, as that of the test split, or several splits; a row is malformed, a video
            listed twice, a label unknown.
    """
    first = next(csv_lines(annotations), (0, [""]))[1]
    if "youtube_id" not in first:
        return read_list(annotations, videos=videos, classes=classes, multi_label=multi_label, target=target)
    refuse("Kinetics", multi_label=multi_label)
    if "label" not in first:
        raise ValueError(f"{annotations}: has no column 'label', as the test split; nothing can be learned from it")
    rows = list(records(annotations, ("label", "youtube_id", "time_start", "time_end")))
    splits = sorted({row.get("split", "") for _, row in rows})
    if target is not None and target not in splits:
        raise ValueError(f"target={target!r}: {annotations} holds the splits {splits}; give one of them")
    if target is None and len(splits) > 1:
        raise ValueError(f"{annotations} holds the splits {splits}; choose one with target")
    rows = [(line, row) for line, row in rows if target in (None, row.get("split"))]
    vocabulary = given_or_beside(annotations, classes) or of_labels(annotations, (row["label"] for _, row in rows))
    inventory = Inventory(videos)
    folders: dict[str, tuple[str, ...]] = {}
    collector = Collector(annotations)
    for line, row in rows:
        where = f"{annotations}, row {line}"
        name, label = row["youtube_id"], row["label"]
        if not (name and is_number(row["time_start"]) and is_number(row["time_end"])):
            raise ValueError(f"{where}: expected an id and whole seconds, found {row}; correct the row")
        name = inside(name, videos, where)
        cut = f"{name}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"
        index = vocabulary.index(label, where)
        if label not in folders:
            folders[label] = _places(inventory, row.get("split", ""), label)
        path = inventory.find(folders[label], (cut, name))
        collector.add(Sample(cut, videos / (path or f"{cut}.mp4"), index), line, found=path is not None)
    return collector.manifest(vocabulary.names)


def _places(inventory: Inventory, split: str, label: str) -> tuple[str, ...]:
    """Folders in which a class's videos may lie."""
    places = []
    for base in ("", *_SPLIT_FOLDERS.get(split, (split,) if split else ())):
        if base and not inventory.names("").get(base):
            continue
        prefix = f"{base}/" if base else ""
        named = [
            name for name, is_folder in inventory.names(base).items() if is_folder and _plain(name) == _plain(label)
        ]
        places += [*(prefix + name for name in sorted(named)), base]
    return tuple(places)


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("'", "").replace('"', "").casefold()


def read_list(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a list without a header: in every line a path and the number of its class, a comma, blank or tab between.

    Args:
        annotations: The text file. Paths may hold blanks and commas: the class is what stands behind the last one.
        videos: Folder that the paths are relative to. A path may name a folder of frame images.
        classes: Names of the classes; the lines of ``classes.txt`` beside the list if not given; without such a file,
            every number from 0 to the largest.
        multi_label: Has no use here.
        target: Has no use here.

    Raises:
        ValueError: A line does not end in a number; a path is empty, listed twice or leaves ``videos``.
    """
    refuse("a list of paths", multi_label=multi_label, target=target)
    rows: list[tuple[int, str, str]] = []
    for line, text in text_lines(annotations):
        match = _LISTED.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{annotations}, row {line}: {text!r} is not a path and the number of a class, as in 'a/b.mp4 12'; a "
                "file with a header is read with format csv"
            )
        rows.append((line, match[1].strip('"'), match[2]))
    vocabulary: Vocabulary = given_or_beside(annotations, classes) or of_labels(annotations, (row[2] for row in rows))
    inventory = Inventory(videos)
    collector = Collector(annotations)
    for line, text, number in rows:
        where = f"{annotations}, row {line}"
        path = inside(text, videos, where)
        label = vocabulary.index(number, where)
        collector.add(Sample(path, videos / path, label), line, found=inventory.holds(path))
    return collector.manifest(vocabulary.names)
