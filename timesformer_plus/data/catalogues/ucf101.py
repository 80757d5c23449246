"""UCF101, by its official lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from timesformer_plus.data.annotations import text_lines
from timesformer_plus.data.catalogues.options import refuse
from timesformer_plus.data.inventory import Inventory, inside
from timesformer_plus.data.manifests import Collector, Manifest, Sample
from timesformer_plus.data.vocabulary import Vocabulary, given_or_own

_NAME = re.compile(r"v_\w+_(g\d+)_c\d+")


def read_ucf101(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a list of UCF101: lines ``Class/v_Class_g08_c01.avi 1``, where lists of a test split lack the number.

    A video may have another suffix than the list says, be a folder of frames, or lie in ``videos`` itself. The group of
    a sample is its class and ``gNN``: groups are counted anew in every class.

    Args:
        annotations: ``trainlist01.txt``, ``testlist01.txt`` or those of the splits 02 and 03.
        videos: Folder of the class folders.
        classes: Names of the classes; those of ``classInd.txt`` beside the list (``1 ApplyEyeMakeup``) if not given.
        multi_label: Has no use here.
        target: Has no use here.

    Raises:
        ValueError: A row is malformed, a video listed twice, a class unknown or at odds with its number; a path leaves
            ``videos``.
    """
    refuse("UCF101", multi_label=multi_label, target=target)
    vocabulary = given_or_own(annotations, classes, ("classInd.txt",), _class_ind)
    numbering = vocabulary.numbering or vocabulary
    inventory = Inventory(videos)
    collector = Collector(annotations)
    for line, text in text_lines(annotations):
        where = f"{annotations}, row {line}"
        listed, _, number = text.partition(" ")
        path = PurePosixPath(inside(listed, videos, where))
        match = _NAME.fullmatch(path.stem)
        if len(path.parts) != 2 or match is None:
            raise ValueError(f"{where}: {text!r} is not of the form 'Class/v_Class_g08_c01.avi 1'; correct it")
        folder = path.parts[0]
        label = vocabulary.index(folder, where)
        if number.strip() and number.strip() != str(place := numbering.index(folder, where) + 1):
            raise ValueError(
                f"{where}: {folder} is class {place} of {numbering.source}, not {number.strip()}; list and class "
                "names belong to different versions"
            )
        found = inventory.find((folder, ""), (path.stem,))
        sample = Sample(str(path), videos / (found or str(path)), label, group=f"{folder}/{match[1]}")
        collector.add(sample, line, found=found is not None)
    return collector.manifest(vocabulary.names)


def _class_ind(path: Path) -> Vocabulary:
    names: list[str] = []
    for line, text in text_lines(path):
        number, _, name = text.partition(" ")
        if number != str(len(names) + 1) or not name:
            raise ValueError(f"{path}, row {line}: {text!r} is not '{len(names) + 1} NameOfTheClass'; correct it")
        names.append(name.strip())
    return Vocabulary(names, str(path))
