"""Processes of a run, forked from one that has loaded torch, with a launcher's store that outlives them.

Run as a script, it plays all ``SCENARIOS`` at once and prints what became of them, as JSON.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from timesformer_plus.engine import watch
from timesformer_plus.engine.interrupt import interrupts
from timesformer_plus.engine.processes import join_processes
from timesformer_plus.engine.watch import PeerFailedError, Watch

TIMEOUT = 3.0
watch.CONNECTING = 20.0
UPDATES = 100
# what a scenario is about happens in this update, while rank 1 reads clips
FAULTY_UPDATE = 40


def fail():
    raise ValueError("the thing\nis bad")


def hold_the_lock():
    ctypes.PyDLL(None).sleep(1000)  # calls it without letting go of Python's lock


def read_slowly():
    """Twice as long as the time-out, but never without a mark for that long."""
    for _ in range(4):
        time.sleep(TIMEOUT / 2)
        yield


# name -> what rank 1 does
SCENARIOS = {
    "well": lambda: None,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "error": fail,
    "hung": lambda: time.sleep(1000),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "locked": hold_the_lock,
    "slow": read_slowly,
    "left": lambda: sys.exit(3),
    "hung alone": lambda: time.sleep(1000),
    "all hung": lambda: time.sleep(1000),
    "absent": lambda: time.sleep(1000),
}


def train(name, rank, world_size):
    """What a trainer does, as far as a watch is concerned."""
    act = SCENARIOS[name] if rank == world_size // 2 or name == "all hung" else lambda: None
    if name == "absent":
        act()
    with interrupts() as interrupt, Watch(TIMEOUT, interrupt=interrupt) as watched:
        for step in range(UPDATES):
            watched.at("reading clips", step=step, clips=lambda step=step: [f"{step}.mp4"])
            time.sleep(0.02)
            if step == FAULTY_UPDATE and name != "all hung":
                for _ in act() or ():
                    watched.at("reading clips", step=step)
            watched.at("computing", clips=lambda step=step: [f"{step}.mp4"])
            watched.at("adding up", waits=True)
            if step == FAULTY_UPDATE and name == "all hung":
                act()
            if world_size > 1:
                dist.all_reduce(torch.ones(1))


def main_of_rank(name, rank, world_size, output):
    for stream in (1, 2):  # also what C code and other threads print
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    code = 0
    try:
        join_processes(timeout=TIMEOUT)
        if world_size > 1:
            # processes connect to each other in their first exchange, which on a busy machine takes its time; a trainer
            # has had one long before it is watched
            dist.all_reduce(torch.ones(1))
        train(name, rank, world_size)
        os.write(2, b"finished\n")
    except (ValueError, PeerFailedError) as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        code = 1
    except SystemExit as stop:
        code = stop.code
    os._exit(code)


def play(name, world_size, folder):
    """Fork the processes of a scenario, which wait for a store; their numbers by rank, and where to write its port."""
    read, write = os.pipe()
    pids = []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            os.environ |= {
                **{name: str(rank) for name in ("RANK", "LOCAL_RANK")},
                **{name: str(world_size) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")},
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": os.read(read, 5).decode(),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            main_of_rank(name, rank, world_size, folder / f"{name}.{rank}")
        pids.append(pid)
    return pids, write


def open_store(world_size, write):
    """Open the store of a scenario, and tell its processes."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    os.write(write, f"{store.port:05d}".encode() * world_size)
    return store


def main():
    """Prints scenario -> for every rank its exit code, seconds until it ended and what it printed."""
    folder = Path(tempfile.mkdtemp())
    begin = time.monotonic()
    # all of them before the first store: it has threads, and a process that is forked from one with threads may find a
    # lock taken for ever
    started = {name: play(name, 1 if "alone" in name else 3, folder) for name in SCENARIOS}
    stores = [open_store(len(pids), write) for pids, write in started.values()]
    told = {}
    for name, (pids, _) in started.items():
        told[name] = []
        for pid in pids:
            told[name].append({"pid": pid, "code": None})
    open_ = [rank for ranks in told.values() for rank in ranks]
    while any(rank["code"] is None for rank in open_) and time.monotonic() - begin < 120:
        for rank in open_:
            if rank["code"] is None:
                done, status = os.waitpid(rank["pid"], os.WNOHANG)
                if done:
                    rank["code"], rank["seconds"] = os.waitstatus_to_exitcode(status), time.monotonic() - begin
        # as a launcher does, which kills what is left some time after one has failed
        for name, ranks in told.items():
            if name in ("stopped", "absent") and ranks[0]["code"] is not None and ranks[1]["code"] is None:
                os.kill(ranks[1]["pid"], signal.SIGKILL)
        time.sleep(0.05)
    for rank in open_:
        if rank["code"] is None:
            os.kill(rank["pid"], signal.SIGKILL)
    for name, ranks in told.items():
        for number, rank in enumerate(ranks):
            rank["output"] = (folder / f"{name}.{number}").read_text()
    del stores
    print(json.dumps(told))


if __name__ == "__main__":
    main()
