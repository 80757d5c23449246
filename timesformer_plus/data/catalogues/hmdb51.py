"""HMDB51, by its official split files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from timesformer_plus.data.annotations import text_lines
from timesformer_plus.data.catalogues.options import refuse
from timesformer_plus.data.inventory import Inventory, inside
from timesformer_plus.data.manifests import Collector, Manifest, Sample
from timesformer_plus.data.vocabulary import Vocabulary

# what the number behind a name says
_PARTS = {"unused": "0", "train": "1", "test": "2"}
# source and class, then: visible body, camera motion, people, view, quality, number of the clip
_NAME = re.compile(r"(.+)_[a-z]_(?:cm|nm)_np\d+_[a-z]{2}_(?:bad|med|goo)_\d+")


def read_hmdb51(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a split of HMDB51: a file ``CLASS_test_splitN.txt`` for every class, with lines ``name.avi 1``.

    1 is for training, 2 for testing, 0 is in neither. A video may have another suffix than the file says, be a folder
    of frames, or lie in ``videos`` itself. The group of a sample is its class and the part of its name that tells the
    source: the splits keep clips of one source together within a class, while a film has clips in many classes.

    Args:
        annotations: The folder of the split files, the split and the part, put together as a path:
            ``testTrainMulti_7030_splits/split1/train``, or ``.../test`` or ``.../unused``.
        videos: Folder of the class folders.
        classes: Names of the classes; those that have a file, sorted, if not given.
        multi_label: Has no use here.
        target: Has no use here.

    Raises:
        ValueError: ``annotations`` is of another form, or there are no such files; a row is malformed, a video listed
            twice, a class unknown; a path leaves ``videos``.
    """
    refuse("HMDB51", multi_label=multi_label, target=target)
    folder, split, part = annotations.parent.parent, annotations.parent.name, annotations.name
    if not re.fullmatch(r"split[123]", split) or part not in _PARTS:
        raise ValueError(
            f"{annotations}: give the folder of the split files, the split and the part, such as "
            "testTrainMulti_7030_splits/split1/train (or test)"
        )
    ending = f"_test_{split}.txt"
    files = {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"*{ending}"))}
    if not files:
        raise ValueError(f"{folder}: there is no file named like brush_hair{ending}; give their folder")
    vocabulary = Vocabulary(sorted(files), str(folder)) if classes is None else Vocabulary(classes, "`classes`")
    inventory = Inventory(videos)
    collector = Collector(annotations)
    row = 0
    for name, file in sorted(files.items()):
        label = vocabulary.index(name, str(file))
        for line, text in text_lines(file):
            where = f"{file}, row {line}"
            video, _, mark = text.rpartition(" ")
            if mark not in _PARTS.values() or not video:
                raise ValueError(f"{where}: {text!r} is not a name and 0, 1 or 2, as in 'name.avi 1'; correct it")
            path = inside(f"{name}/{video.strip()}", videos, where)
            row += 1
            if mark == _PARTS[part]:
                stem = PurePosixPath(path).stem
                found = inventory.find((name, ""), (stem,))
                match = _NAME.fullmatch(stem)
                group = f"{name}/{match[1] if match else stem}"
                sample = Sample(path, videos / (found or path), label, group=group)
                collector.add(sample, row, found=found is not None)
    return collector.manifest(vocabulary.names)
