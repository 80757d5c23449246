"""The sandbox: what a call can do to its process, and what it cannot do to others."""

from __future__ import annotations

import os
import signal
import time

import odd_checks
import pytest

from timesformer_plus.data.sandbox import Sandbox


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process is gone, or is in that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "Z":  # dead, and not asked after
                return True
        time.sleep(0.05)
    return False


def test_no_call_is_blamed_for_the_one_before_it_and_dead_helpers_are_told():
    words = ["fine", "fine", "fails after others", "fine", "is not well", "always fails", "fine"]
    with Sandbox(odd_checks.forgetful, jobs=1, max_seconds=20, max_memory_mb=500) as sandbox:
        outcomes = {outcome.key: outcome for outcome in sandbox.run((i, [how]) for i, how in enumerate(words))}
        assert sorted(outcomes) == list(range(7))
        # calls that go well share a process
        assert outcomes[0].notes["pid"] == outcomes[1].notes["pid"]
        assert outcomes[1].notes["before"] == ["fine"]
        # what fails, or is not well, was alone in its process
        for key in (2, 4, 5):
            assert outcomes[key].notes["before"] == []
        assert len({outcomes[key].notes["pid"] for key in (0, 2, 4, 5)}) == 4
        assert [outcomes[key].status for key in range(7)] == ["done"] * 5 + ["crash", "done"]
        assert outcomes[5].detail == "its process died (SIGABRT)"
        # a second round on the same helper, larger than what is under way at a time
        again = list(sandbox.run((i, ["fine"]) for i in range(250)))
        assert sorted(outcome.key for outcome in again) == list(range(250))
        assert max(len(outcome.notes["before"]) for outcome in again) == 99  # then there is a new worker
        os.kill(sandbox._helper.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"has died \(exit code -9; without a word\)"):
            list(sandbox.run([(0, ["fine"])]))
    assert gone(again[-1].notes["pid"])


@pytest.mark.parametrize("wrong", [{"jobs": 0}, {"max_seconds": 0}, {"max_memory_mb": -1}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="each must be positive"):
        Sandbox(odd_checks.forgetful, **({"jobs": 1, "max_seconds": 1, "max_memory_mb": 1} | wrong))
