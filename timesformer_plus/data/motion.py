"""The built-in data set: small tasks about motion, written as real H.264 files with an ordinary manifest.

``motion_tasks`` tells what the tasks show and which models cannot solve them. Those arguments are about the rendered
frames, and the files keep them: every frame is coded on its own, at a constant quantiser, so a decoded frame depends on
the rendered one alone. A clip backwards decodes to the decoded clip backwards, bit for bit, and no frame betrays its
neighbours or its place through the quality it was coded with, as it would with predicted frames or a bit budget.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.progress import track

from timesformer_plus.data.manifests import CLASSES_FILE
from timesformer_plus.data.motion_tasks import MOTION_TASKS, SPLITS, Lattice, MotionTask, Pictures, Split
from timesformer_plus.data.sheets import draw_clips

MotionTaskName = Literal["direction", "drift", "lattice"]
# Goes up when the same arguments give other files.
FORMAT = 2
FPS = 8
SPEC_FILE = "dataset.json"
PREVIEW_FILE = "preview.png"
# Stands there while the files are being written, with the same text; then it becomes SPEC_FILE.
UNFINISHED_FILE = "dataset.json.unfinished"
# Every frame a key frame (g=1) at a constant quantiser: see the module. 4:2:0 is what every player and decoder reads.
ENCODING = {"codec": "libx264", "pix_fmt": "yuv420p", "options": {"preset": "veryfast", "qp": "8", "g": "1", "bf": "0"}}


@dataclass(frozen=True)
class _PlannedClip:
    path: str  # relative to the data set
    split: Split
    draw: int
    variant: int
    pair: str


def write_motion(
    task: MotionTaskName,
    output: str | Path,
    *,
    seed: int = 0,
    train: int = 800,
    val: int = 96,
    test: int = 208,
    num_frames: int = 8,
    size: int = 32,
    progress: bool = True,
) -> Path:
    """Write a built-in data set: clips, manifests of its splits, names of the classes, and a sheet to look at.

    The clips depend on the arguments alone. Every class (in ``lattice``: every combination of bits) has the same number
    of clips in every split. An interrupted run is taken up where it stopped; a finished one returns at once.

    Args:
        task: ``direction``: eight classes, which way a sprite moves; ``drift``: four classes, which way a texture
            drifts; ``lattice``: three yes-or-no labels, along which axes a chequerboard of handwritten digits
            alternates.
        output: Folder for OUTPUT/{train,val,test}/*.mp4, {train,val,test}.csv, classes.txt, preview.png, dataset.json.
        seed: Seed of everything random. The splits of one seed share no draw.
        train: Training clips; a multiple of 8 (direction), 4 (drift), 16 (lattice), as are ``val`` and ``test``.
        val: Validation clips, in pairs of partners.
        test: Test clips, in pairs of partners.
        num_frames: Frames of a clip, at 8 frames a second.
        size: Side of the frames, in pixels; for lattice a multiple of 8, the side of a cell.
        progress: Whether to show a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: An unknown task; counts that cannot be balanced; a size that does not fit; or a folder that holds
            something else, such as a data set made with other arguments.
    """
    if task not in MOTION_TASKS:
        raise ValueError(f"task={task!r} is unknown; allowed are {', '.join(map(repr, MOTION_TASKS))}")
    kind = MOTION_TASKS[task]
    counts: dict[Split, int] = {"train": train, "val": val, "test": test}
    _check_arguments(kind, counts, num_frames, size, seed)
    output = Path(output)
    spec = {
        "format": FORMAT,
        "task": task,
        "classes": list(kind.classes),
        "multi_label": kind.multi_label,
        "seed": seed,
        "splits": counts,
        "num_frames": num_frames,
        "size": size,
        "fps": FPS,
        "encoding": ENCODING,
    }
    text = json.dumps(spec, indent=2) + "\n"
    clips = [clip for split in SPLITS for clip in _plan(kind, split, counts[split])]
    if _is_finished(output, text) and all((output / clip.path).is_file() for clip in clips):
        return output
    _write_whole(output / UNFINISHED_FILE, text.encode())
    for clip in track(clips, f"Writing {task}", disable=not progress):
        if not (output / clip.path).is_file():  # a file only ever appears whole
            _write_whole(output / clip.path, encode(_render(task, clip, seed, num_frames, size)))
    for split in SPLITS:
        _write_manifest(output / f"{split}.csv", kind, [clip for clip in clips if clip.split == split])
    _write_whole(output / CLASSES_FILE, "".join(f"{name}\n" for name in kind.classes).encode())
    shown = [next(clip for clip in clips if clip.variant == variant) for variant in _preview_variants(kind)]
    draw_clips([(kind.label(clip.variant) or "none", output / clip.path) for clip in shown], output / PREVIEW_FILE)
    (output / UNFINISHED_FILE).replace(output / SPEC_FILE)
    return output


def encode(frames: Pictures) -> bytes:
    """Encode a clip as an H.264 mp4 file, each frame on its own.

    Args:
        frames: RGB, (T, H, W, 3); H and W even.

    Returns:
        The file's bytes; the same for the same frames and encoder.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODING["options"])
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _check_arguments(kind: MotionTask, counts: dict[Split, int], num_frames: int, size: int, seed: int) -> None:
    variants = sum(map(len, kind.groups))
    for split, count in counts.items():
        if count < variants or count % variants:
            raise ValueError(
                f"{split}={count}: needs a positive multiple of {variants}, so that every kind of clip is there "
                f"equally often; the nearest is {max(1, round(count / variants)) * variants}"
            )
    if num_frames < 2:
        raise ValueError(f"num_frames={num_frames}: motion takes at least 2 frames")
    step = 8 if isinstance(kind, Lattice) else 2  # the encoding halves the colours' resolution
    if size < 16 or size % step:
        raise ValueError(f"size={size}: needs a multiple of {step}, at least 16; the nearest is {_nearest(size, step)}")
    if seed < 0:
        raise ValueError(f"seed={seed}: must not be negative")


def _nearest(size: int, step: int) -> int:
    return max(16, round(size / step) * step)


def _is_finished(output: Path, text: str) -> bool:
    """Whether the data set is there already; raises if the folder holds anything but it, whole or in part."""
    finished, unfinished = output / SPEC_FILE, output / UNFINISHED_FILE
    known = next((file for file in (finished, unfinished) if file.is_file()), None)
    if known is None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise ValueError(f"{output} is not an empty folder, and no built-in data set; give another output")
        return False
    if known.read_text() != text:
        raise ValueError(
            f"{output} holds a data set made with other arguments, or by another version of this package, see {known}; "
            "delete it or give another output"
        )
    return known == finished


def _plan(kind: MotionTask, split: Split, count: int) -> list[_PlannedClip]:
    """The clips of a split: a draw each in training, else a draw for each group of variants."""
    variants = [variant for group in kind.groups for variant in group]
    clips = []
    for i in range(count):
        variant = variants[i % len(variants)]
        if split == "train":
            draw, pair = i, ""
        else:
            rounds = i // len(variants)
            draw = rounds * len(kind.groups) + next(g for g, group in enumerate(kind.groups) if variant in group)
            pair = f"{draw}-{variant // 2}"
        clips.append(_PlannedClip(f"{split}/{i:0{len(str(count - 1))}d}.mp4", split, draw, variant, pair))
    return clips


def _render(task: str, clip: _PlannedClip, seed: int, num_frames: int, size: int) -> Pictures:
    stream = (list(MOTION_TASKS).index(task), SPLITS.index(clip.split), clip.draw)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))
    return MOTION_TASKS[task].render(rng, clip.variant, clip.split, num_frames, size)


def _write_manifest(path: Path, kind: MotionTask, clips: Sequence[_PlannedClip]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("path", "label", "pair"))
    writer.writerows((clip.path, kind.label(clip.variant), clip.pair) for clip in clips)
    _write_whole(path, file.getvalue().encode())


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it, also when interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_bytes(content)
    draft.replace(path)


def _preview_variants(kind: MotionTask) -> list[int]:
    variants = [variant for group in kind.groups for variant in group]
    return variants[::2] if kind.multi_label else variants  # partners of a multi-label task have the same label
