"""Checkpoints to go on from, written by all processes of a sharded (FSDP2) run together.

    shard-00001-….safetensors   the shards of one process (torch.distributed.checkpoint), with their place in the whole
    state.json                  as ``training_state`` writes it
    manifest.json               size and sha256 of the others, see ``atomic_folder``

They can be loaded by any number of processes, sharded or not, and a sharded run loads what ``training_state`` has
written, too. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor import empty as empty_dtensor
from torch.distributed.tensor.placement_types import Placement

from timesformer_plus.engine.atomic_folder import damage, new_folder
from timesformer_plus.engine.processes import agreed
from timesformer_plus.engine.training_state import (
    load_state,
    pack_optimizer,
    read_record,
    remove_older,
    step_folder,
    unpack_optimizer,
    write_record,
)

_SHOWN = 3


class Trained(Protocol):
    """What a training changes. A network under ``optimizer``, sharded or not, and the average of its weights."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def optimizer(self) -> Any: ...

    @property
    def ema(self) -> ModelEmaV3 | None: ...


def save(folder: Path, step: int, trained: Trained, record: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, and remove the ones that it makes superfluous; all processes call this together.

    Args:
        folder: Where the checkpoints of a run are, on a disk that all machines share; created.
        step: Updates done. A checkpoint of the same step is replaced.
        trained: Its weights, their average and the state of its optimizer are written.
        record: What else there is, as JSON has it; that of the main process counts.
        keep: Newest whole checkpoints to keep, this one among them.

    Returns:
        The new checkpoint.

    Raises:
        ValueError: Something cannot be written, such as a value that JSON does not have.
        OSError: A process could not write; the older checkpoints are untouched. The same error in every process.
    """
    tensors = _weights(trained)
    optimizer, optimizer_record = pack_optimizer(trained.optimizer, trained.network)
    tensors |= {f"optimizer/{name}": value for name, value in optimizer.items()}
    content = {
        "record": dict(record),
        "optimizer": optimizer_record,
        "shards": {name: _words(name, value) for name, value in tensors.items() if isinstance(value, DTensor)},
    }
    path = step_folder(folder, step)
    with _new_folder_of_all(path) as staged:
        if PartialState().is_main_process:
            write_record(staged, step, content)
        writer = HuggingFaceStorageWriter(str(staged), save_distributed=True)
        with _alone_unmentioned():
            save_shards(tensors, storage_writer=writer, no_dist=not _together())
    agreed(lambda: remove_older(folder, step, keep=keep))
    return path


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint was written by ``save``, to be read by ``load``."""
    return any(path.glob("shard-*.safetensors"))


def load(path: Path, trained: Trained) -> tuple[int, dict[str, Any]]:
    """Go on from a checkpoint; all processes call this together.

    Args:
        path: A checkpoint of any number of processes, of ``save`` or of ``training_state.save_state``.
        trained: Its weights, their average and the state of its optimizer become those of the checkpoint.

    Returns:
        The updates done, and the record.

    Raises:
        ValueError: The checkpoint is damaged, or of another model or optimizer.
    """
    if not is_sharded(path):
        return _load_whole(path, trained)
    wrong = agreed(lambda: damage(path))
    if wrong is not None:
        raise ValueError(f"{wrong}; this checkpoint cannot be used")
    step, _, content = read_record(path)
    reader = HuggingFaceStorageReader(str(path))
    stored = {
        name: value
        for name, value in reader.read_metadata().state_dict_metadata.items()
        if isinstance(value, TensorStorageMetadata)
    }
    weights = _weights(trained)
    _require_same(
        {name: (value.properties.dtype, value.size) for name, value in stored.items() if _group(name) != "optimizer"},
        {name: (value.dtype, value.shape) for name, value in weights.items()},
    )
    mesh = next((value.device_mesh for value in weights.values() if isinstance(value, DTensor)), None)
    optimizer = {
        name: _empty(value, mesh, content["shards"].get(name))
        for name, value in stored.items()
        if _group(name) == "optimizer"
    }
    try:
        with _alone_unmentioned():
            load_shards({**weights, **optimizer}, storage_reader=reader, no_dist=not _together())
    except CheckpointException as report:
        raise ValueError(f"{path}: {_plainly(report)}; this checkpoint cannot be used") from report
    unpack_optimizer(
        trained.optimizer,
        trained.network,
        {name.removeprefix("optimizer/"): value for name, value in optimizer.items()},
        content["optimizer"],
    )
    return step, content["record"]


def _load_whole(path: Path, trained: Trained) -> tuple[int, dict[str, Any]]:
    """Share out a checkpoint that one process has written."""
    state = load_state(path)
    record = dict(state.record)
    weights = _weights(trained)
    stored = {f"{group}/{name}": v for group, named in state.tensors.items() for name, v in named.items()}
    whole = {name: value for name, value in stored.items() if _group(name) != "optimizer"}
    _require_same(
        {name: (value.dtype, value.shape) for name, value in whole.items()},
        {name: (value.dtype, value.shape) for name, value in weights.items()},
    )
    for name, value in weights.items():
        value.copy_(_like(whole[name], value))
    parameters = dict(trained.network.named_parameters())
    optimizer = {}
    for name, value in state.tensors["optimizer"].items():
        parameter = parameters.get(name.partition("/")[0])
        if parameter is None or value.dim() == 0:
            optimizer[name] = value
        elif value.shape == parameter.shape:
            optimizer[name] = _like(value, parameter.detach())
        else:
            raise ValueError(
                f"{path}: the optimizer's {name!r} of shape {tuple(value.shape)} cannot be shared out among processes "
                "like its parameter; go on without FSDP2"
            )
    unpack_optimizer(trained.optimizer, trained.network, optimizer, record["optimizer"])
    return state.step, record


def _weights(trained: Trained) -> dict[str, Tensor]:
    """The weights and their average, by group and name; writing to them changes the network."""
    modules = {"model": trained.network} | ({} if trained.ema is None else {"ema": trained.ema.module})
    return {f"{group}/{name}": v.detach() for group, m in modules.items() for name, v in m.state_dict().items()}


def _group(name: str) -> str:
    return name.partition("/")[0]


def _like(whole: Tensor, example: Tensor) -> Tensor:
    whole = whole.to(example.device)
    if not isinstance(example, DTensor):
        return whole
    return distribute_tensor(whole, example.device_mesh, example.placements)


def _empty(stored: TensorStorageMetadata, mesh: DeviceMesh | None, words: list[str] | None) -> Tensor:
    """Where a tensor of the checkpoint can be read to: in shards where it was, if the run has a mesh to share it on."""
    dtype = stored.properties.dtype
    if mesh is None or words is None:
        return torch.empty(stored.size, dtype=dtype)
    return empty_dtensor(stored.size, dtype=dtype, device_mesh=mesh, placements=_placements(words))


def _words(name: str, tensor: DTensor) -> list[str]:
    """How a tensor is shared out, as JSON: one word for each dimension of the mesh."""
    words = []
    for placement in tensor.placements:
        if not isinstance(placement, (Shard, Replicate)):
            raise ValueError(f"{name!r} is shared out as {placement}, which cannot be saved; choose another optimizer")
        words.append(f"shard {placement.dim}" if isinstance(placement, Shard) else "replicate")
    return words


def _placements(words: list[str]) -> list[Placement]:
    return [Replicate() if word == "replicate" else Shard(int(word.removeprefix("shard "))) for word in words]


def _require_same(stored: Mapping[str, tuple[Any, ...]], own: Mapping[str, tuple[Any, ...]]) -> None:
    sides = {
        "only the checkpoint has": sorted(stored.keys() - own.keys()),
        "only the run has": sorted(own.keys() - stored.keys()),
        "differently made are": [
            f"{name} ({stored[name]} in the checkpoint, {own[name]} in the run)"
            for name in sorted(stored.keys() & own.keys())
            if stored[name] != own[name]
        ],
    }
    said = [f"{what} {', '.join(found[:_SHOWN])} ({len(found)} in all)" for what, found in sides.items() if found]
    if said:
        raise ValueError(f"the checkpoint is of another model: {'; '.join(said)}")


def _together() -> bool:
    return bool(PartialState().num_processes > 1)


@contextlib.contextmanager
def _alone_unmentioned() -> Iterator[None]:
    """Let torch not warn that one process works by itself: that is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


@contextlib.contextmanager
def _new_folder_of_all(target: Path) -> Iterator[Path]:
    """One new folder, which the processes fill together: it takes its place if all of them succeed."""
    with contextlib.ExitStack() as stack:
        staged = agreed(lambda: stack.enter_context(new_folder(target)))
        error: Exception | None = None
        if not staged.is_dir():
            here = PartialState().process_index
            error = OSError(f"process {here} does not see that folder: all machines have to share the disk it is on")
        if _first(error) is None:
            try:
                yield staged
            except CheckpointException as report:
                error = OSError(_plainly(report))
            except (OSError, ValueError) as failure:
                error = failure
        first = _first(error)

        def leave() -> None:
            with stack:  # new_folder puts the folder into its place, or takes it away and says what that means
                if first is not None:
                    raise first

        agreed(leave)


def _first(error: Exception | None) -> Exception | None:
    """The first error of any process, in all of them."""
    errors = gather_object([error]) if _together() else [error]
    return next((failure for failure in errors if failure is not None), None)


def _plainly(report: CheckpointException) -> str:
    """One line of torch's report, which holds the tracebacks of all processes."""
    process, (failure, _) = min(report.failures.items())
    reason = getattr(failure, "strerror", None) or str(failure).partition("\n")[0]
    return f"process {process}: {type(failure).__name__}: {reason}"
