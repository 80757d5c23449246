"""What ``tools/convert.py`` is pointed at: files of weights, with or without a config.json that says what they are."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from timesformer_plus.engine.atomic_folder import MANIFEST_FILE, damage
from timesformer_plus.engine.tensors_only import take_tensors
from timesformer_plus.models.weight_files import read_weights

Kind = Literal["file", "transformers", "timm"]

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
VIDEO_PREPROCESSOR_FILE = "video_preprocessor_config.json"
# as the hub names them, the better kind first; of each the whole file and the index of its parts
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was found.

    Attributes:
        path: What was given: a file or a folder.
        kind: ``"file"`` for a file that says nothing of itself, else whose config.json lies beside the weights.
        files: The weights, one file or the parts of one.
        config: What config.json says; empty for a file.
        preprocessor: What the preprocessor's config says, if there is one.
    """

    path: Path
    kind: Kind
    files: tuple[Path, ...]
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]


def find_source(path: Path) -> Source:
    """Look at what was given, without reading any weights.

    Args:
        path: A file of weights; a folder of ``transformers``; or a folder that timm loads, such as a run's best/.

    Raises:
        ValueError: It is none of these, or a folder that has changed since its manifest was written.
    """
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"there is no {path}; give a file of weights, or a folder with {CONFIG_FILE}")
        return Source(path, "file", (path,), {}, {})
    if not (path / CONFIG_FILE).is_file():
        raise ValueError(
            f"{path} holds no {CONFIG_FILE}, which would say what its weights are; name the file of weights in it, "
            "and its model with --model"
        )
    if (path / MANIFEST_FILE).is_file() and (wrong := damage(path)) is not None:
        raise ValueError(f"{wrong}; copy it again, or delete its {MANIFEST_FILE} if it was changed on purpose")
    config = _read_json(path / CONFIG_FILE)
    kind: Kind = "timm" if "architecture" in config else "transformers"
    if kind == "transformers" and "model_type" not in config:
        raise ValueError(
            f"{path / CONFIG_FILE} has neither 'model_type', as those of transformers, nor 'architecture', as those of "
            "timm; name the file of weights itself, and its model with --model"
        )
    found = [path / name for name in (VIDEO_PREPROCESSOR_FILE, PREPROCESSOR_FILE) if (path / name).is_file()]
    preprocessor = _read_json(found[0]) if found else {}
    return Source(path, kind, _weights_in(path), config, preprocessor)


def read_source(
    source: Source, *, sha256: str | None = None, tensors_only: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the weights.

    Args:
        source: What ``find_source`` found.
        sha256: Digest that its one file has to have, in hexadecimal, or the first 8 or more digits.
        tensors_only: Take tensors out of a pickle of other objects too, see ``tensors_only``.

    Returns:
        Tensors by the names they have there, and the sha256 of every file.

    Raises:
        ValueError: Another digest, or a file that cannot be read.
    """
    if sha256 is not None and len(source.files) > 1:
        raise ValueError(f"{source.path} comes in {len(source.files)} files, and sha256 is of one; leave it out")
    tensors: dict[str, Tensor] = {}
    digests = {}
    for file in source.files:
        part = _read_stripped(file, sha256) if tensors_only else _read(file, sha256)
        twice = sorted(part.keys() & tensors.keys())
        if twice:
            raise ValueError(f"{file} holds {twice[0]!r}, which another part of {source.path} holds too")
        tensors |= part
        digests[file.name] = _sha256(file)
    return tensors, digests


def _read(file: Path, sha256: str | None) -> dict[str, Tensor]:
    try:
        return read_weights(file, sha256=sha256)
    except ValueError as error:
        if "wants to run" in str(error):
            raise ValueError(f"{error}. Here --tensors_only true does the same") from error
        raise


def _read_stripped(file: Path, sha256: str | None) -> dict[str, Tensor]:
    if sha256 is not None and (
        not re.fullmatch(r"[0-9a-f]{8,64}", sha256.lower()) or not _sha256(file).startswith(sha256.lower())
    ):
        raise ValueError(f"{file} has sha256 {_sha256(file)}, not {sha256}: it is damaged, or another file")
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder) / "tensors.pth"
        take_tensors(file, stripped)
        # tensors of a mapped file outlive its name
        return {key: value.clone() for key, value in read_weights(stripped).items()}


def _weights_in(folder: Path) -> tuple[Path, ...]:
    found = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"{folder} holds none of {', '.join(WEIGHTS_FILES)}; name its file of weights, and --model")
    if found.suffix != ".json":
        return (found,)
    index = _read_json(found).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ValueError(f"{found} has no 'weight_map', which says which file holds which weights; copy it again")
    names = sorted({str(name) for name in index.values()})
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(f"{found} names {outside[0]!r}, which does not lie beside it; parts have plain names")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds {len(names) - len(missing)} of {len(names)} parts; {missing[0]} is missing")
    return tuple(folder / name for name in names)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} instead of an object; copy it again")
    return content


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
