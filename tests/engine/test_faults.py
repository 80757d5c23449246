"""Training by torchrun that is signalled, loses a process, hangs, or runs out of memory or disk."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from tiny_runs import finish, start, tiny_run

from timesformer_plus.engine.atomic_folder import damage
from timesformer_plus.engine.config import EvaluationConfig

FAULTY = Path(__file__).with_name("faulty.py")
# a machine that is busy with other things
SECONDS = 240


def endless(output, root, **changes):
    """A run that does not end by itself."""
    return tiny_run(output, root, epochs=10_000, evaluation=EvaluationConfig(every=0, num_clips=1), **changes)


def start_faulty(config, monkeypatch, act="none", *, update=3, rank=1, processes=2):
    monkeypatch.setenv("FAULT", json.dumps({"act": act, "update": update, "rank": rank}))
    return start(config, processes=processes, script=FAULTY)


def pids(process, number):
    """Wait until all ranks have begun the update of the fault; their process numbers by rank."""
    found, seen = {}, []
    while len(found) < number:
        line = process.stdout.readline()
        seen.append(line)
        assert line, f"ended too soon: {''.join(seen)}"
        for rank, pid in re.findall(r"process (\d) is (\d+)", line):
            found[int(rank)] = int(pid)
    return [found[rank] for rank in sorted(found)]


def status(config):
    return json.loads((config.output / "status.json").read_text())


def checkpoints(config):
    return sorted((config.output / "checkpoints").iterdir())


def steps(config):
    lines = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["event"] == "step"]


def updates_done(output):
    return dict(re.findall(r"process (\d) has done (\d+) updates", output))


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def await_end(numbers, seconds=30):
    until = time.monotonic() + seconds
    while not all(map(gone, numbers)):
        assert time.monotonic() < until, f"left behind: {[pid for pid in numbers if not gone(pid)]}"
        time.sleep(0.1)


# to whom the signal goes: the launcher, one process
SIGNALLED = [
    pytest.param(signal.SIGTERM, "launcher"),
    pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, "launcher", marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
    # torchrun does not pass SIGUSR1 on unless told so; it ends, and its processes notice
    pytest.param(signal.SIGUSR1, "launcher", marks=pytest.mark.slow),
    pytest.param(signal.SIGUSR1, "launcher that passes it on", marks=pytest.mark.slow),
    pytest.param(signal.SIGUSR1, 1, marks=pytest.mark.slow),
    pytest.param(signal.SIGKILL, "launcher", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("number", "target"), SIGNALLED)
def test_a_signal_leaves_one_checkpoint_of_the_last_update(number, target, direction, tmp_path, monkeypatch):
    config = endless(tmp_path / "run", direction, world_size=2, data={"num_workers": 1})
    if target == "launcher that passes it on":
        monkeypatch.setenv("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")  # --signals-to-handle
    process = start_faulty(config, monkeypatch)
    ranks = pids(process, 2)
    os.kill(ranks[target] if isinstance(target, int) else process.pid, number)
    _, output = finish(process, timeout=SECONDS)
    await_end(ranks)
    done = updates_done(output)
    assert done.keys() == {"0", "1"}, output
    assert done["0"] == done["1"]
    last = int(done["0"])
    assert steps(config) == list(range(1, last + 1))
    newest = checkpoints(config)[-1]
    assert newest.name == f"step-{last:08d}"
    assert damage(newest) is None
    assert len(checkpoints(config)) <= config.checkpoint.keep
    assert (status(config)["status"], status(config)["step"]) == ("preempted", last), status(config)
    assert "error:" not in output
    assert output.count(f"stopped after update {last}") == 1, output


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_is_named_and_is_no_preemption(rank, direction, tmp_path, monkeypatch):
    """Although torchrun sends SIGTERM to the other one."""
    config = endless(tmp_path / "run", direction, world_size=2)
    process = start_faulty(config, monkeypatch, "killed", rank=rank, update=4)
    code, output = finish(process, timeout=SECONDS)
    assert code != 0
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert re.match(rf"error: process {rank} \(pid \d+ on .+\) has ended without an error of its own", errors[0])
    assert "stopped after update" not in output
    assert status(config)["status"] == ("failed" if rank else "running")
    if rank:
        assert f"error: {status(config)['reason']}" == errors[0]
    # that of the epoch before, and nothing of the update that was lost
    assert [path.name for path in checkpoints(config)] == ["step-00000002"]


@pytest.mark.slow  # test_watch has both in seconds
@pytest.mark.parametrize("act", ["stopped", "hung"])
def test_a_hung_process_ends_the_run_within_the_timeout(act, direction, tmp_path, monkeypatch):
    config = endless(tmp_path / "run", direction, world_size=2, timeout=8.0)
    process = start_faulty(config, monkeypatch, act)
    ranks = pids(process, 2)
    before = time.monotonic()
    await_end([ranks[0]], seconds=60)
    assert time.monotonic() - before < 40  # 8 and 5 seconds on an idle machine
    if act == "stopped":
        os.kill(ranks[1], signal.SIGKILL)  # as torchrun does half a minute later
    code, output = finish(process, timeout=SECONDS)
    assert code != 0
    why = "it is stopped, by SIGSTOP or a debugger" if act == "stopped" else ""
    assert re.search(
        r"^error: process 1 (\(pid \d+ on .+\) )?has made no progress for \d+ s: reading clips after 2 updates "
        rf"\((train/\d+\.mp4(, )?)+\)(; {why})?$", output, re.MULTILINE,
    ), output  # fmt: skip
    assert status(config)["status"] == "failed"
    assert status(config)["reason"].startswith("process 1 ")


KILLED = (
    r"a process that reads ahead \(pid \d+\) was killed \(SIGKILL\) (while it read|between two clips; waited for are) "
    r"train/\d+.mp4.*; .*num_workers"
)
HUNG = (
    r"the processes that read ahead have delivered nothing for 8 s and are still reading train/\d+.mp4; .*data.exclude"
)
# what torch passes on of a worker's clips has to be fetched from it: that hangs in the process, not in the worker
STOPPED = r"process 1 has made no progress for \d+ s: reading clips after 2 updates \((train/\d+\.mp4(, )?)+\)"


@pytest.mark.parametrize(
    ("act", "own", "others"),
    [
        pytest.param("worker killed", KILLED, f"process 1 failed first: WorkerError: {KILLED}"),
        pytest.param("worker hung", HUNG, f"process 1 failed first: WorkerError: {HUNG}", marks=pytest.mark.slow),
        pytest.param("worker stopped", STOPPED, STOPPED, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if value.startswith("worker") else "",
)
def test_a_lost_worker_is_named_by_all(act, own, others, direction, tmp_path, monkeypatch):
    config = endless(tmp_path / "run", direction, world_size=2, timeout=10.0, data={"num_workers": 1})
    code, output = finish(start_faulty(config, monkeypatch, act), timeout=SECONDS)
    assert code != 0
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2, output
    for pattern in (own, others):
        assert any(re.match(f"error: {pattern}", line) for line in errors), errors
    assert status(config)["status"] == "failed"
    await_end([int(pid) for pid in re.findall(r"process \d is (\d+)", output)])


@pytest.mark.slow
def test_out_of_memory_says_what_to_change_and_changes_nothing(direction, tmp_path, monkeypatch):
    config = endless(tmp_path / "run", direction, world_size=2)
    code, output = finish(start_faulty(config, monkeypatch, "out of memory"), timeout=SECONDS)
    assert code != 0
    advice = "the GPU's memory does not hold a forward and backward pass of 4 clips in each of 2 processes"
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2, output
    own, others = sorted(errors, key=lambda line: "failed first" in line)
    assert own.startswith(f"error: {advice}")
    assert "accumulate=2 (passes of 2 clips; the global batch stays 8)" in own
    assert re.match(r"error: process 1 failed first: MemoryShortageError: ", others)


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_checkpoint_before(processes, direction, tmp_path, monkeypatch):
    config = endless(tmp_path / "run", direction)
    process = start_faulty(config, monkeypatch, "disk full", rank=0, update=4, processes=processes)
    code, output = finish(process, timeout=SECONDS)
    assert code != 0
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == max(processes, 1), output
    assert all("File too large" in line for line in errors), errors
    # the update before it, whole; and nothing half done beside it
    assert [path.name for path in checkpoints(config)] == ["step-00000002"]
    assert damage(checkpoints(config)[0]) is None
    assert status(config)["status"] == "failed"
