"""The videos of a run: found, counted, refused; and the clips made of them."""

import os
from pathlib import Path

import pytest
import torch

from timesformer_plus.data.scan_table import ScanRow, write_scan
from timesformer_plus.engine.build import build_model
from timesformer_plus.engine.build_data import (
    build_manifests,
    build_mixer,
    build_recipe,
    build_test_dataset,
    build_train_dataset,
)
from timesformer_plus.engine.config import EvaluationConfig, ModelConfig
from timesformer_plus.engine.data_config import AugmentConfig, DataConfig

NAME = "timesformer_test_patch8_32"


def make(data=None):
    return build_model(ModelConfig(name=NAME), data or DataConfig(root=Path()), 5)


def test_recipe_is_that_of_the_options():
    data = DataConfig(root=Path(), num_frames=4, img_size=(16, 32), sampling="seconds", target_fps=5, short="loop")
    recipe = build_recipe(make(data), data, EvaluationConfig(num_clips=2, num_crops=3, short_side=40))
    assert (recipe.num_frames, recipe.img_size, recipe.sampling, recipe.target_fps) == (4, (16, 32), "seconds", 5)
    assert (recipe.short, recipe.num_clips, recipe.num_crops, recipe.short_side) == ("loop", 2, 3, 40)


def test_recipe_takes_what_is_left_open_from_the_model():
    model = make()
    recipe = build_recipe(model, DataConfig(root=Path()), EvaluationConfig())
    assert (recipe.num_frames, recipe.img_size) == (8, (32, 32))
    assert recipe.mean == tuple(model.pretrained_cfg["mean"])
    assert recipe.std == tuple(model.pretrained_cfg["std"])


def test_splits_share_the_classes_of_the_training_split(tmp_path):
    for name, rows in {"train": "a.mp4,cat\nb.mp4,dog\n", "val": "c.mp4,dog\n"}.items():
        (tmp_path / f"{name}.csv").write_text("path,label\n" + rows)
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    splits = build_manifests(DataConfig(root=tmp_path, test=None))
    assert splits.train.classes == splits.val.classes == ("cat", "dog")
    assert splits.val.samples[0].label == 1
    assert splits.test is None


def test_label_that_training_does_not_have(tmp_path):
    for name, rows in {"train": "a.mp4,cat\n", "val": "c.mp4,dog\n"}.items():
        (tmp_path / f"{name}.csv").write_text("path,label\n" + rows)
    for name in "ac":
        (tmp_path / f"{name}.mp4").touch()
    with pytest.raises(ValueError, match=r"val.csv, row 2: label 'dog' is not one of the 1 classes"):
        build_manifests(DataConfig(root=tmp_path, test=None))


def test_training_clips_are_augmented_as_told_and_test_views_are_not_random(direction):
    data = DataConfig(root=direction, num_frames=4)
    splits = build_manifests(data)
    recipe = build_recipe(make(data), data, EvaluationConfig(num_clips=2))
    train = build_train_dataset(splits.train, recipe, data, AugmentConfig(hflip=0.5, scale=(0.3, 1.0)), seed=1)
    clips = [train[(epoch, 0, 0)].video for epoch in range(3)]
    assert clips[0].shape == (3, 4, 32, 32)
    assert not torch.equal(clips[0], clips[1])
    assert torch.equal(clips[2], train[(2, 0, 0)].video)
    test = build_test_dataset(splits.val, recipe, data)
    assert test.num_views == 2
    assert torch.equal(test[(0, 3, 1)].video, test[(7, 3, 1)].video)


def write_splits(folder, *, train=6, val=2):
    """Files that hold nothing: finding them is all that is asked here."""
    for name, first, count in (("train", 0, train), ("val", train, val)):
        names = [f"{i}.mp4" for i in range(first, first + count)]
        for video in names:
            (folder / video).write_bytes(b"0")
        (folder / f"{name}.csv").write_text("path,label\n" + "".join(f"{video},a\n" for video in names))
    return DataConfig(root=folder, test=None)


def with_options(data, **options):
    return DataConfig(root=data.root, test=None, **options)


def ids(manifest):
    return [sample.id for sample in manifest.samples]


def test_missing_videos_are_counted_and_refused_above_the_threshold(tmp_path):
    data = write_splits(tmp_path)
    assert build_manifests(data).report == (
        "train: 6 expected, 6 found, 0 missing",
        "val: 2 expected, 2 found, 0 missing",
    )
    (tmp_path / "3.mp4").unlink()
    with pytest.raises(ValueError, match=r"train: 6 expected, 5 found, 1 missing.*3\.mp4"):
        build_manifests(data)
    splits = build_manifests(with_options(data, max_missing=0.2))
    assert ids(splits.train) == ["0.mp4", "1.mp4", "2.mp4", "4.mp4", "5.mp4"]
    assert splits.report[0] == "train: 6 expected, 5 found, 1 missing"


def scan_as_bad(path, **changes):
    facts = path.stat()
    known = {"size_bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "kind": "damaged", "reason": "says the scan"}
    return ScanRow(path.name, **(known | changes))


def test_what_the_scan_could_not_read_counts_as_missing(tmp_path):
    data = write_splits(tmp_path)
    write_scan([scan_as_bad(tmp_path / "2.mp4"), ScanRow("4.mp4", verdict="ok")], tmp_path / "scan.csv")
    with pytest.raises(ValueError, match=r"5 found, 1 missing.*2\.mp4 \(damaged: says the scan\)"):
        build_manifests(data)
    assert ids(build_manifests(with_options(data, max_missing=0.2)).train) == [f"{i}.mp4" for i in (0, 1, 3, 4, 5)]
    assert len(build_manifests(with_options(data, scan="none")).train.samples) == 6
    elsewhere = tmp_path / "scans" / "of_today.csv"
    elsewhere.parent.mkdir()
    (tmp_path / "scan.csv").rename(elsewhere)
    assert len(build_manifests(data).train.samples) == 6
    with pytest.raises(ValueError, match="1 missing"):
        build_manifests(with_options(data, scan=str(elsewhere)))
    with pytest.raises(ValueError, match=r"there is no such file; make it with tools/scan\.py"):
        build_manifests(with_options(data, scan=str(tmp_path / "scan.csv")))


def test_a_file_that_changed_after_the_scan_is_not_judged_by_it(tmp_path):
    data = write_splits(tmp_path)
    write_scan([scan_as_bad(tmp_path / "2.mp4")], tmp_path / "scan.csv")
    os.utime(tmp_path / "2.mp4", ns=(1, 1))
    assert len(build_manifests(data).train.samples) == 6


def test_excluded_videos_are_left_out_of_every_split_and_counted(tmp_path):
    data = write_splits(tmp_path)
    (tmp_path / "bad.txt").write_text("# by hand\n1.mp4\n7.mp4\n")
    splits = build_manifests(with_options(data, exclude=tmp_path / "bad.txt"))
    assert ids(splits.train) == [f"{i}.mp4" for i in (0, 2, 3, 4, 5)]
    assert ids(splits.val) == ["6.mp4"]
    assert splits.report[0] == "train: 5 expected, 5 found, 0 missing; 1 more are excluded"
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read"):
        build_manifests(with_options(data, exclude=tmp_path / "none.txt"))


def test_a_video_in_two_splits_is_refused_unless_allowed(tmp_path):
    data = write_splits(tmp_path)
    with (tmp_path / "val.csv").open("a") as file:
        file.write("0.mp4,a\n")
    with pytest.raises(ValueError, match=r"1 leaks between splits: .*0\.mp4 is in train and val"):
        build_manifests(data)
    assert (
        build_manifests(with_options(data, allow_leaks=True)).report[-1] == "1 videos or recordings are in two splits"
    )


def test_one_list_for_val_and_test_is_said(tmp_path):
    data = write_splits(tmp_path)
    splits = build_manifests(DataConfig(root=data.root, test="val.csv"))
    assert splits.test == splits.val
    assert splits.report[-1].startswith("val and test are both val.csv")


def test_annotations_and_videos_in_folders_of_their_own(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "lists").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "videos" / name).write_bytes(b"0")
    (tmp_path / "lists" / "one.jsonl").write_text('{"path": "a.mp4", "label": "x"}\n')
    (tmp_path / "lists" / "two.jsonl").write_text('{"path": "b.mp4", "label": "x"}\n')
    data = DataConfig(root=tmp_path, videos=Path("videos"), train="lists/one.jsonl", val="lists/two.jsonl", test=None)
    assert [split.samples[0].path.name for split in build_manifests(data)[:2]] == ["a.mp4", "b.mp4"]


def test_flip_pairs_are_classes(direction):
    data = DataConfig(root=direction)
    splits = build_manifests(data)
    left, right = splits.train.classes[:2]
    recipe = build_recipe(make(data), data, EvaluationConfig())
    augment = AugmentConfig(hflip=1.0, flip_pairs=((left, right),))
    train = build_train_dataset(splits.train, recipe, data, augment, seed=0)
    for index, sample in enumerate(splits.train.samples):
        assert train[(0, index, 0)].target.item() == {0: 1, 1: 0}.get(sample.label, sample.label)
    with pytest.raises(ValueError, match=r"flip_pairs: 'lefft' is not one of the 8 classes"):
        build_train_dataset(splits.train, recipe, data, AugmentConfig(hflip=1, flip_pairs=(("lefft", right),)), seed=0)


def test_mixing_only_where_it_is_asked_for():
    assert build_mixer(AugmentConfig(), num_classes=3) is None
    mixer = build_mixer(AugmentConfig(mixup=0.8), num_classes=3)
    _, target = mixer(torch.zeros(2, 3, 1, 4, 4), torch.tensor([0, 2]), seed=0)
    assert target.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert 0 < target[0, 0] < 1
