"""How many processes read videos, and whether a run says that there are more threads than cores."""

import os

import pytest
import torch

from timesformer_plus.engine import processes
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.processes import choose_workers, describe_reading


@pytest.fixture
def machine(monkeypatch):
    """Make this a machine with so many cores, with a GPU or without, on which so many processes run."""

    def make(*, cores, gpu, local=1, threads=1):
        monkeypatch.setattr(processes, "runs_on_cpu", lambda: not gpu)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    return make


@pytest.mark.parametrize(
    ("cores", "local", "workers"), [(1, 1, 1), (2, 1, 1), (16, 1, 15), (64, 1, 16), (64, 8, 7), (8, 8, 1), (12, 5, 1)]
)
def test_workers_share_the_cores_beside_a_gpu(cores, local, workers, machine):
    machine(cores=cores, gpu=True, local=local)
    assert choose_workers(None) == workers
    # the process that feeds the GPU counts too; fewer than one worker and itself there cannot be
    if cores // local > 1:
        assert local * (workers + 1) <= cores
        assert "slower" not in describe_reading(workers)


def test_the_cpu_computes_with_all_its_cores(machine):
    machine(cores=16, gpu=False)
    assert choose_workers(None) == 0
    assert describe_reading(0) == "reading: by the training process itself"


def test_what_is_asked_for_is_what_there_is(machine):
    machine(cores=2, gpu=False, threads=2)
    assert choose_workers(3) == 3
    assert describe_reading(3) == (
        "reading: 3 workers of one thread a process; with 2 computing threads each these are 5 threads on 2 cores, "
        "which is slower than fewer: lower threads or data.num_workers"
    )
    machine(cores=8, gpu=False, local=2, threads=3)
    assert describe_reading(1) == "reading: 1 worker of one thread a process"
    assert "these are 10 threads on 8 cores" in describe_reading(2)


def test_a_negative_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.num_workers=-1 is negative"):
        DataConfig(tmp_path, num_workers=-1)
    assert DataConfig(tmp_path).num_workers is None
