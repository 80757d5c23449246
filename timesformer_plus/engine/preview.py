"""Pictures of what a model will really see: clips of a recipe, before and after augmentation, for a person to look at.

The clips come out of the very data set that training reads, by the same keys: "epoch 3" of a sheet is what the run with
that seed sees of that video in its epoch 3.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image

from timesformer_plus.data.dataset import Clip
from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.data.manifests import Manifest, without
from timesformer_plus.data.sheets import Picture, SheetRow, draw_sheet
from timesformer_plus.data.transforms import Normalize
from timesformer_plus.engine.build import build_model
from timesformer_plus.engine.build_data import (
    ClipRecipe,
    build_mixer,
    build_recipe,
    build_test_dataset,
    build_train_dataset,
)
from timesformer_plus.engine.build_splits import build_splits
from timesformer_plus.engine.config import TrainConfig, make_train_config, train_parser
from timesformer_plus.engine.data_config import AugmentConfig
from timesformer_plus.engine.watched import Draw, WatchedDataset

SplitName = Literal["train", "val", "test"]
SHEET_FILE = "preview.png"
ANIMATION_FILE = "preview.webp"
# sides of a picture in pixels
SHEET_CELL = 112
ANIMATION_CELL = 160
LABELS_WIDTH = 190
# frames of a clip that a row of the sheet has room for
MOST_COLUMNS = 12
# how long a frame of the animation is shown where nobody knows better, at least, and at most, in seconds
FRAME_SECONDS, SHORTEST, LONGEST = 0.125, 0.04, 0.5


def preview(config: TrainConfig, *, split: SplitName = "train", n: int = 8, draws: int = 2) -> tuple[Path, Path]:
    """Draw clips of a recipe as a sheet and as an animation.

    Args:
        config: The run that is looked at. Nothing is trained; no weights are made or loaded.
        split: Whose clips: ``train`` shows them before and after augmentation, ``val`` and ``test`` the views that a
            score is the mean of.
        n: Videos, of as many classes as possible; which ones depends on the seed.
        draws: Epochs of each video, from the first; views for ``val`` and ``test``.

    Returns:
        OUTPUT/preview.png, a row of frames for every clip, and OUTPUT/preview.webp, the same clips moving, which every
        browser shows.

    Raises:
        ValueError: Something does not fit, as in training; or there is no such split.
        DecodeError: A video cannot be read, where training would not put another in its place.
        OSError: The pictures cannot be written.
    """
    if split not in get_args(SplitName) or n < 1 or draws < 1:
        raise ValueError(f"{split=}, {n=}, {draws=}: train, val or test, and at least one video and draw")
    if config.output.exists() and not config.output.is_dir():
        raise ValueError(f"output={config.output} is a file; give a folder")
    splits = build_splits(config.data)
    manifest: Manifest | None = getattr(splits, split)
    if manifest is None:
        raise ValueError("data.test is null: there is no test split to look at; take train or val")
    # of a split that is scored those are in it that the scan calls bad
    manifest = without(manifest, manifest.unreadable)
    if not manifest.samples:
        raise ValueError(f"the {split} split has no video that can be looked at")
    with torch.device("meta"):  # only what it says about its input matters
        network = build_model(dataclasses.replace(config.model, pretrained=False), config.data, len(manifest.classes))
    recipe = build_recipe(network, config.data, config.evaluation)
    is_training = split == "train"
    dataset = WatchedDataset(
        build_train_dataset(manifest, recipe, config.data, config.augment, seed=config.seed)
        if is_training
        else build_test_dataset(manifest, recipe, config.data)
    )
    chosen = choose_samples(manifest, n, seed=config.seed)
    count = draws if is_training else min(draws, dataset.dataset.num_views)
    keys = [(i, 0) if is_training else (0, i) for i in range(count)]
    drawn = [[dataset.draw(epoch, index, view) for epoch, view in keys] for index in chosen]
    names = [f"epoch {i}" if is_training else _view_name(i, recipe) for i in range(count)]
    mixed = _mixed([row[0].clip for row in drawn], recipe, config, manifest) if is_training else None
    title = _title(split, manifest, recipe, config, len(chosen))
    config.output.mkdir(parents=True, exist_ok=True)
    sheet, animation = config.output / SHEET_FILE, config.output / ANIMATION_FILE
    _draw_sheet(drawn, names, mixed, manifest, title).save(sheet)
    _save_animation(drawn, names, mixed, manifest, animation)
    return sheet, animation


def choose_samples(manifest: Manifest, n: int, *, seed: int) -> list[int]:
    """Indices of ``n`` samples at random, a second one of a label only when all labels have one."""
    order = np.random.default_rng(seed).permutation(len(manifest.samples)).tolist()
    seen: Counter[Any] = Counter()
    ranked = []
    for place, index in enumerate(order):
        label = manifest.samples[index].label
        ranked.append((seen[label], place, index))
        seen[label] += 1
    return sorted(index for _, _, index in sorted(ranked)[:n])


def _view_name(view: int, recipe: ClipRecipe) -> str:
    clip, crop = divmod(view, recipe.num_crops)
    return f"view {view}" + (f"\nclip {clip}, crop {crop}" if recipe.num_crops * recipe.num_clips > 1 else "")


class _Mixed(NamedTuple):
    pictures: list[Picture]
    label: str


def _mixed(clips: Sequence[Clip], recipe: ClipRecipe, config: TrainConfig, manifest: Manifest) -> list[_Mixed] | None:
    """The clips mixed with each other as those of a batch are; ``None`` where the recipe does not."""
    mixer = build_mixer(config.augment, num_classes=len(manifest.classes))
    if mixer is None:
        return None
    # pictures are for people: the model's order of the channels stays out of them
    normalize = Normalize(recipe.mean, recipe.std)
    videos = normalize(torch.stack([clip.video for clip in clips]))
    videos, targets = mixer(videos, torch.stack([clip.target for clip in clips]), seed=config.seed)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (recipe.mean, recipe.std))
    pixels = ((videos * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
    rows = []
    for video, target in zip(pixels, targets, strict=True):
        shares = sorted(((float(share), i) for i, share in enumerate(target) if share > 0.005), reverse=True)[:3]
        rows.append(_Mixed(list(video.numpy()), "\n".join(f"{share:.2f} {manifest.classes[i]}" for share, i in shares)))
    return rows


def _title(split: SplitName, manifest: Manifest, recipe: ClipRecipe, config: TrainConfig, count: int) -> str:
    height, width = recipe.img_size
    cut = {
        "stride": f"{recipe.stride} apart" if recipe.stride > 1 else "in a row",
        "seconds": f"{recipe.target_fps} a second",
        "segments": "one from each of as many parts of the video",
    }[recipe.sampling]
    lines = [
        f"{split}: {count} of {len(manifest.samples)} videos, {len(manifest.classes)} classes; clips of "
        f"{recipe.num_frames} frames of {height}x{width} pixels, {cut}"
    ]
    if split == "train":
        used = AugmentConfig()
        set_here = {f.name: getattr(config.augment, f.name) for f in dataclasses.fields(used)}
        changed = [f"{name}={value}" for name, value in set_here.items() if value != getattr(used, name)]
        lines.append("augment: " + (", ".join(changed) or "nothing but a crop at a random place"))
    else:
        lines.append(f"a score is the mean over {recipe.num_clips} clips x {recipe.num_crops} crops")
    return "\n".join(lines)


def _label(label: int | Sequence[float], manifest: Manifest) -> str:
    if isinstance(label, int):
        return manifest.classes[label]
    return ", ".join(name for name, on in zip(manifest.classes, label, strict=True) if on) or "none of the labels"


def _draw_sheet(
    drawn: Sequence[Sequence[Draw]],
    names: Sequence[str],
    mixed: Sequence[_Mixed] | None,
    manifest: Manifest,
    title: str,
) -> Image.Image:
    total = len(drawn[0][0].frames)
    columns = np.linspace(0, total - 1, min(total, MOST_COLUMNS)).round().astype(int).tolist()
    title += "\nbelow a frame stand its number in the video, from 0, and its time"
    if len(columns) < total:
        title += f"; {len(columns)} of the {total} frames of a clip are drawn"
    rows = []
    for number, draws in enumerate(drawn):
        rows.append(_row(draws[0], list(draws[0].decoded.numpy()), "as decoded", columns, _heading(draws[0], manifest)))
        for name, draw in zip(names, draws, strict=True):
            rows.append(_row(draw, draw.pictures(), name + _changes(draw, draws[0], manifest), columns))
        if mixed is not None:
            pictures = [mixed[number].pictures[column] for column in columns]
            rows.append(SheetRow(pictures, f"{names[0]}, mixed\n{mixed[number].label}"))
    return draw_sheet(rows, title=title, cell=SHEET_CELL, label_width=LABELS_WIDTH)


def _row(draw: Draw, pictures: Sequence[Picture], label: str, columns: Sequence[int], heading: str = "") -> SheetRow:
    captions = [
        f"{draw.frames[column]}" + (f" · {draw.times[column]:.2f} s" if draw.times else "") for column in columns
    ]
    return SheetRow([pictures[column] for column in columns], label, captions, heading)


def _heading(draw: Draw, manifest: Manifest) -> str:
    sample = manifest.samples[draw.clip.index]
    words = f"{sample.id}   {_label(sample.label, manifest)}"
    if draw.clip.problem:
        words += f"   (in the place of {manifest.samples[draw.clip.wanted].id}: {draw.clip.problem})"
    return words + ("   (too short: frames come again)" if draw.clip.short else "")


def _changes(draw: Draw, first: Draw, manifest: Manifest) -> str:
    """What a row's label says beside its name: how its clip differs from what the heading tells."""
    words = "\nmirrored" if draw.flipped else ""
    sample = manifest.samples[draw.clip.index]
    if draw.clip.index != first.clip.index:
        words += f"\nof {sample.id}"
    seen = _label(draw.clip.target.tolist(), manifest)
    if seen != _label(manifest.samples[first.clip.index].label, manifest):
        words += f"\n{seen}"
    return words


def _save_animation(
    drawn: Sequence[Sequence[Draw]],
    names: Sequence[str],
    mixed: Sequence[_Mixed] | None,
    manifest: Manifest,
    path: Path,
) -> None:
    # WebP: moves in every browser, and is a tenth of a GIF or an APNG of the same frames
    columns = ["as decoded", *(name.replace("\n", ": ") for name in names), *(["mixed"] if mixed is not None else [])]
    clips = [
        [list(draws[0].decoded.numpy()), *(draw.pictures() for draw in draws)] + ([mixed[i].pictures] if mixed else [])
        for i, draws in enumerate(drawn)
    ]
    shown = [manifest.samples[draws[0].clip.index] for draws in drawn]
    labels = [f"{_label(sample.label, manifest)}\n{sample.id}" for sample in shown]
    images = []
    for t in range(len(drawn[0][0].frames)):
        rows = [SheetRow([clip[t] for clip in row], label) for row, label in zip(clips, labels, strict=True)]
        images.append(draw_sheet(rows, columns=columns, cell=ANIMATION_CELL, label_width=LABELS_WIDTH))
    milliseconds = round(1000 * _frame_seconds([draw for draws in drawn for draw in draws]))
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, loop=0, quality=85)


def _frame_seconds(draws: Sequence[Draw]) -> float:
    """The usual time between two frames of a clip."""
    steps = [later - sooner for draw in draws for sooner, later in zip(draw.times, draw.times[1:], strict=False)]
    usual = statistics.median(steps) if steps else FRAME_SECONDS
    return min(max(usual, SHORTEST), LONGEST)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``tools/preview.py``."""
    parser = train_parser()
    parser.prog = "preview"
    parser.description = (
        "Draw what a model will see: n videos of a training recipe, before and after augmentation. Takes all options "
        "of training; writes OUTPUT/preview.png and OUTPUT/preview.webp."
    )
    parser.add_argument("--split", type=SplitName, default="train", help="Which split to look at.")
    parser.add_argument("--n", type=int, default=8, help="Videos, of as many classes as possible.")
    parser.add_argument("--draws", type=int, default=2, help="Epochs of each video; views for val and test.")
    options = parser.parse_args(argv)
    config = make_train_config(parser, options)
    try:
        files = preview(config, split=options.split, n=options.n, draws=options.draws)
    except (ValueError, ImportError, OSError, DecodeError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    for file in files:
        print(file)
