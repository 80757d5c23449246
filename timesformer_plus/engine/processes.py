"""Which processes work together, and with how many threads and reading workers each."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

Answer = TypeVar("Answer")

# workers that None stands for, at most: more of them seldom help, and each holds batches
MOST_WORKERS = 16


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
        torch.set_num_threads(_own_cores())


def choose_workers(num_workers: int | None) -> int:
    """How many processes read videos ahead for this one.

    Each decodes with one thread, so they are what makes use of many cores; and a frame decoded by several threads is
    patched up differently every time where it is damaged.

    Args:
        num_workers: As many as are asked for; ``None`` for the cores of this process but one, at most 16, beside a GPU,
            and 0 on the CPU, where computing takes all cores.
    """
    if num_workers is not None:
        return num_workers
    return 0 if runs_on_cpu() else max(1, min(MOST_WORKERS, _own_cores() - 1))


def describe_reading(num_workers: int) -> str:
    """Who reads the videos, and whether that is more than the cores of this machine bear; a line for people.

    Args:
        num_workers: Processes that read ahead for each one that trains.
    """
    if not num_workers:
        return "reading: by the training process itself"
    line = f"reading: {num_workers} worker{'' if num_workers == 1 else 's'} of one thread a process"
    # beside a GPU a process is busy feeding it
    computing = torch.get_num_threads() if runs_on_cpu() else 1
    busy, cores = _local_processes() * (computing + num_workers), _cores()
    if busy <= cores:
        return line
    return (
        f"{line}; with {computing} computing thread{'' if computing == 1 else 's'} each these are {busy} threads on "
        f"{cores} core{'' if cores == 1 else 's'}, which is slower than fewer: lower threads or data.num_workers"
    )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _own_cores() -> int:
    """Its share of them, among the processes of this machine."""
    return max(1, _cores() // _local_processes())


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
