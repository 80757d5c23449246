"""Peak memory of training steps on the CPU, each in a process of its own that has run nothing before.

One process imports what is needed and forks a child for each step (see ``resident_memory``, whose way this is); a job
comes as a line of JSON on standard input, its answer goes as one to standard output.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from ..counted_cost import MEGABYTE
from ..resident_memory import peak_of_this_process, warm_up
from .contestants import Shape, TrainingStep, Who, build


@dataclass(frozen=True)
class Job:
    """A training step to be watched.

    Attributes:
        who: Whose model.
        shape: The model and its clips.
        batch: Clips of the step.
        threads: Threads to compute with.
    """

    who: Who
    shape: Shape
    batch: int
    threads: int


@dataclass(frozen=True)
class StepPeaks:
    """Peak memory of a step in 10^6 bytes, the model and its gradients included.

    Attributes:
        backward_mb: Of forward and backward.
        training_mb: With AdamW and its state.
    """

    backward_mb: float
    training_mb: float


def watch(jobs: Iterable[Job]) -> Iterator[StepPeaks | str]:
    """Run training steps one after the other, each in a fresh process.

    Args:
        jobs: The steps; the next one is asked for when the one before is done.

    Yields:
        For each job, as soon as it is done, its peaks or why there are none.

    Raises:
        ValueError: The process that starts the others has ended.
    """
    words = [sys.executable, "-m", __spec__.name]
    # in a group of its own, which ends as a whole should this be interrupted
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for job in jobs:
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise ValueError(f"the process that measures memory ended with {process.wait()} before it was done")
            answer = json.loads(line)
            yield answer if isinstance(answer, str) else StepPeaks(**answer)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _grow(job: Job) -> StepPeaks:
    torch.set_num_threads(job.threads)
    warm_up()
    before = peak_of_this_process()
    # another's model is made from ours: for a moment there are two sets of weights, later one of weights and gradients
    model = build(job.who, job.shape)
    step = TrainingStep(model, job.shape.clips(job.batch))
    step.forward_backward()
    backward = peak_of_this_process() - before
    step.optimizer.step()  # from here on it has its state
    step.optimizer.zero_grad(set_to_none=True)
    step.run()
    return StepPeaks(backward / MEGABYTE, (peak_of_this_process() - before) / MEGABYTE)


def _child(answer: Connection, job: Job) -> None:
    try:
        answer.send(asdict(_grow(job)))
    except Exception as error:
        answer.send(" ".join(f"{type(error).__name__}: {error}".split()))


def _answer(job: Job) -> Any:
    fork = multiprocessing.get_context("fork")  # nothing has been computed here, so that no thread is lost
    ours, theirs = fork.Pipe(duplex=False)
    child = fork.Process(target=_child, args=(theirs, job))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        child.join()
        return f"its process ended with {child.exitcode} (-9: most likely there was not enough memory)"
    finally:
        child.join()


def _main() -> None:
    with contextlib.suppress(ImportError):  # where it is missing nobody asks for it
        import transformers.models.timesformer.modeling_timesformer  # noqa: F401
    for line in sys.stdin:
        job = json.loads(line)
        shape = Shape(**job.pop("shape"))
        print(json.dumps(_answer(Job(shape=shape, **job))), flush=True)


if __name__ == "__main__":
    _main()
