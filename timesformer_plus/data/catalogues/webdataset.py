"""WebDataset shards: tar files of which nothing is extracted and nothing unpickled.

A sample is the run of members that share a key: their path up to the first dot of the file's name. ``a/7.mp4`` and
``a/7.cls`` are the video and the label of the sample ``a/7``. Only the headers and the labels are read here; where a
video's bytes lie goes into ``Sample.member``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from timesformer_plus.data.catalogues.options import check_below
from timesformer_plus.data.inventory import VIDEO_SUFFIXES
from timesformer_plus.data.manifests import Collector, Manifest, Member, Sample
from timesformer_plus.data.shards import expand, folder_of, index, split_key
from timesformer_plus.data.vocabulary import CLASSES_FILE, Vocabulary, given_or, listed, of_labels

MAX_LABEL_BYTES = 1 << 20


def read_shards(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a manifest from WebDataset shards.

    The label is that of the member ``.cls`` (a number), else of ``.json`` (its key ``label``, a name or a number, in a
    multi-label set a list of them; a key ``group`` is the sample's group), else of ``.txt`` (a name; several joined by
    ``;``). An id is the shard's path below ``videos`` and the key: ``train-000.tar/7``.

    Args:
        annotations: A tar file, a pattern such as ``train-{000..009}.tar`` or ``{a,b}.tar``, or a folder of tar files.
            Neither ``pipe:`` nor a URL: copy the shards first.
        videos: A folder that the shards lie in, directly or deeper.
        classes: Names of the classes; the lines of ``classes.txt`` beside the shards, or in the folder that all of
            them lie in, if not given; without such a file, the labels that occur, sorted.
        multi_label: Whether a video has any number of labels.
        target: Key of the label in ``.json``, where it is not ``label``; the other members are not asked then.

    Raises:
        ValueError: A shard is not there, compressed, cut off, damaged or not a tar; a member is a link, a device,
            sparse, or its name leaves the shard; a sample has no video, two, or no label; a label is unknown; files of
            class names in several folders differ.
    """
    shards = expand(annotations)
    for shard in shards:
        check_below(shard, videos)
    rows = [row for shard in shards for row in _samples(shard, multi_label, target)]
    if not rows:
        raise ValueError(f"{annotations}: there is no sample in the shards")
    own = _own_classes({folder_of(annotations): None, **dict.fromkeys(shard.parent for shard in shards)})
    vocabulary = given_or(classes, own) or of_labels(annotations, (name for row in rows for name in row.labels))
    collector = Collector(annotations)
    for number, row in enumerate(rows, 1):
        where = f"{row.shard}, sample {row.key!r}"
        indices = [vocabulary.index(name, where) for name in row.labels]
        label = vocabulary.marks(indices) if multi_label else indices[0]
        name = f"{row.shard.relative_to(videos).as_posix()}/{row.key}"
        collector.add(Sample(name, row.shard, label, group=row.group, member=row.video), number, found=True)
    return collector.manifest(vocabulary.names, multi_label=multi_label)


def _own_classes(folders: Iterable[Path]) -> Vocabulary | None:
    files = [file for folder in folders if (file := folder / CLASSES_FILE).is_file()]
    vocabularies = [listed(file) for file in files]
    for other in vocabularies[1:]:
        if other.names != vocabularies[0].names:
            raise ValueError(
                f"{other.source} and {vocabularies[0].source} differ, so that a number means two classes; make them "
                "the same, or read the folders one by one"
            )
    return vocabularies[0] if vocabularies else None


class _Row(NamedTuple):
    shard: Path
    key: str
    video: Member
    labels: list[str]
    group: str


def _samples(shard: Path, multi_label: bool, target: str | None) -> Iterator[_Row]:
    done: set[str] = set()
    with shard.open("rb") as file:
        members = list(index(shard, file))
        for key, run in itertools.groupby(members, key=lambda member: split_key(member.name)[0]):
            where = f"{shard}, sample {key!r}"
            if key in done:
                raise ValueError(f"{where}: its members do not lie together; sort the shard by name")
            done.add(key)
            parts: dict[str, Member] = {}
            for member in run:
                suffix = split_key(member.name)[1]
                if suffix in parts:
                    raise ValueError(f"{where}: has the member {suffix!r} twice; write the shard again")
                parts[suffix] = member
            found = [member for suffix, member in parts.items() if suffix in VIDEO_SUFFIXES]
            if len(found) != 1:
                names = ", ".join(member.name for member in parts.values())
                raise ValueError(f"{where}: expected one video among its members {names}, found {len(found)}")
            labels, group = _label(file, parts, multi_label, target, where)
            yield _Row(shard, key, found[0], labels, group)


def _label(
    file: BinaryIO, parts: Mapping[str, Member], multi_label: bool, target: str | None, where: str
) -> tuple[list[str], str]:
    entry: Any = {}
    if ".json" in parts:
        try:
            entry = json.loads(_text(file, parts[".json"], where))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: its .json is not JSON ({error})") from error
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    label: Any
    if target is None and ".cls" in parts:
        label = _text(file, parts[".cls"], where).strip()
    elif (target or "label") in fields:
        label = fields[target or "label"]
    elif target is None and ".txt" in parts:
        label = _text(file, parts[".txt"], where).strip()
    else:
        wanted = (
            f"{target!r} in a .json" if target else "a label: add .cls with its number, .txt with its name or .json"
        )
        raise ValueError(f"{where}: its members {', '.join(m.name for m in parts.values())} lack {wanted}")
    if multi_label and isinstance(label, str):
        label = [name for name in map(str.strip, label.split(";")) if name]
    if isinstance(label, list) != multi_label:
        kind = "a list of labels" if multi_label else "one label; set multi_label for several"
        raise ValueError(f"{where}: label {label!r} must be {kind}")
    names = label if multi_label else [label]
    if not all(isinstance(name, str | int) and not isinstance(name, bool) for name in names):
        raise ValueError(f"{where}: label {label!r} must be a class name or a number")
    return [str(name).strip() for name in names], str(fields.get("group") or "")


def _text(file: BinaryIO, member: Member, where: str) -> str:
    if member.length > MAX_LABEL_BYTES:
        raise ValueError(f"{where}: {member.name!r} has {member.length} bytes, too many for a label")
    file.seek(member.offset)
    try:
        return file.read(member.length).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {member.name!r} is not text in UTF-8 ({error})") from error
