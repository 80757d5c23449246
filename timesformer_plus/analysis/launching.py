"""The words that start a training: the trainer itself, or as many processes of it as ``accelerate launch`` is told."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .sweep import Sweep

# what says by itself how the processes work together
SAYS_HOW = ("--config_file", "--multi_gpu", "--use_fsdp")


def training_command(sweep: Sweep, trainer: Sequence[str], config: Path) -> list[str]:
    """Words that start a training.

    Args:
        sweep: For its ``processes`` and ``launch``.
        trainer: Words of the command that trains in one process.
        config: The run's options, given as ``--config``.

    Returns:
        ``trainer`` and the options. With ``processes``, ``accelerate launch`` starts it so many times and the trainer
        is told how many they should be, so that it refuses to train with another number.

    Raises:
        ValueError: ``accelerate launch`` is to start something that is no Python program of this interpreter.
    """
    if sweep.processes is None:
        return [*trainer, "--config", str(config)]
    if not trainer or trainer[0] != sys.executable:
        raise ValueError(
            f"processes={sweep.processes}: accelerate launch starts programs of {sys.executable}, and the trainer is "
            f"{' '.join(trainer)!r}; leave processes out"
        )
    words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(sweep.processes)]
    # --cpu would start one process, whatever the number; this says "several", and ACCELERATE_USE_CPU says on what
    if sweep.processes > 1 and not any(word.split("=")[0] in SAYS_HOW for word in sweep.launch):
        words.append("--multi_gpu")
    if not any(word.split("=")[0] == "--main_process_port" for word in sweep.launch):
        words += ["--main_process_port", "0"]  # any that is free: several trainings run side by side
    return [*words, *sweep.launch, *trainer[1:], "--config", str(config), "--world_size", str(sweep.processes)]


def training_environment(sweep: Sweep) -> dict[str, str]:
    """Variables of the environment that a training needs beside those of the sweep."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(sweep.threads))
    if sweep.processes is not None and not torch.accelerator.is_available():
        return {**threads, "ACCELERATE_USE_CPU": "1"}
    return threads
