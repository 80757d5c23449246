"""Manifests written as files: one's own videos divided into splits, or a named data set as a CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from timesformer_plus.data.catalogues import read_manifest
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.data.splits import check_coverage
from timesformer_plus.data.splitting import same_content, split_manifest
from timesformer_plus.data.vocabulary import CLASSES_FILE, given_or_beside, is_number

# names that the folders of an existing division go by -> the split
_LAYOUT = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def make_manifest(
    source: Path,
    *,
    format: str = "auto",
    videos: Path | None = None,
    output: Path | None = None,
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    multi_label: bool = False,
    target: str | None = None,
    max_missing: float = 0.0,
    overwrite: bool = False,
) -> None:
    """Write the CSV manifests that training reads, and print how many videos of each class are in which.

    Without `output`, the videos of `source` are divided into train.csv, val.csv and test.csv, written with classes.txt
    into the folder of the source. Folders named train, val and test with class folders in them are kept as they are.
    With `output`, all of `source` becomes that one file.

    Args:
        source: A folder with a folder per class, or annotations of any format that `format` names.
        format: auto for a folder per class, .csv, .jsonl; else list, kinetics, something_v1, something_v2, jester,
            ucf101, hmdb51, diving48, moments, epic_kitchens or charades.
        videos: Folder that the videos lie in; that of the source if not given.
        output: The one CSV file to write instead of three.
        shares: Shares of train, val and test; a split with share 0 is not written.
        seed: Seed of the division.
        multi_label: Whether a video has any number of labels.
        target: Which labelling or part, for the data sets that have several.
        max_missing: Largest share of the listed videos that may be missing; those are left out.
        overwrite: Replace manifests that are there already.

    Raises:
        ValueError: As for reading and dividing; a file to be written is there already; a video has no place in a CSV.
    """
    layout = _layout(source) if format == "auto" and output is None else {}
    if layout:
        splits = _kept(source, layout)
    else:
        manifest = read_manifest(source, format=format, videos=videos, multi_label=multi_label, target=target)
        print(check_coverage(manifest, str(source), max_missing))
        if output is None:
            parts = split_manifest(manifest, shares, seed=seed)
            splits = {name: dataclasses.replace(manifest, samples=tuple(part)) for name, part in parts.items()}
        else:
            splits = {output.stem: manifest}
    folder = output.parent if output is not None else source if source.is_dir() else source.parent
    files = {output or folder / f"{name}.csv": split for name, split in splits.items()}
    root = _root(folder, files.values(), videos)
    write_manifests(files, root=root, overwrite=overwrite)
    _print_table(splits)
    print(f"written: {', '.join(map(str, files))} and {CLASSES_FILE}; paths are relative to {root}")


def write_manifests(files: Mapping[Path, Manifest], *, root: Path, overwrite: bool = False) -> None:
    """Write manifests as CSV files in one folder, with the names of their classes in classes.txt beside them.

    Args:
        files: CSV file -> manifest; all have the same classes.
        root: Folder that the paths in the files are to be relative to.
        overwrite: Replace files that are there already. A classes.txt with the same names may always be there.

    Raises:
        ValueError: A file is there already; a name, a path or a member of a shard has no place in a CSV.
    """
    texts = {file: _csv(manifest, root) for file, manifest in files.items()}
    classes = next(iter(files.values())).classes
    if bad := [name for name in classes if name != name.strip() or len(name.splitlines()) != 1]:
        raise ValueError(f"class name {bad[0]!r} begins or ends with a blank, or has several lines; rename it")
    if any(";" in name for name in classes) and any(map(is_number, classes)):
        # a ';' in a name makes numbers stand for names, which these would be taken for
        raise ValueError(f"{CLASSES_FILE}: some class names hold a ';' and others are numbers; rename one kind")
    names = next(iter(files)).parent / CLASSES_FILE
    texts[names] = "".join(f"{name}\n" for name in classes)
    there = [
        file for file in texts if file.exists() and not (file == names and file.read_bytes() == texts[file].encode())
    ]
    if there and not overwrite:
        raise ValueError(
            f"{', '.join(map(str, there))}: there already; remove it, or give --overwrite true to replace it"
        )
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8", newline="\n")


def _csv(manifest: Manifest, root: Path) -> str:
    samples = manifest.samples
    columns = ["path", "label"]
    columns += [name for name in ("pair", "group") if any(getattr(sample, name) for sample in samples)]
    parts = any(sample.start or sample.end is not None for sample in samples)
    columns += ["start", "end"] if parts else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for sample in samples:
        if sample.member is not None:
            raise ValueError(f"{sample.id}: lies in a tar shard, which has no place in a CSV; train on the shards")
        fields = {
            "path": sample.path.relative_to(root).as_posix(),
            "label": _label(sample, manifest.classes),
            "pair": sample.pair,
            "group": sample.group,
            "start": repr(sample.start),
            "end": "" if sample.end is None else repr(sample.end),
        }
        writer.writerow([fields[column] for column in columns])
    try:
        text.getvalue().encode()
    except UnicodeEncodeError as error:
        name = error.object[max(0, error.start - 40) : error.end + 10]
        raise ValueError(f"...{name!r}...: is not text in UTF-8; rename the file") from error
    return text.getvalue()


def _label(sample: Sample, classes: Sequence[str]) -> str:
    if isinstance(sample.label, int):
        return classes[sample.label]
    marked = [i for i, mark in enumerate(sample.label) if mark]
    # numbers where a name holds the mark that stands between names
    return ";".join(str(i) if any(";" in name for name in classes) else classes[i] for i in marked)


def _layout(source: Path) -> dict[str, Path]:
    """Splits that are folders of the source already, where nothing else is."""
    if not source.is_dir():
        return {}
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and path.name[0] != "."]
    found = {_LAYOUT[path.name]: path for path in folders if path.name in _LAYOUT}
    if "train" not in found or len(found) != len(folders):
        return {}
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def _kept(source: Path, layout: Mapping[str, Path]) -> dict[str, Manifest]:
    vocabulary = given_or_beside(source / CLASSES_FILE, None)
    classes = None if vocabulary is None else vocabulary.names
    splits = {}
    for name, folder in layout.items():
        splits[name] = read_manifest(folder, format="folder", classes=classes)
        classes = splits[name].classes
    owner = {sample.path: name for name, split in splits.items() for sample in split.samples}
    for alike in same_content(sample for split in splits.values() for sample in split.samples):
        if len({owner[sample.path] for sample in alike}) > 1:
            shown = " and ".join(str(sample.path) for sample in alike[:3])
            raise ValueError(f"{shown} hold the same bytes but are in different splits; keep one")
    return splits


def _root(folder: Path, manifests: Iterable[Manifest], videos: Path | None) -> Path:
    """The folder of the CSV files where the videos are below it, else that of the videos."""
    samples = [sample for manifest in manifests for sample in manifest.samples]
    if all(folder in sample.path.parents for sample in samples):
        return folder
    if videos is None:
        raise ValueError(f"{folder}: the videos are not below the folder of the CSV file; say with `videos` where")
    return videos


def _print_table(splits: Mapping[str, Manifest]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", *splits, "all")
    columns = []
    for manifest in splits.values():
        labels = ([s.label] if isinstance(s.label, int) else [i for i, m in enumerate(s.label) if m]
                  for s in manifest.samples)  # fmt: skip
        columns.append(Counter(label for some in labels for label in some))
    for i, name in enumerate(next(iter(splits.values())).classes):
        counts = [column[i] for column in columns]
        table.add_row(name, *map(str, counts), str(sum(counts)))
    totals = [len(manifest.samples) for manifest in splits.values()]
    table.add_section()
    table.add_row("videos", *map(str, totals), str(sum(totals)))
    Console(soft_wrap=True, markup=False, highlight=False).print(table)
