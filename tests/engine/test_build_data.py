"""Clips as the options say."""

from pathlib import Path

import pytest
import torch

from timesformer_plus.engine.build import build_model
from timesformer_plus.engine.build_data import (
    build_mixer,
    build_recipe,
    build_test_dataset,
    build_train_dataset,
)
from timesformer_plus.engine.build_splits import build_splits
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


def test_recipe_has_the_protocol_of_the_options():
    data = DataConfig(root=Path())
    recipe = build_recipe(make(), data, EvaluationConfig(num_clips=2, average="logits"))
    assert (recipe.average, recipe.protocol.name) == ("logits", "2x1 logits")
    recipe = build_recipe(make(), data, EvaluationConfig(protocol="videomae", short_side=40))
    assert (recipe.num_clips, recipe.num_crops, recipe.average) == (5, 3, "probabilities")
    assert (recipe.protocol.name, recipe.protocol.short_side) == ("videomae", 40)
    with pytest.raises(ValueError, match="protocol videomae has num_clips=5, but num_clips=2 is given as well"):
        build_recipe(make(), data, EvaluationConfig(protocol="videomae", num_clips=2))
    with pytest.raises(ValueError, match=r"'video_mae' is unknown; did you mean videomae\?"):
        build_recipe(make(), data, EvaluationConfig(protocol="video_mae"))


def test_recipe_takes_what_is_left_open_from_the_model():
    model = make()
    recipe = build_recipe(model, DataConfig(root=Path()), EvaluationConfig())
    assert (recipe.num_frames, recipe.img_size) == (8, (32, 32))
    assert recipe.mean == tuple(model.pretrained_cfg["mean"])
    assert recipe.std == tuple(model.pretrained_cfg["std"])


def test_training_clips_are_augmented_as_told_and_test_views_are_not_random(direction):
    data = DataConfig(root=direction, num_frames=4)
    splits = build_splits(data)
    recipe = build_recipe(make(data), data, EvaluationConfig(num_clips=2))
    train = build_train_dataset(splits.train, recipe, data, AugmentConfig(hflip=0.5, scale=(0.3, 1.0)), seed=1)
    clips = [train[(epoch, 0, 0)].video for epoch in range(3)]
    assert clips[0].shape == (3, 4, 32, 32)
    assert not torch.equal(clips[0], clips[1])
    assert torch.equal(clips[2], train[(2, 0, 0)].video)
    test = build_test_dataset(splits.val, recipe, data)
    assert test.num_views == 2
    assert torch.equal(test[(0, 3, 1)].video, test[(7, 3, 1)].video)


def test_flip_pairs_are_classes(direction):
    data = DataConfig(root=direction)
    splits = build_splits(data)
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
