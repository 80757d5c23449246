"""Every format of data set that can be read, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timesformer_plus.data.catalogues.charades import read_charades
from timesformer_plus.data.catalogues.diving48 import read_diving48
from timesformer_plus.data.catalogues.epic_kitchens import read_epic_kitchens
from timesformer_plus.data.catalogues.folder import read_folder
from timesformer_plus.data.catalogues.hmdb51 import read_hmdb51
from timesformer_plus.data.catalogues.kinetics import read_kinetics, read_list
from timesformer_plus.data.catalogues.moments import read_moments
from timesformer_plus.data.catalogues.something import read_jester, read_something_v1, read_something_v2
from timesformer_plus.data.catalogues.tables import read_csv_table, read_jsonl_table
from timesformer_plus.data.catalogues.ucf101 import read_ucf101
from timesformer_plus.data.catalogues.webdataset import read_shards
from timesformer_plus.data.manifests import Manifest, Reader
from timesformer_plus.data.shards import folder_of

READERS: dict[str, Reader] = {
    "csv": read_csv_table,
    "jsonl": read_jsonl_table,
    "folder": read_folder,
    "webdataset": read_shards,
    "list": read_list,
    "kinetics": read_kinetics,
    "something_v1": read_something_v1,
    "something_v2": read_something_v2,
    "jester": read_jester,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "diving48": read_diving48,
    "moments": read_moments,
    "epic_kitchens": read_epic_kitchens,
    "charades": read_charades,
}


def read_manifest(
    path: str | Path,
    *,
    format: str = "auto",
    videos: str | Path | None = None,
    classes: Sequence[str] | None = None,
    multi_label: bool = False,
    target: str | None = None,
) -> Manifest:
    """Read the videos of one split, in any format.

    Args:
        path: The annotations: a file, a folder, or a pattern of shards such as ``train-{000..009}.tar``.
        format: A key of ``READERS``. ``"auto"`` tells ``csv`` and ``jsonl`` by the suffix, a folder per class by its
            being a folder, and ``webdataset`` by ``.tar`` or a folder with such files.
        videos: Folder that the videos lie in; ``path`` itself if that is a folder, else the folder that it lies in (of
            a pattern, all that it stands for).
        classes: Names of the classes in the order of their indices; the data set's own if not given. Splits that are
            compared need the same: read training first and give its ``Manifest.classes`` to the others. A number in
            the annotations still counts the data set's own names where these lie beside it; its name is looked up here.
        multi_label: Whether a video has any number of labels instead of one.
        target: Which labelling or part, for the data sets that have several.

    Returns:
        The manifest. Videos that are not there are in its ``missing``.

    Raises:
        ValueError: The format is unknown or not to be told, there is nothing at ``path``, or as its reader says.
    """
    path = Path(path)
    if format == "auto":
        format = _told_from(path)
    if format not in READERS:
        raise ValueError(f"format={format!r} is unknown; allowed are auto, {', '.join(READERS)}")
    folder = folder_of(path) if format == "webdataset" else path if path.is_dir() else path.parent
    return READERS[format](
        path,
        videos=folder if videos is None else Path(videos),
        classes=classes,
        multi_label=multi_label,
        target=target,
    )


def _told_from(path: Path) -> str:
    if path.is_dir():
        return "webdataset" if any(path.glob("*.tar")) else "folder"
    suffix = path.suffix.lower()
    known = {".csv": "csv", ".jsonl": "jsonl", ".tar": "webdataset"}
    if suffix not in known and not path.exists():
        raise ValueError(f"{path}: there is no such file or folder; correct the path")
    if suffix not in known:
        raise ValueError(f"{path}: the format cannot be told from the name; give one of {', '.join(READERS)}")
    return known[suffix]
