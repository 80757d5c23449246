"""Batches of views, and that neither processes nor the order of a manifest show in a bit of what is said of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import evaluate_in_processes
import numpy as np
import pytest
import torch

from timesformer_plus.engine.predictions import load_predictions
from timesformer_plus.engine.views import ViewBatches

SCRIPT = Path(evaluate_in_processes.__file__)


@pytest.mark.parametrize("size", [1, 3, 9, 10, 17, 33])
@pytest.mark.parametrize(("views", "crops", "batch"), [(1, 1, 1), (1, 1, 4), (6, 3, 8), (6, 3, 2), (3, 3, 100)])
def test_batches_are_the_same_for_any_number_of_processes(size, views, crops, batch):
    order = torch.randperm(size).tolist()
    (whole,) = [list(ViewBatches(order, views, crops, batch_size=batch))]
    assert [key for keys in whole for key in keys] == [(0, i, view) for i in order for view in range(views)]
    for processes in (2, 3, 5):
        shares = [
            ViewBatches(order, views, crops, batch_size=batch, rank=rank, world_size=processes)
            for rank in range(processes)
        ]
        assert [len(share) for share in shares] == [len(list(share)) for share in shares]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        dealt = [list(share) for share in shares]
        assert [dealt[i % processes][i // processes] for i in range(len(whole))] == whole


def test_crops_of_a_clip_stay_together_where_they_can():
    assert {len(keys) for keys in ViewBatches(range(4), 6, 3, batch_size=8)} == {6}
    assert {len(keys) for keys in ViewBatches(range(4), 6, 3, batch_size=2)} == {2}
    assert {len(keys) for keys in ViewBatches(range(4), 6, 3, batch_size=16)} == {15, 9}


def test_batches_need_a_size():
    with pytest.raises(ValueError, match="batch_size=0: give at least 1 clip"):
        ViewBatches(range(3), 1, batch_size=0)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Folders with what one, two and three processes have written, each of manifests in another order."""
    videos = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(0)
    for i in range(33):
        if i % 5 != 4:  # these are not there
            shape = (5 + (i + 4) % 7, 20, 16 + i % 3 * 8, 3)  # of 7 frames that a clip reaches over
            np.save(videos / f"{i}.npy", random.integers(0, 256, shape, dtype=np.uint8))
    folders = {processes: tmp_path_factory.mktemp(f"processes{processes}") for processes in (1, 2, 3)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(videos), *map(str, folders.values())],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folders


def test_predictions_are_the_same_byte_for_byte(scored):
    names = sorted(file.name for file in scored[1].iterdir())
    sizes = evaluate_in_processes.SIZES
    assert names == sorted(["10-2.npz", "results.json", *(f"{size}-0.npz" for size in sizes)])
    for processes in (2, 3):
        assert sorted(file.name for file in scored[processes].iterdir()) == names
        for name in names:
            assert (scored[processes] / name).read_bytes() == (scored[1] / name).read_bytes(), (processes, name)
    # nor do workers show
    assert (scored[1] / "10-0.npz").read_bytes() == (scored[1] / "10-2.npz").read_bytes()


@pytest.mark.parametrize("size", evaluate_in_processes.SIZES)
def test_every_video_is_there_once_with_all_its_views(scored, size):
    said = load_predictions(scored[3] / f"{size}-0.npz")
    names = sorted(f"{i}.npy" for i in range(size))
    assert list(said.ids) == names
    there = [int(name.split(".")[0]) % 5 != 4 for name in names]
    assert said.read.tolist() == [[one] * 6 for one in there]
    assert list(said.unreadable) == [name for name, one in zip(names, there, strict=True) if not one]
    assert said.logits.isfinite().all(dim=2).equal(said.read)
    # views differ: not one of them stands in for another
    values = said.logits[said.read][:, 0].tolist()
    assert len(set(values)) > len(values) / 2
    lengths = [5 + (int(name.split(".")[0]) + 4) % 7 for name in names]
    assert said.short.tolist() == [one and length < 7 for length, one in zip(lengths, there, strict=True)]
    result = json.loads((scored[3] / "results.json").read_text())[f"{size}-0"]
    assert result["metrics"]["top1"] <= sum(there) / size
    assert ("pair" in result["metrics"]) == (size > 8)
