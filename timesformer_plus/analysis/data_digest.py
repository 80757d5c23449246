"""Which data a run was trained on, by digests of the files that describe it.

The videos themselves are not read: a folder may hold a terabyte of them. What is compared are the manifests (of a
folder per class and of tar shards the names and sizes of the files), the list of classes, the scan and the list of
videos left out and, for data made by ``tools/make_motion.py``, ``dataset.json``, which holds the seed and everything
else that the videos follow from. Videos exchanged behind an unchanged manifest go unnoticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.scan import SCAN_FILE
from ..data.shards import expand
from ..engine.data_config import DataConfig

Digests = dict[str, str]


def data_digests(options: Mapping[str, Any]) -> Digests | None:
    """Digests of the files that describe the data of a run.

    Args:
        options: Options of a training, nested as in YAML.

    Returns:
        Path below ``data.root`` -> SHA-256, of those files that exist. None where there is nothing to compare:
        ``data.root`` is not set, or is no folder (any more).
    """
    root = data_root(options)
    if root is None or not root.is_dir():
        return None
    names = _manifests(options["data"])
    # the classes lie beside the training manifest
    names += [str(Path(name).with_name("classes.txt")) for name in names[:1]] + ["dataset.json"]
    names += _verdicts(options["data"])
    digests = {name: _digest(root / name) for name in names}
    return {name: digest for name, digest in digests.items() if digest is not None}


def data_root(options: Mapping[str, Any]) -> Path | None:
    """``data.root`` of a run; None where the options set none."""
    data = options.get("data")
    root = data.get("root") if isinstance(data, Mapping) else None
    return Path(root) if isinstance(root, str) else None


def why_unusable(options: Mapping[str, Any]) -> str | None:
    """What keeps a training from finding its data, as a sentence; None where nothing does."""
    root = data_root(options)
    if root is None:
        return None
    if not root.is_dir():
        return f"data.root={root} is no folder; make or mount the data, or set data.root to where it is"
    lacking = [name for name in _manifests(options["data"]) if _digest(root / name) is None]
    return f"{root} has no {', '.join(lacking)} that can be read; complete the data" if lacking else None


def _manifests(data: Mapping[str, Any]) -> list[str]:
    names = (data.get("train", DataConfig.train), data.get("val", DataConfig.val), data.get("test", DataConfig.test))
    return [str(name) for name in names if name is not None]


def _verdicts(data: Mapping[str, Any]) -> list[str]:
    """What leaves videos out: the scan, and the list of those to exclude."""
    scan, videos = data.get("scan", DataConfig.scan), data.get("videos")
    found = [str(Path(videos or "") / SCAN_FILE)] if scan == "auto" else [] if scan == "none" else [_from_here(scan)]
    return [*found, *([_from_here(data["exclude"])] if data.get("exclude") else [])]


def _from_here(path: str) -> str:
    # these are relative to the current folder, and joining the root to an absolute path leaves that alone
    return str(Path(path).absolute())


def _digest(path: Path) -> str | None:
    try:
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
        if ".tar" in path.suffixes and "{" in str(path):
            files = expand(path)
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
        elif not path.suffix:  # HMDB51: FOLDER/split1/train stands for the files *_test_split1.txt of the folder
            files = sorted(path.parent.parent.glob(f"*_test_{path.parent.name}.txt"))
        else:
            return None
        listing = [(os.path.relpath(file, path.parent), file.stat().st_size) for file in files]
        return hashlib.sha256(repr(listing).encode()).hexdigest() if listing else None
    except (OSError, ValueError):  # not readable, or shards of the pattern are missing
        return None
