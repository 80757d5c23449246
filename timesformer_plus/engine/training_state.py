"""Checkpoints to go on from: RUN/checkpoints/step-00000120/, tensors as safetensors, everything else as JSON.

    <group>.safetensors   a file for each group of tensors: model, optimizer, ema
    state.json            ``{"format": 1, "step": 120, "groups": [...], "record": {...}}``
    manifest.json         size and sha256 of the others, see ``atomic_folder``

Nothing is pickled, so that reading a checkpoint runs nobody's code. A checkpoint is whole or not there; one that has
been damaged since is noticed, named, and passed over.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from timesformer_plus.engine.atomic_folder import damage, new_folder, recover, unfinished
from timesformer_plus.engine.optimizer_state import pack_optimizer, unpack_optimizer

__all__ = [
    "State",
    "load_state",
    "newest_state",
    "pack_optimizer",
    "read_record",
    "remove_older",
    "save_state",
    "step_folder",
    "unpack_optimizer",
    "unshared",
    "write_record",
]

STATE_FILE = "state.json"
FORMAT = 1
_STEP = re.compile(r"step-(\d{8,})")
_GROUP = re.compile(r"[A-Za-z0-9_]+")


class State(NamedTuple):
    """What was saved.

    Attributes:
        step: Updates done.
        tensors: Name of a group -> name of a tensor -> tensor, on the CPU.
        record: Everything else.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    record: dict[str, Any]


def save_state(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    record: Mapping[str, Any],
    *,
    keep: int,
) -> Path:
    """Write a checkpoint, and remove the ones that it makes superfluous.

    Args:
        folder: Where the checkpoints of a run are; created.
        step: Updates done. A checkpoint of the same step is replaced.
        tensors: Groups of named tensors of any shape, type, layout and device. Those that share memory are written in
            full, each.
        record: What else there is, as JSON has it: tuples come back as lists.
        keep: Newest whole checkpoints to keep, this one among them. Checkpoints of later steps are removed: they were
            damaged and passed over, or this run would not be here.

    Returns:
        The new checkpoint.

    Raises:
        ValueError: ``keep`` is not positive, ``step`` is negative, a group's name is no plain word, or ``record`` holds
            something that JSON does not have.
        OSError: It cannot be written, because of a full disk, say; the older ones are untouched.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} would leave no checkpoint; give at least 1")
    for group in tensors:
        if not _GROUP.fullmatch(group):
            raise ValueError(f"group {group!r} becomes a file's name; use letters, digits and _ only")
    path = step_folder(folder, step)
    with new_folder(path) as staged:
        write_record(staged, step, record, groups=tuple(tensors))
        for group, named in tensors.items():
            save_file(unshared(named), staged / f"{group}.safetensors")
    remove_older(folder, step, keep=keep)
    return path


def newest_state(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint that is whole.

    Finishes or removes first what a killed process has left half done, so call it in one process, when nobody is
    writing, and tell the others.

    Args:
        folder: Where the checkpoints of a run are; it need not exist.

    Returns:
        The checkpoint, ``None`` if there is none; and a line for every newer one that is damaged.
    """
    for target in unfinished(folder):
        recover(target)
    passed_over: list[str] = []
    for _, path in _steps(folder):
        wrong = _wrong(path)
        if wrong is None:
            return path, passed_over
        passed_over.append(wrong)
    return None, passed_over


def load_state(path: Path) -> State:
    """Read a checkpoint that ``save_state`` has written.

    Raises:
        ValueError: It is damaged, or not such a checkpoint.
    """
    wrong = _wrong(path)
    if wrong is not None:
        raise ValueError(f"{wrong}; this checkpoint cannot be used")
    step, groups, record = read_record(path)
    tensors = {}
    for group in groups:
        file = path / f"{group}.safetensors"
        try:
            tensors[group] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} cannot be read ({error}); this checkpoint cannot be used") from error
    return State(step, tensors, record)


def step_folder(folder: Path, step: int) -> Path:
    """Place of the checkpoint after ``step`` updates.

    Raises:
        ValueError: ``step`` is negative.
    """
    if step < 0:
        raise ValueError(f"step={step} is negative")
    return folder / f"step-{step:08d}"


def write_record(staged: Path, step: int, record: Mapping[str, Any], *, groups: tuple[str, ...] = ()) -> None:
    """Write state.json, which every checkpoint has.

    Args:
        staged: A folder of ``atomic_folder.new_folder``.
        step: Updates done.
        record: What is to be kept, as JSON has it.
        groups: Names of the safetensors files beside it.

    Raises:
        ValueError: ``record`` holds something that JSON does not have.
    """
    content = {"format": FORMAT, "step": step, "groups": list(groups), "record": dict(record)}
    try:
        text = json.dumps(content)
    except TypeError as error:
        raise ValueError(f"the record of a checkpoint has to be JSON: {error}") from error
    (staged / STATE_FILE).write_text(text + "\n", encoding="utf-8")


def read_record(path: Path) -> tuple[int, list[str], dict[str, Any]]:
    """Read state.json: the step, the names of the groups and the record.

    Raises:
        ValueError: It is not there, or not of this format.
    """
    file = path / STATE_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}); this is no checkpoint of a training") from error
    known = isinstance(content, dict) and content.get("format") == FORMAT
    if not known or not {"step", "groups", "record"} <= content.keys():
        raise ValueError(f"{file} is not of format {FORMAT}; use the version of timesformer_plus that wrote it")
    return content["step"], content["groups"], content["record"]


def remove_older(folder: Path, step: int, *, keep: int) -> None:
    """Remove all checkpoints but the newest ``keep`` whole ones up to ``step``, which was just written."""
    kept = 0
    for number, path in _steps(folder):
        # what was just written needs no second look; with the last kept one the looking ends
        if number <= step and kept < keep and (number == step or _wrong(path) is None):
            kept += 1
        else:
            shutil.rmtree(path)


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a folder, newest first."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _STEP.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in found), reverse=True)


def _wrong(path: Path) -> str | None:
    """One line about what keeps a checkpoint from being used; ``None`` for a whole one."""
    wrong = damage(path)
    if wrong is None and not (path / STATE_FILE).is_file():
        wrong = f"{path}: {STATE_FILE} is missing"
    return wrong


def unshared(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: contiguous, on the CPU, and none shares memory with another.

    Only what has to be is copied.
    """
    apart = {}
    seen: set[int] = set()
    for name, tensor in named.items():
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        apart[name] = plain
    return apart
