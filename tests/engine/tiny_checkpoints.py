"""A model with random weights, as a checkpoint: what evaluation and prediction need of a training."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny_runs import TINY

from timesformer_plus.data.manifests import read_csv
from timesformer_plus.engine.build import build_model
from timesformer_plus.engine.build_data import build_recipe
from timesformer_plus.engine.checkpoint import save_checkpoint
from timesformer_plus.engine.config import EvaluationConfig
from timesformer_plus.engine.data_config import DataConfig


def tiny_checkpoint(folder, root, *, seed=0, scale=10.0, evaluation=None, multi_label=False, **recipe):
    """Save one for the videos and classes in ``root``; ``scale`` sharpens what it says."""
    data = DataConfig(root=Path(root), multi_label=multi_label)
    classes = read_csv(data.root / "test.csv", multi_label=multi_label).classes
    torch.manual_seed(seed)
    model = build_model(TINY, data, len(classes))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.normal_(std=scale / model.embed_dim**0.5)
    made = build_recipe(model, data, evaluation or EvaluationConfig(num_clips=2))
    save_checkpoint(Path(folder), model, classes=classes, recipe=replace(made, **recipe))
    return Path(folder)
