"""Peak memory of training steps on the CPU, each in a process of its own that has run nothing before.

One process imports what is needed and forks a child for each step (see ``resident_memory``, whose way this is); jobs
come as JSON on standard input, answers go line by line to standard output.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator, Sequence
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


def watch(jobs: Sequence[Job]) -> Iterator[StepPeaks | str]:
    """Run training steps one after the other, each in a fresh process.

    Args:
        jobs: The steps.

    Yields:
        For each job, as soon as it is done, its peaks or why there are none.
    """
    words = [sys.executable, "-m", __spec__.name]
    # what the process says of itself goes where this one's errors go
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            json.dump([asdict(job) for job in jobs], process.stdin)
            process.stdin.close()
            for _ in jobs:
                line = process.stdout.readline()
                if not line:
                    break
                answer = json.loads(line)
                yield answer if isinstance(answer, str) else StepPeaks(**answer)
            else:
                return
            code = process.wait()
        finally:
            process.kill()  # nothing happens to one that has ended
    raise ValueError(f"the process that measures memory ended with {code} before it was done")


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
    for job in json.load(sys.stdin):
        shape = Shape(**job.pop("shape"))
        print(json.dumps(_answer(Job(shape=shape, **job))), flush=True)


if __name__ == "__main__":
    _main()
