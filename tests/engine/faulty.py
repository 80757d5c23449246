"""Run by python or torchrun: training in which something happens to one process when it takes the clips of an update.

$FAULT is JSON: ``act``, and the ``update`` and ``rank`` that it is for. Every process prints its number to the system
when it begins that update, and when it ends how many updates it has done.
"""

import json
import multiprocessing
import os
import resource
import signal
import time

import torch
from torch.utils.data import get_worker_info

from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.engine import train
from timesformer_plus.engine.trainer import Trainer


def own_worker(number):
    """One of this process's reading workers gets a signal."""
    os.kill(multiprocessing.active_children()[0].pid, number)


def hang_next_worker():
    """The next clip that a worker of this process reads takes for ever."""
    HANGS.value = 1


def run_out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")


def fill_disk():
    """No file can grow beyond what the log needs; Python ignores the signal that comes with it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


ACTS = {
    "none": lambda: None,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hung": lambda: time.sleep(1000),
    "worker killed": lambda: own_worker(signal.SIGKILL),
    "worker stopped": lambda: own_worker(signal.SIGSTOP),
    "worker hung": hang_next_worker,
    "out of memory": run_out_of_memory,
    "disk full": fill_disk,
}
FAULT = json.loads(os.environ["FAULT"])
RANK = int(os.environ.get("RANK", "0"))
HANGS = multiprocessing.Value("b", 0)
trainers = []
before, read = Trainer._clips, VideoDataset.__getitem__


def say(text):
    # one write a line: the processes share a terminal
    os.write(1, f"{text}\n".encode())


def clips(self):
    if not trainers:
        trainers.append(self)
    if self.step == FAULT["update"] - 1:
        say(f"process {RANK} is {os.getpid()}")
        if FAULT["rank"] == RANK:
            ACTS[FAULT["act"]]()
    return before(self)


def read_or_hang(self, key):
    if get_worker_info() is not None and HANGS.value:
        time.sleep(1000)
    return read(self, key)


if __name__ == "__main__":
    Trainer._clips, VideoDataset.__getitem__ = clips, read_or_hang
    try:
        train.main()
    finally:
        say(f"process {RANK} has done {trainers[0].step} updates")
