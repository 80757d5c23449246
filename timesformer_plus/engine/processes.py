"""Which processes work together, and with how many threads each."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

Answer = TypeVar("Answer")


def runs_on_cpu() -> bool:
    """Whether this machine has no accelerator that this package computes on.

    accelerate has to be told: under ``torchrun`` on a machine without one it otherwise leaves every process to itself,
    and N processes train N models without a word.
    """
    if not torch.accelerator.is_available():
        return True
    # Apple's GPU (MPS) has no float64, in which probabilities and losses are added up here, and no process group that
    # could join several processes on it
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and accelerator.type == "mps"


def join_processes(world_size: int | None = None, *, timeout: float | None = None) -> PartialState:
    """Join the other processes that torchrun started, if any.

    Args:
        world_size: How many there should be; ``None`` for any number.
        timeout: Seconds without progress after which a run is to end. An exchange between processes fails after twice
            that and half a minute: a watch, which knows the reason, comes first. ``None`` for torch's default. Only the
            first call in a process can set it.

    Raises:
        ValueError: There are not that many.
    """
    options = {} if timeout is None else {"timeout": timedelta(seconds=2 * timeout + 30)}
    state = PartialState(cpu=runs_on_cpu(), **options)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    for wanted, source in ((started, "the launcher's WORLD_SIZE"), (world_size, "world_size")):
        if wanted not in (None, state.num_processes):
            number = state.num_processes
            running = "1 process runs" if number == 1 else f"{number} processes run together"
            raise ValueError(
                f"{source} is {wanted}, but {running}; start with `torchrun --nproc_per_node {wanted} SCRIPT ...` "
                "(on CPU `accelerate launch --cpu --num_processes N` starts one process whatever N is)"
            )
    return state


def set_threads(threads: int) -> None:
    """Set the number of computing threads of this process.

    Args:
        threads: The number; 0 for $OMP_NUM_THREADS where it is set, else the cores that this process may use shared out
            among the processes of this machine.
    """
    if threads:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def agreed(look: Callable[[], Answer]) -> Answer:
    """What the main process finds, in all processes: on a slow network disk they could find different things.

    Args:
        look: Called in the main process alone.

    Raises:
        ValueError: What ``look`` has raised in the main process.
        OSError: The same.
        RuntimeError: The same, of another kind.
    """
    found: list[Any] = [None]
    if join_processes().is_main_process:
        try:
            found = [look()]
        except (ValueError, OSError) as error:
            found = [error]
        except Exception as error:  # whatever it is, the others must not wait for an answer
            found = [RuntimeError(f"{type(error).__name__}: {error}")]
    (answer,) = broadcast_object_list(found)
    if isinstance(answer, Exception):
        raise answer
    return answer  # type: ignore[no-any-return]
