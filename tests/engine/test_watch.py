"""Whose fault it was, said by all: processes that are killed, stopped, hung, slow, or fail."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from timesformer_plus.engine import watch as watch_module
from timesformer_plus.engine.interrupt import Interrupt
from timesformer_plus.engine.watch import Watch


@pytest.fixture(scope="module")
def played():
    """What became of the processes of every scenario."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("ranks.py"))],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ends(ranks, codes):
    assert [rank["code"] for rank in ranks] == codes, ranks
    # the last line is what a trainer prints
    return [(rank["output"].strip().splitlines() or [""])[-1] for rank in ranks]


def test_those_that_work_are_left_alone(played):
    assert ends(played["well"], [0, 0, 0]) == ["finished"] * 3
    # slower than the time-out, but never without a mark for that long; the others wait that long in an exchange
    assert ends(played["slow"], [0, 0, 0]) == ["finished"] * 3
    assert min(rank["seconds"] for rank in played["slow"]) > 6


def test_a_killed_process_is_named_by_all_others(played):
    first, own, third = ends(played["killed"], [1, -9, 1])
    assert first == third
    assert own == ""
    assert re.fullmatch(
        r"PeerFailedError: process 1 \(pid \d+ on .+\) has ended without an error of its own, as one does that is "
        r"killed, .*; last seen reading clips after 40 updates \(40\.mp4\)", first
    )  # fmt: skip
    assert str(played["killed"][1]["pid"]) in first


def test_the_error_of_one_is_the_message_of_all(played):
    first, own, third = ends(played["error"], [1, 1, 1])
    assert first == third == "PeerFailedError: process 1 failed first: ValueError: the thing is bad"
    assert own == "is bad"  # its own error is left as it is
    first, _, third = ends(played["left"], [1, 3, 1])
    assert first == third == "PeerFailedError: process 1 failed first: SystemExit: 3"


def test_a_hung_process_ends_itself_and_says_where(played):
    first, own, third = ends(played["hung"], [1, 1, 1])
    text = "process 1 has made no progress for 3 s: reading clips after 40 updates (40.mp4)"
    assert own == f"error: {text}"
    assert first == third == f"PeerFailedError: {text}"
    assert "time.sleep(1000)" in played["hung"][1]["output"]  # the stack
    assert 3 < max(rank["seconds"] for rank in played["hung"]) < 30


def test_a_hung_process_of_one(played):
    (own,) = ends(played["hung alone"], [1])
    assert own == "error: process 0 has made no progress for 3 s: reading clips after 40 updates (40.mp4)"


@pytest.mark.parametrize(
    ("scenario", "why", "code"),
    [("stopped", "it is stopped, by SIGSTOP or a debugger", -9), ("locked", "it does not answer", 1)],
)
def test_a_process_that_cannot_speak_is_named_by_the_others(played, scenario, why, code):
    first, _, third = ends(played[scenario], [1, code, 1])
    expected = (
        r"(error|PeerFailedError): process 1 \(pid \d+ on .+\) has made no progress for \d+ s: "
        r"reading clips after 40 updates \(40\.mp4\); "
    )
    assert re.fullmatch(expected + why, first), first
    assert re.fullmatch(expected + why, third), third
    assert max(played[scenario][rank]["seconds"] for rank in (0, 2)) < 40
    if scenario == "locked":  # ended by C code, which needs no lock
        assert "hold_the_lock" in played["locked"][1]["output"]


def test_a_process_that_never_begins_is_named_by_the_others(played):
    first, _, third = ends(played["absent"], [1, -9, 1])
    expected = (
        r"(error|PeerFailedError): process 1 has not begun; process [02] waits for it: adding up after 0 updates.*"
    )
    assert re.fullmatch(expected, first), first
    assert re.fullmatch(expected, third), third


def test_of_processes_at_the_same_place_all_are_named(played):
    """As when the network between them is cut."""
    told = "\n".join(ends(played["all hung"], [1, 1, 1]))
    doing = "adding up after 40 updates, which waits for the others"
    pattern = rf"process (\d) has made no progress for \d+ s: {doing} \(nor have processes (\d), (\d),"
    named = re.findall(pattern, told)
    assert named, told
    assert {frozenset(ranks) for ranks in named} == {frozenset("012")}


def test_a_launcher_that_is_gone_asks_to_stop(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    interrupt = Interrupt()
    with Watch(2.0, interrupt=interrupt):
        time.sleep(0.5)
        assert not interrupt.requested
        monkeypatch.setattr(os, "getppid", lambda: 1)
        until = time.monotonic() + 10
        while not interrupt.requested and time.monotonic() < until:
            time.sleep(0.05)
    assert (interrupt.requested, interrupt.signal) == (True, signal.SIGTERM)


def test_a_shell_that_is_gone_asks_nothing(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    interrupt = Interrupt()
    with Watch(2.0, interrupt=interrupt):
        monkeypatch.setattr(os, "getppid", lambda: 1)
        time.sleep(0.7)
    assert not interrupt.requested


def test_the_end_is_told_before_it_comes_and_leaves_no_worker(monkeypatch):
    """The trainer writes it down; whatever that raises, the process ends, also one that reads ahead and is stopped."""
    told, exits = [], []

    def tell(text):
        told.append(text)
        raise OSError("disk full")

    def exit_(code):
        exits.append(code)
        watch._over.wait(20)

    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
    worker.start()
    os.kill(worker.pid, signal.SIGSTOP)
    monkeypatch.setattr(os, "_exit", exit_)
    with Watch(1.0, on_end=tell) as watch:
        watch.at("reading clips", step=4, clips=[f"{i}.mp4" for i in range(10)])
        until = time.monotonic() + 20
        while not exits and time.monotonic() < until:
            time.sleep(0.05)
    names = ", ".join(f"{i}.mp4" for i in range(8))
    assert told == [f"process 0 has made no progress for 1 s: reading clips after 4 updates ({names}, and 2 more)"]
    assert exits == [1]
    worker.join(10)
    assert worker.exitcode == -signal.SIGKILL


def test_marks_are_cheap_and_ordered(monkeypatch):
    monkeypatch.setattr(watch_module, "PERIOD", 60)
    with Watch(1000.0) as watch:
        places = []
        for what, step in [("a", 0), ("b", None), ("b", None), ("a", None), ("a", 1), ("b", None)]:
            watch.at(what, step=step)
            places.append(watch._report().place)
        start = time.perf_counter()
        for _ in range(1000):
            watch.at("reading clips", step=3, clips=("a.mp4",))
        assert time.perf_counter() - start < 0.5
    assert places == [(0, 0), (0, 1), (0, 1), (0, 2), (1, 0), (1, 1)]
