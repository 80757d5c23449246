"""Files of weights, read without running what is in them, whatever they turn out to be."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import pickle
import re
import shlex
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["read_weights"]

_logger = logging.getLogger(__name__)

# Where training scripts keep the tensors; timm prefers averaged ones, so do we
WRAPPERS = (
    *("state_dict_ema", "model_ema", "model_state", "state_dict", "model", "module"),
    *("ema_encoder", "target_encoder"),  # V-JEPA's encoders
)
# What torch.compile and DistributedDataParallel put in front of every name
PREFIXES = ("_orig_mod.", "module.")

_scalar = np.float64(0).__reduce__()[0]
_reconstruct = np.zeros(0).__reduce__()[0]
SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,  # the options of a training script
    # numbers and arrays of numpy, such as the best score so far, by the names of numpy 1 and 2
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]
"""What a pickle may name besides what ``torch.load(weights_only=True)`` allows anyway; none of it runs code."""

CONVERT = "python -m timesformer_plus.engine.tensors_only"
"""Program that takes the tensors out of any pickle, with stand-ins for everything else, in a process of its own."""


def read_weights(path: str | Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file without running anything in it.

    What the file is, its first bytes say: safetensors, or what ``torch.save`` writes. The latter is read with
    ``torch.load(weights_only=True)`` and the few further names that published files hold. Tensors are looked for
    under the keys of ``WRAPPERS``, averaged weights first, and lose what wrappers put in front of all names. The data
    of safetensors and of zipped files stay in one copy.

    Args:
        path: The file.
        sha256: Its digest in hexadecimal, or the first 8 or more digits; not checked if ``None``.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        ValueError: No such file, another digest, no file of weights, a damaged one, one that would run code, or one
            whose tensors are not where they can be found.
    """
    path = Path(path)
    kind = _kind(path)
    if sha256 is not None:
        _check_digest(path, sha256)
    if kind == "safetensors":
        try:
            return _strip_prefixes(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is a damaged or truncated safetensors file ({error}); fetch it again") from error
    return _strip_prefixes(_tensors(_load_pickle(path, mapped=kind == "torch zip"), path))


def _kind(path: Path) -> str:
    """Tell what a file is by its first bytes: ``"safetensors"``, ``"torch zip"`` or ``"torch pickle"``."""
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"there is no file of weights {path} ({error.strerror})") from error
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{path} is a folder; name the file of weights in it")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if not status.st_size:
        raise ValueError(f"{path} is empty; fetch it again")
    with path.open("rb") as file:
        head = file.read(512)
    start = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a pointer of Git LFS, not the file itself; run `git lfs pull` where it came from")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page, most likely the answer to a download that failed; fetch it again")
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} is named .safetensors but is none (it starts with {head[:8]!r}); fetch it again")
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head.startswith(b"\x80\x02"):  # torch.save before torch 1.6, and now without zip
        return "torch pickle"
    if start.startswith((b"{", b"[")):
        raise ValueError(f"{path} is JSON text, not weights; name the file of tensors beside it")
    raise ValueError(
        f"{path} is neither safetensors nor what torch.save writes (it starts with {head[:8]!r}); an archive has to "
        "be unpacked first"
    )


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged or truncated ({error}); fetch it again") from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise ValueError(f"{path} is a TorchScript program, not weights; save its state_dict() and name that file")
    if any(name.endswith("/data.pkl") for name in names):
        return "torch zip"
    if names and all(name.endswith(".npy") for name in names):
        raise ValueError(
            f"{path} is an archive of numpy arrays; timm reads those of its image models with "
            "pretrained_cfg_overlay=dict(file=..., custom_load=True)"
        )
    raise ValueError(f"{path} is a zip of something else ({', '.join(names[:3]) or 'nothing'}); unpack it first")


def _check_digest(path: Path, wanted: str) -> None:
    wanted = wanted.lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", wanted):
        raise ValueError(f"sha256={wanted!r} must be 8 to 64 hexadecimal digits")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not digest.hexdigest().startswith(wanted):
        raise ValueError(
            f"{path} has sha256 {digest.hexdigest()}, not {wanted}: it is damaged, or another file; fetch it again"
        )


def _load_pickle(path: Path, *, mapped: bool) -> Any:
    """Load with torch's restricted reader, zipped files without a copy of their data."""
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle raises nearly anything
        wanted = _wanted_globals(path, error)
        if wanted:
            output = path.with_name(f"{path.stem}_tensors.pth")
            raise ValueError(
                f"{path} wants to run {', '.join(wanted)}, which weights do not need, so it is not read; to take the "
                "tensors alone out of it, in a throw-away process that runs none of that: "
                f"{CONVERT} {shlex.quote(str(path))} {shlex.quote(str(output))}"
            ) from error
        inner = error.__context__ or error  # torch wraps it into the advice to read the file with its code
        reason = (str(inner).splitlines() or [type(inner).__name__])[0]
        raise ValueError(f"{path} is damaged or truncated ({reason}); fetch it again") from error


def _wanted_globals(path: Path, error: Exception) -> list[str]:
    """Name what a pickle asks for beyond the allowed, nothing if that was not the trouble."""
    if not isinstance(error, pickle.UnpicklingError):
        return []
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # files without zip are not searched
        wanted = []
    return sorted(wanted) or re.findall(r"GLOBAL (\S+)", str(error))[:1]


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Find the tensors in what a training script saved."""
    where = []
    while isinstance(loaded, Mapping):
        key = next((k for k in WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
        if key is None:
            break
        where.append(key)
        loaded = loaded[key]
    place = f"{path}" + (f" under {'.'.join(where)!r}" if where else "")
    if where:
        _logger.info("%s: weights read from %r", path, ".".join(where))
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{place} holds a {type(loaded).__name__}, not tensors by name; save a state_dict() instead")
    names = [str(key) for key in loaded]
    if not any(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(
            f"{place} holds no tensors by name, only {json.dumps(names[:8])}; they are looked for at the top and under "
            f"{', '.join(WRAPPERS)}"
        )
    others = {
        key: type(v).__name__ for key, v in loaded.items() if not (isinstance(v, Tensor) and isinstance(key, str))
    }
    if others:
        raise ValueError(f"{place} holds more than tensors by name: {dict(list(others.items())[:8])}; save them alone")
    return dict(loaded)


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop what wrappers put in front of every name."""
    while tensors:
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None)
        if prefix is None:
            break
        tensors = {key[len(prefix) :]: value for key, value in tensors.items()}
    return tensors
