"""Out of memory: recognised wherever it happens, and what to change so that the numbers stay."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

# how torch's allocator of ordinary memory, that of pinned memory, cuBLAS and cuDNN say it, all in a RuntimeError
MARKERS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|Cannot allocate memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_ALLOC_FAILED|unable to mmap|bad_alloc"
)
AMOUNT = re.compile(r"allocate ([\d.]+ \w?i?B|\d+ bytes)")


class MemoryShortageError(RuntimeError):
    """Training needs more memory than there is; the message says what to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out, on a GPU or not."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # not this package's own kinds of error, which may tell of another process that has run out of memory
    is_torchs = isinstance(error, RuntimeError) and type(error).__module__.partition(".")[0] in ("builtins", "torch")
    return is_torchs and MARKERS.search(str(error)) is not None


def explain_out_of_memory(
    error: BaseException,
    *,
    batch_size: int,
    accumulate: int,
    world_size: int,
    grad_checkpointing: bool | tuple[str, ...],
    pairs: bool = False,
) -> str | None:
    """Say what can be changed so that a training fits, and what that does to its numbers.

    Args:
        error: What was raised.
        batch_size: Clips an update, over all processes.
        accumulate: Forward and backward passes an update.
        world_size: Number of processes.
        grad_checkpointing: Whether activations are computed again already, all or of some parts.
        pairs: Whether neighbours are mixed and have to stay together.

    Returns:
        One line; ``None`` if ``error`` is something else.
    """
    if not is_out_of_memory(error):
        return None
    micro = batch_size / (accumulate * world_size)
    amount = AMOUNT.search(str(error))
    wanted = f" ({amount[1]} more were asked for)" if amount else ""
    on_gpu = isinstance(error, torch.OutOfMemoryError) or "CU" in str(error)
    ways = []
    larger = _next_accumulate(batch_size, accumulate, world_size, multiple=2 if pairs else 1)
    if larger is not None:
        clips = batch_size // (larger * world_size)
        ways.append(f"accumulate={larger} (passes of {clips} clips; the global batch stays {batch_size})")
    if grad_checkpointing is not True:
        ways.append("grad_checkpointing=true (the same numbers, about a third more time)")
    if world_size == 1 or larger is None:
        ways.append(f"more processes on more GPUs (the global batch stays {batch_size})")
    if not on_gpu:
        ways.append("a lower data.num_workers or data.cache_mb")
    ways.append("fewer data.num_frames, a smaller data.img_size or a smaller model (other numbers)")
    where = "the GPU's memory" if on_gpu else "memory"
    passes = f"a forward and backward pass of {micro:g} clips in each of {_counted(world_size)}"
    return f"{where} does not hold {passes}{wanted}; nothing was changed: try {'; or '.join(ways)}"


def _counted(world_size: int) -> str:
    return "1 process" if world_size == 1 else f"{world_size} processes"


def _next_accumulate(batch_size: int, accumulate: int, world_size: int, *, multiple: int) -> int | None:
    share = batch_size // (world_size * multiple)
    fits = (n for n in range(accumulate + 1, share + 1) if batch_size % (world_size * multiple * n) == 0)
    return next(fits, None)


@contextlib.contextmanager
def memory_advice(
    *,
    batch_size: int,
    accumulate: int,
    world_size: int,
    grad_checkpointing: bool | tuple[str, ...],
    pairs: bool = False,
) -> Iterator[None]:
    """Turn running out of memory within the block into advice; see ``explain_out_of_memory`` for the arguments.

    Raises:
        MemoryShortageError: In the place of what torch or Python raised.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        advice = explain_out_of_memory(
            error,
            batch_size=batch_size,
            accumulate=accumulate,
            world_size=world_size,
            grad_checkpointing=grad_checkpointing,
            pairs=pairs,
        )
        if advice is None:
            raise
        raise MemoryShortageError(advice) from error
