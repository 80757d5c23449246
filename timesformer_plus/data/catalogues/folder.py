"""A folder per class: ``videos/CLASS/file.mp4``, or ``videos/CLASS/VIDEO/frame images``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from timesformer_plus.data.catalogues.options import check_below, refuse
from timesformer_plus.data.inventory import VIDEO_SUFFIXES, Inventory
from timesformer_plus.data.manifests import Collector, Manifest, Sample
from timesformer_plus.data.vocabulary import CLASSES_FILE, Vocabulary, given_or_beside

SPLIT_NAMES = ("train", "val", "test")


def read_folder(
    annotations: Path,
    /,
    *,
    videos: Path,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read a folder that holds a folder per class, named like it.

    A video is a file with a suffix of a video or a folder with images directly in it, anywhere below its class's
    folder. Hidden files and folders are passed over, as are files of other kinds. Samples come in the order of their
    paths.

    Args:
        annotations: The folder of the class folders.
        videos: The same folder, or one that it lies in.
        classes: Names of the classes; the lines of ``classes.txt`` in the folder if not given; without such a file,
            the names of the folders, sorted.
        multi_label: Has no use here.
        target: Has no use here.

    Raises:
        ValueError: There is no class folder, or one without a video or of an unknown class; an option has no use.
    """
    refuse("a folder per class", multi_label=multi_label, target=target)
    check_below(annotations, videos)
    inventory = Inventory(annotations)
    folders = sorted(name for name, is_folder in inventory.names("").items() if is_folder and name[0] != ".")
    if set(folders) & set(SPLIT_NAMES) and set(folders) <= set(SPLIT_NAMES):
        raise ValueError(
            f"{annotations}: its folders {folders} are splits, not classes; give one of them, such as "
            f"{annotations / folders[0]}"
        )
    if not folders:
        raise ValueError(f"{annotations}: there is no folder in it; make one for each class and put its videos there")
    vocabulary = given_or_beside(annotations / CLASSES_FILE, classes) or Vocabulary(folders, str(annotations))
    collector = Collector(annotations)
    row = 0
    for folder in folders:
        label = vocabulary.index(folder, f"{annotations / folder}")
        before = row
        for path in videos_below(inventory, folder):
            row += 1
            collector.add(Sample(path, annotations / path, label), row, found=True)
        if row == before:
            raise ValueError(
                f"{annotations / folder}: there is no video in it (a file ending in {' '.join(VIDEO_SUFFIXES)}, or a "
                "folder of images); put some there, or remove the folder"
            )
    return collector.manifest(vocabulary.names)


def videos_below(inventory: Inventory, folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Paths of the videos below a folder, relative to the inventory's root, sorted within each folder.

    Args:
        inventory: Lists the folders.
        folder: The folder, relative to the inventory's root.
        above: Device and inode of the folders that led here.

    Raises:
        ValueError: A link leads back to a folder above it, so that there would be no end of videos.
    """
    status = (inventory.root / folder).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise ValueError(f"{inventory.root / folder}: is a link back to a folder above it; remove it")
    for name, is_folder in sorted(inventory.names(folder).items()):
        path = f"{folder}/{name}"
        if name[0] == ".":
            continue
        if not is_folder:
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
                yield path
        elif inventory.holds_frames(path):
            yield path
        else:
            yield from videos_below(inventory, path, above | {here})
