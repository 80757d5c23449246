"""The preview shows what training sees: the same clips, from the same data set, under their own labels."""

from __future__ import annotations

import csv
import dataclasses
import runpy
import shutil
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from tiny_runs import tiny_run

from timesformer_plus.data.decoders import DecodeError, open_video
from timesformer_plus.data.sheets import draw_sheet
from timesformer_plus.engine.build import build_model
from timesformer_plus.engine.build_data import build_recipe, build_train_dataset
from timesformer_plus.engine.build_splits import build_splits
from timesformer_plus.engine.config import dump_config
from timesformer_plus.engine.data_config import AugmentConfig
from timesformer_plus.engine.preview import choose_samples, main, preview
from timesformer_plus.engine.watched import WatchedDataset

TOOL = str(Path(__file__).parents[2] / "tools" / "preview.py")
AUGMENT = AugmentConfig(scale=(0.5, 1.0), hflip=0.5, flip_pairs=(("left", "right"),))


def train_data(config):
    splits = build_splits(config.data)
    network = build_model(config.model, config.data, len(splits.train.classes))
    recipe = build_recipe(network, config.data, config.evaluation)
    return build_train_dataset(splits.train, recipe, config.data, config.augment, seed=config.seed)


def test_what_is_watched_is_what_training_reads(direction, tmp_path):
    config = tiny_run(tmp_path / "run", direction, augment=AUGMENT, seed=3, data={"num_frames": 3, "stride": 2})
    plain, watched = train_data(config), WatchedDataset(train_data(config))
    flipped = set()
    for epoch in range(3):
        for index in range(4):
            expected, draw = plain[epoch, index, 0], watched.draw(epoch, index, 0)
            assert torch.equal(draw.clip.video, expected.video)
            assert torch.equal(draw.clip.target, expected.target)
            video = open_video(plain.manifest.samples[index].path)
            # the frames that it names are those that the clip was made of
            assert np.array_equal(draw.decoded.numpy(), video.read(draw.frames))
            assert draw.times == [video.times[i] for i in draw.frames]
            assert np.array_equal(np.stack(draw.pictures()), expected.video.permute(1, 2, 3, 0).numpy())
            flipped.add(draw.flipped)
    assert flipped == {False, True}


def test_the_pictures(direction, tmp_path):
    config = tiny_run(tmp_path / "run", direction, augment=AUGMENT)
    sheet, animation = preview(config, n=3, draws=2)
    assert [sheet.name, animation.name] == ["preview.png", "preview.webp"]
    assert sorted(path.name for path in config.output.iterdir()) == ["preview.png", "preview.webp"]
    with Image.open(sheet) as image:
        pixels = np.asarray(image)
    # three videos, each with a heading and three rows of eight frames of 32 pixels, enlarged threefold
    lines = 3 * 18 + 8
    assert pixels.shape == (lines + 3 * (22 + 4 + 3 * (96 + 17 + 4)), 190 + 8 * (96 + 4), 3)
    first = WatchedDataset(train_data(config)).draw(0, choose_samples(build_splits(config.data).train, 3, seed=0)[0], 0)
    top = lines + 26
    assert np.array_equal(pixels[top : top + 96 : 3, 190:286:3], first.decoded[0].numpy())
    assert np.array_equal(pixels[top + 117 : top + 213 : 3, 190:286:3], first.pictures()[0])
    assert np.array_equal(pixels[top + 117 : top + 213 : 3, 290:386:3], first.pictures()[1])
    with Image.open(animation) as image:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(image)]
        assert image.info["loop"] == 0
    assert len(frames) == 8
    assert all(np.abs(before - after).max() > 50 for before, after in pairwise(frames))


def test_mixed_clips_are_shown_where_the_recipe_mixes(direction, tmp_path):
    heights = {}
    for name, cutmix in (("plain", 0.0), ("mixed", 1.0)):
        config = tiny_run(tmp_path / name, direction, augment=dataclasses.replace(AUGMENT, cutmix=cutmix))
        with Image.open(preview(config, n=2, draws=1)[0]) as image:
            heights[name] = image.height
    assert heights["mixed"] == heights["plain"] + 2 * (96 + 4)


def test_views_of_a_score(lattice, tmp_path):
    config = tiny_run(tmp_path / "run", lattice, data={"multi_label": True, "num_frames": 4})
    for split in ("val", "test"):
        sheet, _ = preview(config, split=split, n=2, draws=5)  # there are two views, the clips of `tiny_run`
        with Image.open(sheet) as image:
            assert image.size == (190 + 4 * 100, 3 * 18 + 8 + 2 * (22 + 4 + 3 * (96 + 17 + 4)))


def test_samples_of_many_classes(direction, tmp_path):
    manifest = build_splits(tiny_run(tmp_path, direction).data).train
    for seed in range(3):
        chosen = choose_samples(manifest, 11, seed=seed)
        counts = Counter(manifest.samples[index].label for index in chosen)
        assert len(set(chosen)) == 11
        assert sorted(counts.values()) == [1] * 5 + [2] * 3
        assert chosen == choose_samples(manifest, 11, seed=seed)
    assert choose_samples(manifest, 8, seed=0) != choose_samples(manifest, 8, seed=1)
    assert choose_samples(manifest, 100, seed=0) == list(range(16))


@pytest.fixture
def one_is_damaged(direction, tmp_path):
    """A folder whose training split has one unreadable video, which the sheet shows if all are shown."""
    root = tmp_path / "videos"
    root.mkdir()
    (root / "classes.txt").write_text((direction / "classes.txt").read_text())
    for split in ("train", "val"):
        with (direction / f"{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))[:4]
        (root / f"{split}.csv").write_text("path,label\n" + "".join(f"{row['path']},{row['label']}\n" for row in rows))
        (root / split).mkdir()
        for row in rows:
            (root / row["path"]).write_bytes((direction / row["path"]).read_bytes())
    bad = root / "train" / "01.mp4"
    assert bad.is_file()
    bad.write_bytes(b"what once was a video")
    return root


def test_a_replaced_video_is_shown_as_training_replaces_it(one_is_damaged, tmp_path, monkeypatch):
    rows = []

    def watched(given, **options):
        rows.extend(given)
        return draw_sheet(given, **options)

    monkeypatch.setattr("timesformer_plus.engine.preview.draw_sheet", watched)
    data = {"test": None, "allow_empty_classes": True}
    config = tiny_run(tmp_path / "run", one_is_damaged, data=data)
    preview(config, n=4, draws=1)
    headings = [row.heading for row in rows if row.heading]
    assert len(headings) == 4
    told = [heading for heading in headings if "in the place of" in heading]
    assert len(told) == 1
    assert told[0].endswith("(in the place of train/01.mp4: not a video)")
    assert not told[0].startswith("train/01.mp4")
    # nothing stands in for a video that is scored
    damaged = tmp_path / "damaged"
    shutil.copytree(one_is_damaged, damaged)
    (damaged / "val.csv").write_text((damaged / "train.csv").read_text())
    with pytest.raises(DecodeError, match=r"01\.mp4"):
        preview(tiny_run(tmp_path / "strict", damaged, data=data | {"allow_leaks": True}), split="val", n=4, draws=1)
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "all"}, "split='all'"),
        ({"n": 0}, "n=0"),
        ({"draws": 0}, "draws=0"),
        ({"split": "test"}, "data.test is null"),
    ],
)
def test_nonsense_is_refused(options, message, direction, tmp_path):
    with pytest.raises(ValueError, match=message):
        preview(tiny_run(tmp_path / "run", direction, data={"test": None}), **options)


def test_the_command(direction, tmp_path, monkeypatch, capsys):
    config = tiny_run(tmp_path / "run", direction)
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_config(config))
    words = ["--config", str(file), "--output", str(tmp_path / "there"), "--n=2", "--draws=1", "--split=val"]
    monkeypatch.setattr(sys, "argv", [TOOL, *words])
    runpy.run_path(TOOL, run_name="__main__")
    assert capsys.readouterr().out.split() == [str(tmp_path / "there" / f"preview.{end}") for end in ("png", "webp")]


def test_the_command_ends_in_one_line(direction, tmp_path, capsys):
    words = [f"--data.root={direction}", f"--output={tmp_path / 'run'}", "--model.name=timesformer_test_patch8_32"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--n=0"])
    assert ended.value.code == 1
    assert (
        capsys.readouterr().err
        == "error: split='train', n=0, draws=2: train, val or test, and at least one video and draw\n"
    )
    with pytest.raises(SystemExit) as ended:
        main([*words, "--nn=1"])
    assert ended.value.code == 2
