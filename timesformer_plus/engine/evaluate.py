"""Score a model on a split: several views a video, every video exactly once, on any number of processes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.utils.data import DataLoader

from timesformer_plus.data.catalogues import read_manifest
from timesformer_plus.data.dataset import Clip, VideoDataset
from timesformer_plus.data.decoders import DecodeError, DecoderName
from timesformer_plus.data.splits import check_coverage
from timesformer_plus.data.transforms import Normalize
from timesformer_plus.engine.batches import evaluation_keys
from timesformer_plus.engine.build_data import build_normalize, build_test_dataset
from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.metrics import Metrics, score
from timesformer_plus.engine.processes import join_processes, set_threads


@dataclass(frozen=True)
class Predictions:
    """What a model says about every video of a manifest, in the manifest's order.

    Attributes:
        ids: Names of the N videos.
        probabilities: Mean over the views, float64, (N, K).
        targets: Class indices (N,), or for multi-label data 0 and 1, (N, K).
    """

    ids: tuple[str, ...]
    probabilities: Tensor
    targets: Tensor


def predict_views(
    model: nn.Module,
    dataset: VideoDataset,
    normalize: Normalize,
    *,
    batch_size: int,
    num_workers: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Run a model over all views of all videos, shared out among the processes.

    A video's probabilities are the mean over its views of softmax (multi-label: sigmoid) in float64. Every process
    takes every ``world_size``-th video, without padding; results travel under the videos' ids and are gathered once, so
    the answer does not depend on the number of processes, nor on how it divides the number of videos.

    Args:
        model: Maps (B, C, T, H, W) to logits (B, K); not wrapped for distributed training, whose forward would wait for
            the other processes.
        dataset: The videos; its ``num_views`` views of each are used.
        normalize: Turns a batch of their pixels into the model's input.
        batch_size: Clips a forward pass, in every process.
        num_workers: Processes that read ahead, for every process.
        on_batch: Called with the number of clips after every batch.

    Returns:
        The same predictions in every process.

    Raises:
        DecodeError: A video cannot be read; none is skipped or replaced.
    """
    state = join_processes()
    weight = next(model.parameters())
    keys = evaluation_keys(len(dataset), dataset.num_views, rank=state.process_index, world_size=state.num_processes)
    loader: DataLoader[Clip] = DataLoader(dataset, batch_size=batch_size, sampler=keys, num_workers=num_workers)
    sums: dict[int, Tensor] = {}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in loader:
            # parameters are float64 or float32; autocast is inside the model's forward where it is on
            logits = model(normalize(batch.video.to(weight.device), weight.dtype)).double()
            probabilities = logits.sigmoid() if dataset.manifest.multi_label else logits.softmax(dim=-1)
            for index, row in zip(batch.index.tolist(), probabilities.cpu(), strict=True):
                sums[index] = sums[index] + row if index in sums else row
            if on_batch is not None:
                on_batch(len(logits))
    model.train(was_training)
    samples = dataset.manifest.samples
    share = [(samples[index].id, (total / dataset.num_views).tolist()) for index, total in sums.items()]
    by_id = dict(gather_object(share))
    return Predictions(
        ids=tuple(sample.id for sample in samples),
        probabilities=torch.tensor([by_id[sample.id] for sample in samples], dtype=torch.float64),
        targets=torch.tensor([sample.label for sample in samples]),
    )


def evaluate(
    model: nn.Module,
    dataset: VideoDataset,
    normalize: Normalize,
    *,
    batch_size: int,
    num_workers: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Metrics:
    """Score a model on a data set; see ``predict_views`` for the arguments and ``metrics.score`` for the result."""
    predictions = predict_views(
        model, dataset, normalize, batch_size=batch_size, num_workers=num_workers, on_batch=on_batch
    )
    return score(
        predictions.probabilities,
        predictions.targets,
        classes=dataset.manifest.classes,
        pairs=[sample.pair for sample in dataset.manifest.samples],
    )


def evaluate_checkpoint(
    manifest: Path,
    *,
    model: Path,
    root: Path | None = None,
    format: str = "auto",
    target: str | None = None,
    max_missing: float = 0.0,
    num_clips: int | None = None,
    num_crops: int | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    decoder: DecoderName = "auto",
    image_fps: float | None = None,
    threads: int = 0,
    output: Path | None = None,
) -> Metrics:
    """Score a trained model on the videos of a manifest.

    Args:
        manifest: CSV file with columns path and label, or the annotations that `format` says.
        model: Checkpoint folder, such as RUN/best.
        root: Folder that the paths in the manifest are relative to; null for the manifest's own.
        format: What the annotations are; see `data.format` of training.
        target: What is to be told, where a data set has several kinds of label or several splits.
        max_missing: Greatest share of the videos that may be missing; they are not scored.
        num_clips: Clips a video, evenly spaced in time; null for as many as in training's evaluation.
        num_crops: Crops a clip; null for as many as in training's evaluation.
        batch_size: Clips a forward pass, in every process.
        num_workers: Processes that read videos ahead, in every process.
        decoder: Video reader.
        image_fps: Frames a second of videos that come as folders of images or .npy arrays.
        threads: Computing threads a process; 0 for $OMP_NUM_THREADS where it is set, else the cores shared out among
            the processes of this machine.
        output: JSON file to write the metrics to.

    Returns:
        See ``metrics.score``.

    Raises:
        ValueError: The folder is not a checkpoint, or the manifest is malformed or has other classes than the model.
        DecodeError: A video cannot be read.
    """
    state = join_processes()
    set_threads(threads)
    network, classes, recipe = load_checkpoint(model)
    recipe = dataclasses.replace(
        recipe, num_clips=num_clips or recipe.num_clips, num_crops=num_crops or recipe.num_crops
    )
    # of the data's options only those that say how files are read
    data = DataConfig(root=manifest.parent if root is None else root, decoder=decoder, image_fps=image_fps)
    videos = read_manifest(
        manifest, format=format, videos=data.root, classes=classes, multi_label=recipe.multi_label, target=target
    )
    if state.is_main_process:
        print(check_coverage(videos, str(manifest), max_missing))
    dataset = build_test_dataset(videos, recipe, data)
    metrics = evaluate(
        network.to(state.device), dataset, build_normalize(recipe), batch_size=batch_size, num_workers=num_workers
    )
    if output is not None and state.is_main_process:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def print_metrics(title: str, metrics: Metrics) -> None:
    """Print metrics as a table, fractions in percent."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text: in a string, "[something]" in the name of a class or a file would be markup
    table = Table("metric", "value", title=Text(title, style="table.title"))
    table.columns[1].justify = "right"
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        flat |= {f"{name}: {key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    for name, value in flat.items():
        table.add_row(Text(name), f"{value:.4f}" if name == "loss" else f"{100 * value:.2f} %")
    Console().print(table)


def main() -> None:
    """The command line of ``tools/evaluate.py``."""
    parser = ArgumentParser(
        prog="evaluate", description="Score a trained model on the videos of a manifest.", allow_abbrev=False
    )
    parser.add_argument("manifest", type=Path, help="CSV file with columns path and label, and optionally pair.")
    parser.add_function_arguments(evaluate_checkpoint, skip={"manifest"}, as_group=False)
    options = parser.parse_args()
    try:
        metrics = evaluate_checkpoint(**options.as_dict())
    except (ValueError, ImportError, OSError, DecodeError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    state = join_processes()
    if state.is_main_process:
        print_metrics(f"{options.model} on {options.manifest}", metrics)
    state.destroy_process_group()
