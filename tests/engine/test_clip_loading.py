"""Workers that are killed, hang, or are told to end by others than their parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from timesformer_plus.data.dataset import Clip
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.engine import clip_loading
from timesformer_plus.engine.clip_loading import read_batches, read_clips
from timesformer_plus.engine.reading_workers import WorkerError


class Videos(torch.utils.data.Dataset):
    """``acts``: what reading a video does besides."""

    def __init__(self, acts=None):
        samples = tuple(Sample(f"val/{i}.mp4", Path(f"/videos/val/{i}.mp4"), i % 2) for i in range(8))
        self.manifest = Manifest(samples, ("a", "b"), multi_label=False)
        self.acts = acts or {}

    def __getitem__(self, key):
        _, index, view = key
        self.acts.get(index, lambda: None)()
        return Clip(torch.full((3, 2, 4, 4), index, dtype=torch.uint8), index % 2, index, view, index, "", "", False)


BATCHES = [[(0, 0, 0), (0, 1, 0)], [(0, 2, 0), (0, 3, 0)], [(0, 4, 0), (0, 5, 0)], [(0, 6, 0), (0, 7, 0)]]


def kill_myself(number):
    def act():
        time.sleep(0.3)  # what was read before is on its way
        os.kill(os.getpid(), number)

    return act


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("timeout", [0, 60])
def test_a_killed_worker_is_named_with_the_clip_it_read(num_workers, timeout):
    dataset = Videos({3: kill_myself(signal.SIGKILL)})
    clips = read_clips(dataset, BATCHES, num_workers=num_workers, timeout=timeout)
    assert next(clips).index.tolist() == [0, 1]
    before = time.monotonic()
    with pytest.raises(WorkerError, match=r"\(pid \d+\) was killed \(SIGKILL\) while it read val/3.mp4; .*num_workers"):
        list(clips)
    assert time.monotonic() - before < 10


def test_a_worker_killed_with_clips_that_were_not_fetched_yet():
    """Torch then reports a connection that was reset, as if a disk or a network were at fault."""
    for _ in range(3):
        dataset = Videos({4: kill_myself(signal.SIGKILL)})
        clips = read_clips(dataset, BATCHES, num_workers=1)
        next(clips)
        time.sleep(1.5)  # the second batch lies there, and its worker is gone
        with pytest.raises(WorkerError, match=r"was killed \(SIGKILL\) "):
            list(clips)


def test_what_is_probably_wrong_depends_on_the_signal():
    dataset = Videos({0: kill_myself(signal.SIGSEGV)})
    with pytest.raises(WorkerError, match=r"\(SIGSEGV\) while it read val/0.mp4; its decoder has crashed"):
        list(read_clips(dataset, BATCHES, num_workers=1))
    dataset = Videos({0: lambda: os._exit(7)})
    with pytest.raises(WorkerError, match=r"has ended with exit code 7 while it read val/0.mp4"):
        list(read_clips(dataset, BATCHES, num_workers=1))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_hung_worker_is_named_with_the_clip_it_reads(num_workers):
    dataset = Videos({3: lambda: time.sleep(1000)})
    clips = read_batches(dataset, BATCHES, num_workers=num_workers, timeout=2)
    assert next(clips).clips.index.tolist() == [0, 1]
    before = time.monotonic()
    with pytest.raises(WorkerError, match=r"nothing for 2 s and are still reading val/3.mp4; .*data.exclude"):
        list(clips)
    assert 2 < time.monotonic() - before < 12


def test_a_slow_worker_is_waited_for():
    dataset = Videos({3: lambda: time.sleep(3)})
    read = [batch.clips.index.tolist() for batch in read_batches(dataset, BATCHES, num_workers=1)]
    assert read == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_dead_worker_raises_nowhere_but_where_clips_are_taken():
    """As torch's handler of SIGCHLD does: in the middle of a checkpoint that is written, say."""
    clips = read_clips(Videos({2: kill_myself(signal.SIGKILL)}), BATCHES, num_workers=1)
    next(clips)
    time.sleep(1.5)  # an exception would come here
    with pytest.raises(WorkerError):
        next(clips)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_workers_outlive_a_signal_to_the_whole_group(number):
    """Of a launcher or a terminal: the update that is under way still needs its clips."""
    parent = os.getpid()
    before = signal.signal(number, signal.SIG_IGN)
    try:
        dataset = Videos({3: lambda: os.kill(os.getpid(), number)})
        read = [clip.index.tolist() for clip in read_clips(dataset, BATCHES, num_workers=2)]
    finally:
        signal.signal(number, before)
    assert read == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert os.getpid() == parent


def run(code, **options):
    script = "import os, sys, time, signal\nfrom test_clip_loading import *\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, **options
    )


def ends(pid, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_a_hung_worker_does_not_outlive_its_parent():
    process = run("""
        dataset = Videos({0: lambda: (print(os.getpid(), flush=True), time.sleep(1000))})
        next(read_clips(dataset, BATCHES, num_workers=1))
    """)
    worker = int(process.stdout.readline())
    process.kill()
    process.communicate()
    assert ends(worker, 10)


def test_a_hung_worker_does_not_keep_its_parent_from_ending():
    process = run("""
        def stuck():
            time.sleep(0.3)  # what was read before is on its way
            print(os.getpid(), flush=True)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            import ctypes
            ctypes.PyDLL(None).sleep(1000)  # no other thread of the worker runs

        clips = read_clips(Videos({2: stuck}), BATCHES, num_workers=1)
        next(clips)
        time.sleep(1)
        sys.exit(5)
    """)
    worker = int(process.stdout.readline())
    assert process.wait(timeout=60) == 5
    process.stdout.close()
    assert ends(worker, 5)


def test_a_worker_has_one_thread_and_leaves_the_parents_alone():
    """So workers x threads is the number of workers, whatever the training process computes with."""
    process = run("""
        torch.set_num_threads(3)
        dataset = Videos({0: lambda: print("worker", torch.get_num_threads(), flush=True)})
        next(read_clips(dataset, BATCHES, num_workers=1))
        print("parent", torch.get_num_threads(), flush=True)
    """)
    output, _ = process.communicate(timeout=60)
    assert output.split() == ["worker", "1", "parent", "3"]


def test_a_batch_from_a_worker_is_the_batch_read_here():
    """Only the pixels come as a tensor in shared memory; the rest is made into tensors on arrival."""
    for far, near in zip(read_clips(Videos(), BATCHES, num_workers=1), read_clips(Videos(), BATCHES), strict=True):
        for name, value in near._asdict().items():
            arrived = getattr(far, name)
            assert type(arrived) is type(value), name
            if isinstance(value, torch.Tensor):
                assert (arrived.dtype, arrived.shape) == (value.dtype, value.shape), name
                assert torch.equal(arrived, value), name
                arrived[0] = arrived[0]  # writable, as it is when read here
            else:
                assert arrived == value, name
    sent = clip_loading._collate_for_parent([Videos()[0, 0, 0], Videos()[0, 1, 0]])
    assert sum(isinstance(value, torch.Tensor) for value in sent.clips) == 1
