"""Peak memory of models on the CPU, where torch keeps no statistics: how much a fresh process grows.

One process imports what is needed and forks a child for each model. The child loads the model, runs it, and notes by
how much the peak of its resident set exceeds what it had before there was a model. Libraries are warm by then, and what
one model has left behind is not there for the next. The allocator's own habits are in the number: it is good to a few
megabytes, and says little of models smaller than that.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import timm
import torch
from torch import nn

from .counted_cost import MEGABYTE, clip_shape
from .passes import Inference, Training


@dataclass(frozen=True)
class Peaks:
    """Peak memory of one model.

    Attributes:
        inference_mb: 10^6 bytes, of the model and a forward pass.
        training_mb: Of the model, its gradients, the optimizer's state and a training step.
    """

    inference_mb: float
    training_mb: float


def measure_resident(
    folders: Mapping[str, Path], *, batch_size: int, threads: int
) -> tuple[dict[str, Peaks], dict[str, str]]:
    """Run saved models in processes of their own and read how much these grow.

    Args:
        folders: Name -> folder in timm's ``local-dir:`` form.
        batch_size: Clip views a pass.
        threads: Threads to compute with.

    Returns:
        Name -> peaks, and name -> why there are none.
    """
    if not folders:
        return {}, {}
    jobs = [[name, str(Path(folder).resolve()), batch_size, threads] for name, folder in folders.items()]
    try:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name], input=json.dumps(jobs), capture_output=True, text=True, check=False
        )
    except OSError as error:
        return {}, dict.fromkeys(folders, f"the process that measures memory did not start: {error}")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        return {}, dict.fromkeys(folders, f"the process that measures memory ended with {done.returncode}: {last}")
    answers: dict[str, dict[str, float] | str] = json.loads(done.stdout.splitlines()[-1])
    peaks = {name: Peaks(**answer) for name, answer in answers.items() if isinstance(answer, dict)}
    return peaks, {name: answer for name, answer in answers.items() if isinstance(answer, str)}


def grow(folder: str, batch_size: int, threads: int) -> Peaks:
    """Load a model and run it in this process, which has to be a fresh one.

    Args:
        folder: Of the model.
        batch_size: Clip views a pass.
        threads: Threads to compute with.

    Returns:
        By how much the peak of the resident set has grown.
    """
    torch.set_num_threads(threads)
    warm_up()
    before = peak_of_this_process()
    model = timm.create_model(f"local-dir:{folder}")
    clips = torch.randn(batch_size, *clip_shape(model))
    Inference(model, clips).run()
    inference = peak_of_this_process() - before
    training = Training(model, clips)
    for _ in range(2):  # the optimizer's state is there from the second step on
        training.run()
    return Peaks(inference / MEGABYTE, (peak_of_this_process() - before) / MEGABYTE)


def warm_up() -> None:
    """Touch the code that models run, whose pages count as resident once they have been."""
    model = nn.Sequential(
        nn.Conv1d(4, 16, 2, stride=2), nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    )
    clips = torch.randn(2, 4, 32)
    Inference(model, clips).run()
    Training(model, clips).run()


def peak_of_this_process() -> int:
    """Greatest resident set that this process has had, in bytes."""
    import resource  # there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _child(answer: Connection, folder: str, batch_size: int, threads: int) -> None:
    try:
        answer.send(asdict(grow(folder, batch_size, threads)))
    except Exception as error:
        answer.send(" ".join(f"{type(error).__name__}: {error}".split()))


def _answers(jobs: Sequence[tuple[str, str, int, int]]) -> dict[str, dict[str, float] | str]:
    fork = multiprocessing.get_context("fork")  # nothing has been computed here, so that no thread is lost
    answers: dict[str, dict[str, float] | str] = {}
    for name, *job in jobs:
        ours, theirs = fork.Pipe(duplex=False)
        child = fork.Process(target=_child, args=(theirs, *job))
        child.start()
        theirs.close()
        try:
            answers[name] = ours.recv()
        except EOFError:
            child.join()
            answers[name] = f"its process ended with {child.exitcode} (-9: most likely there was not enough memory)"
        child.join()
    return answers


if __name__ == "__main__":
    print(json.dumps(_answers(json.load(sys.stdin))))
