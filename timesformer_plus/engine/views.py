"""What a model says about every view of every video of a split, by any number of processes and bitwise the same.

In floating point the answer for a clip depends on the shape of the batch that it comes in. So the batches are fixed
before the processes are: videos are sorted by id, their views are cut into batches, and whole batches are dealt out in
turn. Nothing is padded, each view is computed once, and neither the number of processes nor the order of the manifest
shows in a single bit, on one kind of machine and with one ``batch_size``. With MKL the number of threads does, unless
the environment has ``MKL_CBWR=AUTO,STRICT`` from the start, as tools/evaluate.py sees to.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Sampler

from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.data.transforms import Normalize
from timesformer_plus.engine.batches import Key
from timesformer_plus.engine.clip_loading import UnreadableVideosError, read_batches
from timesformer_plus.engine.predictions import Predictions
from timesformer_plus.engine.processes import join_processes
from timesformer_plus.engine.protocols import Precision, Protocol

# logits that a process sends at a time: with many classes and views they are gigabytes together
PIECE_BYTES = 1 << 26


class Interrupted(Exception):  # noqa: N818  it is no error
    """A process was asked to stop while videos were scored; all processes have stopped, and there is no score."""


class ViewBatches(Sampler[list[Key]]):
    """This process's batches of views: whole batches are dealt out in turn.

    Five videos with two views in batches of 4 are ``[0 0 1 1] [2 2 3 3] [4 4]``; of two processes the first one reads
    the first and the last of them.

    Args:
        order: Numbers of the videos, in the order in which they are cut into batches.
        num_views: Views of each.
        num_crops: How many of these are crops of one clip; a batch of at least that size parts none of them, so that
            their frames are decoded once.
        batch_size: Greatest number of clips in a batch.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ValueError: ``batch_size`` is below one.
    """

    def __init__(
        self,
        order: Sequence[int],
        num_views: int,
        num_crops: int = 1,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"{batch_size=}: give at least 1 clip")
        self.order = order
        self.num_views = num_views
        self.batch_size = batch_size if batch_size < num_crops else batch_size // num_crops * num_crops
        self._clips = len(order) * num_views
        self._starts = range(rank * self.batch_size, self._clips, world_size * self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self._starts:
            clips = range(start, min(start + self.batch_size, self._clips))
            yield [(0, self.order[i // self.num_views], i % self.num_views) for i in clips]

    def __len__(self) -> int:
        return len(self._starts)


class _Share(NamedTuple):
    """What one process found out; ``places`` and ``logits`` have a row for each of its views."""

    places: list[tuple[int, int]]
    logits: list[Tensor]
    short: set[int]
    unread: dict[tuple[int, int], DecodeError | OSError]
    stopped: bool


def predict_views(
    model: nn.Module,
    dataset: VideoDataset,
    normalize: Normalize,
    *,
    protocol: Protocol,
    batch_size: int,
    num_workers: int = 0,
    timeout: float = 0.0,
    requested: Callable[[], bool] | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_wait: Callable[[], None] | None = None,
) -> Predictions | None:
    """Run a model over all views of all videos, shared out among the processes as the module describes.

    The logits are gathered once, at the end and in the main process only, which alone needs the memory for them. A
    video that cannot be read does not end the reading and is not replaced: the predictions name it.

    Args:
        model: Maps (B, C, T, H, W) to logits (B, K); not wrapped for distributed training, whose forward would wait for
            the other processes.
        dataset: The videos; its ``num_views`` views of each are used.
        normalize: Turns a batch of their pixels into the model's input.
        protocol: How the views are cut and are to be averaged, and what the model computes in (for ``"fp64"`` its
            weights have to be of that kind); kept with the predictions.
        batch_size: Greatest number of clips in a forward pass, in every process.
        num_workers: Processes that read ahead, for every process.
        timeout: Seconds that workers may take for a batch; 0 waits for ever.
        requested: Whether this process is to stop: it then reads no more, and all raise ``Interrupted``.
        on_batch: Called before the first batch with 0, and with the number of clips after every one.
        on_wait: Called when this process is done with its videos and may have to wait for the others.

    Returns:
        The predictions in the main process, ``None`` in the others.

    Raises:
        UnreadableVideosError: Not one of the videos can be read; a ``DecodeError``.
        Interrupted: This or another process was to stop.
        WorkerError: A worker was killed, or hangs.
        ValueError: ``batch_size`` is below one, or the model's logits are not finite.
    """
    state = join_processes()
    samples = dataset.manifest.samples
    order = sorted(range(len(samples)), key=lambda index: samples[index].id)
    keys = ViewBatches(
        order,
        dataset.num_views,
        protocol.num_crops,
        batch_size=batch_size,
        rank=state.process_index,
        world_size=state.num_processes,
    )
    if on_batch is not None:
        on_batch(0)
    with _evaluating(model), _computing_in(protocol.precision, next(model.parameters()).device):
        share = _read_share(model, dataset, normalize, keys, num_workers, timeout, requested, on_batch)
    if on_wait is not None:
        on_wait()
    found = _everywhere(_summary(share))
    if any(one.stopped for one in found):
        raise Interrupted("stopped while videos were scored")
    _check_finite([samples[index].id for one in found for index in one.not_finite])
    unread = {place: error for one in found for place, error in one.unread.items()}
    errors: dict[int, DecodeError | OSError] = {}
    for place in sorted(unread):
        errors.setdefault(place[0], unread[place])
    if len(errors) == len(samples):
        raise UnreadableVideosError({samples[index].id: errors[index] for index in order}, len(samples))
    num_classes, dtype = next(one.width for one in found if one.width is not None)
    main = state.is_main_process
    rank_of = {index: rank for rank, index in enumerate(order)}
    logits = torch.full((len(order) if main else 0, dataset.num_views, num_classes), math.nan, dtype=dtype)
    read = torch.zeros(logits.shape[:2], dtype=torch.bool)
    for places, rows in _pieces(share, rows=max(one.rows for one in found), num_classes=num_classes):
        at = torch.tensor([(rank_of[index], view) for index, view in places]).T
        logits[at[0], at[1]] = rows
        read[at[0], at[1]] = True
    if not main:
        return None
    short = {index for one in found for index in one.short}
    return Predictions(
        ids=tuple(samples[index].id for index in order),
        logits=logits,
        read=read,
        targets=torch.tensor([samples[index].label for index in order]),
        pairs=tuple(samples[index].pair for index in order),
        short=torch.tensor([index in short for index in order]),
        reasons=tuple(_reason(errors[index]) if index in errors else "" for index in order),
        classes=tuple(dataset.manifest.classes),
        protocol=protocol,
    )


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every module in the mode that it was in: frozen ones may differ from the rest."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _computing_in(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast, where that is asked for; inside a model that does the same by itself it changes nothing."""
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in halves:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=halves[precision])


@torch.no_grad()
def _read_share(
    model: nn.Module,
    dataset: VideoDataset,
    normalize: Normalize,
    keys: ViewBatches,
    num_workers: int,
    timeout: float,
    requested: Callable[[], bool] | None,
    on_batch: Callable[[int], None] | None,
) -> _Share:
    weight = next(model.parameters())
    share = _Share([], [], set(), {}, False)
    pinned = weight.device.type == "cuda"
    for clips, failures in read_batches(dataset, keys, num_workers=num_workers, pin_memory=pinned, timeout=timeout):
        if requested is not None and requested():
            return share._replace(stopped=True)
        for failure in failures:
            share.unread[failure.key[1:]] = failure.error
        if clips is not None:
            # parameters are float64 or float32; autocast is inside the model's forward where it is on
            logits = model(normalize(clips.video.to(weight.device, non_blocking=True), weight.dtype))
            # half precisions fit into float32, bit for bit
            share.logits.append(logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).cpu())
            indices: list[int] = clips.index.tolist()  # type: ignore[attr-defined]  # collated: one number a clip
            views: list[int] = clips.view.tolist()  # type: ignore[attr-defined]
            shorts: list[bool] = clips.short.tolist()  # type: ignore[attr-defined]
            share.places.extend(zip(indices, views, strict=True))
            share.short.update(index for index, short in zip(indices, shorts, strict=True) if short)
        if on_batch is not None:
            on_batch(len(failures) + (0 if clips is None else len(clips.video)))
    return share


class _Summary(NamedTuple):
    """What every process has to know of every other before the logits are gathered."""

    stopped: bool
    rows: int
    short: set[int]
    unread: dict[tuple[int, int], DecodeError | OSError]
    not_finite: set[int]
    width: tuple[int, torch.dtype] | None


def _summary(share: _Share) -> _Summary:
    finite = torch.cat([rows.isfinite().all(dim=1) for rows in share.logits]).tolist() if share.logits else []
    not_finite = {index for (index, _), good in zip(share.places, finite, strict=True) if not good}
    width = (share.logits[0].shape[1], share.logits[0].dtype) if share.logits else None
    return _Summary(share.stopped, len(share.places), share.short, share.unread, not_finite, width)


def _check_finite(names: Sequence[str]) -> None:
    if names:
        some = ", ".join(sorted(set(names))[:3])
        raise ValueError(
            f"the model's logits are not finite for {len(set(names))} videos ({some}, ...), so there is no score: its "
            "weights are spoilt, or its activations overflow in half precision, which fp32 or bf16 mends"
        )


def _reason(error: DecodeError | OSError) -> str:
    # FFmpeg's texts and names of files may have several lines
    return " ".join((getattr(error, "reason", "") or str(error)).splitlines())


def _everywhere(item: Any) -> list[Any]:
    """What every process has, in every process."""
    items = [item]
    if dist.is_initialized() and dist.get_world_size() > 1:
        items = [None] * dist.get_world_size()
        dist.all_gather_object(items, item)
    return items


def _pieces(share: _Share, *, rows: int, num_classes: int) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """Views and logits of all processes, a piece at a time, in the main process; nothing in the others.

    Args:
        share: Those of this process.
        rows: Greatest number of views that a process has.
        num_classes: Classes a view.
    """
    alone = not dist.is_initialized() or dist.get_world_size() == 1
    step = max(1, PIECE_BYTES // (8 * num_classes))
    own = torch.cat(share.logits) if share.logits else torch.empty(0, num_classes)
    share.logits.clear()
    for start in range(0, rows, step):
        piece = (share.places[start : start + step], own[start : start + step].clone())
        pieces = [piece]
        if not alone:
            pieces = [piece] * dist.get_world_size()
            dist.gather_object(piece, pieces if dist.get_rank() == 0 else None, dst=0)
        if alone or dist.get_rank() == 0:
            yield from (item for item in pieces if item[0])
