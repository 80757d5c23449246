"""Processes that write folders and are killed while they do, started quickly: a server imports torch once and forks."""

import multiprocessing
import os
import resource
import signal
import sys

import torch

from timesformer_plus.engine.atomic_folder import new_folder, recover
from timesformer_plus.engine.training_state import save_state

PROCESSES = multiprocessing.get_context("forkserver")
# by the installed package's name: before Python 3.12.3 the server's path has no folder of tests
PROCESSES.set_forkserver_preload(["timesformer_plus.engine.checkpoint"])


def run(target, *args):
    """Call a function in a process of its own; returns its exit code, -9 for one that was killed."""
    process = PROCESSES.Process(target=target, args=args)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"{target.__name__}{args} still runs after 60 s")
    return process.exitcode


def die_at(number, folder):
    """Kill this process, as ``kill -9`` does, right before it touches files for the ``number`` th time."""
    touched = 0
    os.fsync = lambda _: None  # a kill takes from a process what is in its memory, not in the system's

    def count(event, args):
        nonlocal touched
        if event.startswith(("os.", "shutil.")) or (event == "open" and str(args[0]).startswith(str(folder))):
            touched += 1
            if touched == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def write_folder(target, text, number):
    """Write a folder of three files, one of them in a folder of its own, and die on the way."""
    die_at(number, target.parent)
    with new_folder(target) as staged:
        (staged / "inner").mkdir()
        for name in ("a", "b", "inner/c"):
            (staged / name).write_text(text)


def recover_folder(target, number):
    """Bring a folder in order, and die on the way."""
    die_at(number, target.parent)
    recover(target)


def save_for_ever(folder, reports, size, keep):
    """Save one state after the other, each full of its step's number, and report it when it is there."""
    step = 0
    while True:
        step += 1
        weights = torch.full((size,), step, dtype=torch.float32)
        tensors = {"model": {"weight": weights}, "optimizer": {"momentum": -weights}}
        save_state(folder, step, tensors, {"step": step}, keep=keep)
        reports.send(step)


def save_with_small_files_only(folder, step, size, limit):
    """Save a state where no file can have more than ``limit`` bytes; exits with 3 if that is an error that says so."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        save_state(folder, step, {"model": {"weight": torch.ones(size)}}, {"step": step}, keep=1)
    except OSError as error:
        said = str(error)
        at = f"{folder}/step-{step:08d} cannot be written ("
        sys.exit(3 if said.startswith(at) and "File too large" in said and "is untouched" in said else said)
