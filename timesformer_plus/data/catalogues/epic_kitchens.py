"""EPIC-KITCHENS-100: labelled parts of long videos, with a verb and a noun each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from timesformer_plus.data.annotations import beside, csv_lines, records
from timesformer_plus.data.catalogues.options import refuse
from timesformer_plus.data.inventory import Inventory, inside
from timesformer_plus.data.manifests import Collector, Manifest, Sample
from timesformer_plus.data.vocabulary import Vocabulary, is_number, numbered

TARGETS = ("verb", "noun", "action")
_TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
_VERBS = ("EPIC_100_verb_classes.csv",)
_NOUNS = ("EPIC_100_noun_classes.csv", "EPIC_100_noun_classes_v2.csv")
_LABELLED = ("EPIC_100_train.csv", "EPIC_100_validation.csv")
_COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "start_timestamp",
    "stop_timestamp",
    "verb_class",
    "noun_class",
)


def read_epic_kitchens(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a CSV file of EPIC-KITCHENS-100.

    A sample is a narrated part: its id the ``narration_id``, its group the video. The video ``PXX_YY`` lies in
    ``PXX/videos``, in ``PXX`` or in ``videos`` itself.

    The classes are those of ``EPIC_100_verb_classes.csv`` and ``EPIC_100_noun_classes.csv`` beside the annotations, and
    are named by their key. Actions are the pairs of a verb and a noun that occur in ``EPIC_100_train.csv`` and
    ``EPIC_100_validation.csv`` beside the annotations, together, as the validation split has pairs that training lacks;
    they are ordered by the numbers of verb and noun and named ``verb noun``. Where neither file is there, they are the
    pairs of the file that is read.

    Args:
        annotations: ``EPIC_100_train.csv``, ``EPIC_100_validation.csv`` or another file with their columns.
        videos: Folder of the participants' folders.
        classes: Names of the classes, as above.
        multi_label: Has no use here.
        target: ``"verb"``, ``"noun"`` or ``"action"``.

    Raises:
        ValueError: No target; the file has no labels, as that of the test split; a file of class names is not there; a
            row is malformed, a part listed twice, a class unknown.
    """
    refuse("EPIC-KITCHENS", multi_label=multi_label)
    if target not in TARGETS:
        raise ValueError(f"target={target!r}: EPIC-KITCHENS has the labels {', '.join(TARGETS)}; give one")
    header = next(csv_lines(annotations), (0, [""]))[1]
    if "narration_id" in header and "verb_class" not in header:
        raise ValueError(
            f"{annotations}: has no column 'verb_class', as the test split; nothing can be learned from it"
        )
    vocabulary, name = _classes(annotations, target, classes)
    inventory = Inventory(videos)
    collector = Collector(annotations)
    for line, row in records(annotations, _COLUMNS):
        where = f"{annotations}, row {line}"
        label = vocabulary.index(name(_numbers(row, where), where), where)
        start, end = _seconds(row["start_timestamp"], where), _seconds(row["stop_timestamp"], where)
        if not start < end:
            raise ValueError(f"{where}: the part from {start} s to {end} s has no length; correct or remove the row")
        person, video = (inside(row[column], videos, where) for column in ("participant_id", "video_id"))
        path = inventory.find((f"{person}/videos", person, ""), (video,))
        expected = videos / (path or f"{person}/videos/{video}.MP4")
        sample = Sample(row["narration_id"], expected, label, group=video, start=start, end=end)
        collector.add(sample, line, found=path is not None)
    return collector.manifest(vocabulary.names)


class _Numbers(NamedTuple):
    verb: int
    noun: int


def _classes(
    annotations: Path, target: str, classes: Sequence[str] | None
) -> tuple[Vocabulary, Callable[[_Numbers, str], str]]:
    """The classes, and how the one of a row is named."""
    files = {"verb": _VERBS, "noun": _NOUNS}
    keys = {kind: _keys(annotations, files[kind]) for kind in (("verb", "noun") if target == "action" else (target,))}

    def name(numbers: _Numbers, where: str) -> str:
        parts = []
        for kind, vocabulary in keys.items():
            number = getattr(numbers, kind)
            if number >= len(vocabulary):
                raise ValueError(
                    f"{where}: there is no {kind} {number}; {vocabulary.source} has {len(vocabulary)}, from 0"
                )
            parts.append(vocabulary.names[number])
        return " ".join(parts)

    if classes is not None:
        return Vocabulary(classes, "`classes`"), name
    if target != "action":
        return keys[target], name
    beside_it = [annotations.parent / file for file in _LABELLED if (annotations.parent / file).is_file()]
    pairs = {
        _numbers(row, f"{path}, row {line}"): f"{path}, row {line}"
        for path in beside_it or [annotations]
        for line, row in records(path, _COLUMNS)
    }
    return Vocabulary((name(pair, pairs[pair]) for pair in sorted(pairs)), " and ".join(map(str, beside_it))), name


def _keys(annotations: Path, names: Sequence[str]) -> Vocabulary:
    path = beside(annotations, names, "the names of the classes")
    return numbered(((row["id"], row["key"]) for _, row in records(path, ("id", "key"))), path)


def _numbers(row: dict[str, str], where: str) -> _Numbers:
    verb, noun = row["verb_class"], row["noun_class"]
    if not (is_number(verb) and is_number(noun)):
        raise ValueError(f"{where}: verb_class {verb!r} and noun_class {noun!r} must be numbers; correct the row")
    return _Numbers(int(verb), int(noun))


def _seconds(text: str, where: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{where}: time {text!r} is not of the form 00:01:02.34; correct it")
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
