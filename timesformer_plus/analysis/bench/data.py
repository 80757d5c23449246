"""Table ``data``: clips a second of our data set beside pytorchvideo's, a decord loop, and decoding alone.

All contestants read the same clips of the same files through a torch ``DataLoader``, measured where the clips arrive,
after a pass that is not timed. They end with the same work: uint8 frames resized to a shorter side of 256, cropped to
224. None normalises: ours is normalised on the device, and leaving it out spares pytorchvideo's workers the same.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .data_contestants import CONTESTANTS, Task, check_same_clips, make_loader
from .data_files import write_video
from .rows import Row, make_row
from .timing import LEAST_ROUNDS, ratios, take_turns

TABLE = "data"
LIMIT = "decoder's limit"
_THEIRS = ("pytorchvideo (decord)", "pytorchvideo (PyAV)")
_TARGETS = {**dict.fromkeys(_THEIRS, 2.0), LIMIT: 0.8}


@dataclass(frozen=True)
class Case:
    """Files and what is read of them.

    Attributes:
        name: Of the rows.
        height: Of a frame, in pixels.
        width: Of a frame, in pixels.
        group: Most frames from one key frame to the next.
        num_frames: Frames a clip.
        stride: From one to the next.
        files: How many.
        clips: Clips a pass.
    """

    name: str
    height: int
    width: int
    group: int = 250
    num_frames: int = 8
    stride: int = 8
    files: int = 3
    clips: int = 24


CASES = (
    Case("340x256", 256, 340),
    Case("1280x720", 720, 1280, files=2, clips=8),
    Case("340x256, groups of 12", 256, 340, group=12),
    Case("340x256, 32 frames, stride 2", 256, 340, num_frames=32, stride=2),
)
_QUICK = (Case("340x256", 256, 340, files=1, clips=4),)
_FRAMES, _QUICK_FRAMES = 300, 80
# seconds of a contest
_BUDGET = 120.0
_WORKERS: Mapping[str, tuple[int, ...]] = {"340x256": (1, 2), "1280x720": (1, 2)}


def measure(*, rounds: int = 5, quick: bool = False, progress: Callable[[str], None] = print) -> list[Row]:
    """Write videos into a temporary folder and have all contestants read clips of them, in turn.

    Args:
        rounds: Timed passes of each, in alternating order; slow ones make fewer, though never fewer than 3.
        quick: One small file, four clips and one worker: whether it runs, not how fast.
        progress: Is told what goes on.

    Returns:
        Rows of the table: clips a second of ours over those of another, so higher is better.

    Raises:
        ValueError: A contestant reads other frames than ours; fewer than one round.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in _QUICK if quick else CASES:
            progress(f"writing {case.files} videos, {case.name}")
            files = _write(Path(folder), case, _QUICK_FRAMES if quick else _FRAMES)
            task = _draw(case, files, _QUICK_FRAMES if quick else _FRAMES)
            check_same_clips(task)
            for workers in (1,) if quick else _WORKERS.get(case.name, (1,)):
                progress(f"{case.name}, {workers} worker(s): {len(CONTESTANTS)} contestants, {rounds} rounds")
                rows += _contest(case, task, workers, rounds)
            if not quick and case.name in _WORKERS:
                progress(f"{case.name}, files never opened before")
                rows += _first_reading(case, task, rounds, Path(folder))
    return rows


def _write(folder: Path, case: Case, frames: int) -> list[Path]:
    size = {"height": case.height, "width": case.width, "group": case.group}
    names = [folder / f"{case.height}-{case.group}-{i}.mp4" for i in range(case.files)]
    return [name if name.exists() else write_video(name, frames=frames, seed=i, **size) for i, name in enumerate(names)]


def _draw(case: Case, files: Sequence[Path], frames: int) -> Task:
    """Clips anywhere in the files, as training draws them, and the same whenever they are drawn."""
    rng = np.random.default_rng(0)
    last = frames - (case.num_frames - 1) * case.stride
    places = tuple((files[i % len(files)], int(rng.integers(last))) for i in range(case.clips))
    return Task(places, case.num_frames, case.stride)


def _contest(case: Case, task: Task, workers: int, rounds: int) -> list[Row]:
    with _loaders(task, workers) as loaders:
        passes = {who: _passing(loader) for who, loader in loaders.items()}
        seconds = take_turns(passes, rounds=rounds, budget=_BUDGET)
    speeds = {who: [len(task.places) / t for t in times] for who, times in seconds.items()}
    rows = []
    for who in CONTESTANTS:
        if who == "ours":
            continue
        # the decoder's own limit was set for one worker
        target = None if who == LIMIT and workers > 1 else _TARGETS.get(who)
        name = f"ours / {who}, {case.name}, {workers} worker{'s' if workers > 1 else ''}"
        rows.append(_row(name, speeds, who, case, workers, target))
    return rows


def _first_reading(case: Case, task: Task, rounds: int, folder: Path) -> list[Row]:
    """Every clip of a file that no process has seen: ours lists the frames of each first."""
    seconds: dict[str, list[float]] = {who: [] for who in ("ours", *_THEIRS)}
    for number in range(min(rounds, LEAST_ROUNDS)):
        for who in list(seconds)[:: 1 if number % 2 else -1]:
            copies = folder / "copies"
            copies.mkdir()
            places = tuple(
                (Path(shutil.copy(path, copies / f"{i}.mp4")), first) for i, (path, first) in enumerate(task.places)
            )
            # workers of its own, which remember nothing
            loader = make_loader(who, Task(places, task.num_frames, task.stride), 1)
            seconds[who].append(_timed(_passing(loader)))
            del loader
            shutil.rmtree(copies)
    speeds = {who: [len(task.places) / t for t in times] for who, times in seconds.items()}
    name = "ours / {}, {}, 1 worker, files never opened before"
    return [_row(name.format(who, case.name), speeds, who, case, 1, None) for who in _THEIRS]


def _row(
    name: str, speeds: Mapping[str, Sequence[float]], who: str, case: Case, workers: int, target: float | None
) -> Row:
    values = ratios(speeds["ours"], speeds[who])
    detail: dict[str, Any] = {
        "ours_clips_per_s": statistics.median(speeds["ours"]),
        "theirs_clips_per_s": statistics.median(speeds[who]),
        "clips": f"{case.num_frames} frames, stride {case.stride}",
        "files": f"H.264 {case.width}x{case.height}, x264's defaults, groups of up to {case.group} frames",
        "workers": workers,
    }
    missed = target is not None and statistics.median(values) < target
    return make_row(TABLE, name, values, target=target, note=_why_missed(who) if missed else "", detail=detail)


def _why_missed(who: str) -> str:
    if who == LIMIT:
        return "what is above decoding: conversion to RGB, resizing, the way to the main process"
    return "both decode H.264 with FFmpeg from the same key frame on; frames that others refer to cannot be left out"


@contextmanager
def _loaders(task: Task, workers: int) -> Iterator[dict[str, Any]]:
    loaders = {who: make_loader(who, task, workers) for who in CONTESTANTS}
    try:
        yield loaders
    finally:
        # workers end with their loader
        loaders.clear()


def _passing(loader: Any) -> Callable[[], None]:
    def run() -> None:
        for _ in loader:
            pass

    return run


def _timed(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
