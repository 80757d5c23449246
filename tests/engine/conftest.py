"""Real videos and the smallest real model, made once."""

import csv

import pytest
from tiny_checkpoints import tiny_checkpoint
from tiny_runs import tiny_run

from timesformer_plus.data.motion import write_motion
from timesformer_plus.engine.train import train


@pytest.fixture(scope="session")
def direction(tmp_path_factory):
    """16 training, 8 validation and 8 test clips of the direction task, 8 frames of 32 x 32 pixels."""
    return write_motion(
        "direction", tmp_path_factory.mktemp("direction") / "data", train=16, val=8, test=8, progress=False
    )


@pytest.fixture(scope="session")
def lattice(tmp_path_factory):
    """The same numbers of the multi-label lattice task, doubled: its 16 combinations are balanced."""
    return write_motion(
        "lattice", tmp_path_factory.mktemp("lattice") / "data", train=16, val=16, test=16, progress=False
    )


@pytest.fixture(scope="session")
def five_videos(direction):
    """A manifest of five videos without pairs beside the others: an odd number for two processes to share."""
    with (direction / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:5]
    path = direction / "five.csv"
    path.write_text("path,label\n" + "".join(f"{row['path']},{row['label']}\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def eleven(direction):
    """The direction task with eleven training videos in eleven.csv: of two batches of eight the second has three."""
    lines = (direction / "train.csv").read_text().splitlines()[:12]
    (direction / "eleven.csv").write_text("".join(",".join(line.split(",")[:2]) + "\n" for line in lines))
    return direction


@pytest.fixture(scope="session")
def finished_run(direction, tmp_path_factory):
    """A finished run on the direction task: its folder and its result."""
    folder = tmp_path_factory.mktemp("runs") / "direction"
    return folder, train(tiny_run(folder, direction))


@pytest.fixture(scope="session")
def checkpoint(direction, tmp_path_factory):
    """A model with random weights for the videos of the direction task, which are to be scored by two views."""
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "best", direction)
