"""Score a model on a split: several views a video, every video exactly once, on any number of processes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from timesformer_plus.data.containers import Limits
from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.decoders import DecodeError, DecoderName
from timesformer_plus.data.transforms import Normalize
from timesformer_plus.engine.batches import EvaluationBatches
from timesformer_plus.engine.build_data import build_normalize, build_test_dataset
from timesformer_plus.engine.build_splits import SplitReader
from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.clip_loading import UnreadableVideosError, read_batches
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.metrics import Metrics, score
from timesformer_plus.engine.processes import join_processes, set_threads

USUAL_LIMITS = Limits()


@dataclass(frozen=True)
class Predictions:
    """What a model says about every video of a manifest, in the manifest's order.

    Attributes:
        ids: Names of the N videos.
        probabilities: Mean over the views, float64, (N, K).
        targets: Class indices (N,), or for multi-label data 0 and 1, (N, K).
        short: Whether a view of the video is of a clip that it was too short for, bool, (N,).
    """

    ids: tuple[str, ...]
    probabilities: Tensor
    targets: Tensor
    short: Tensor


class Evaluation(NamedTuple):
    """What there is to say about a model on a data set.

    Attributes:
        metrics: See ``metrics.score``.
        short_videos: Videos that were too short for a clip, so that frames came again.
    """

    metrics: Metrics
    short_videos: int


class _Share(NamedTuple):
    """What a process found out about its videos, by their index."""

    probabilities: dict[int, list[float]]
    short: set[int]
    unread: dict[int, DecodeError | OSError]


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
    takes every ``world_size``-th video, without padding; results travel with the videos' indices and are gathered once,
    so the answer does not depend on the number of processes, nor on how it divides the number of videos.

    A video that cannot be read does not end the reading: all of them are named at the end, by every process.

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
        UnreadableVideosError: Videos cannot be read, in this or another process; a ``DecodeError``.
        ValueError: ``batch_size`` is below one.
    """
    state = join_processes()
    keys = EvaluationBatches(
        len(dataset),
        dataset.num_views,
        batch_size=batch_size,
        rank=state.process_index,
        world_size=state.num_processes,
    )
    was_training = model.training
    model.eval()
    share = _score_share(model, dataset, normalize, keys, num_workers, on_batch)
    model.train(was_training)
    shares: list[_Share] = gather_object([share])
    samples = dataset.manifest.samples
    unread = {index: error for share in shares for index, error in share.unread.items()}
    if unread:
        raise UnreadableVideosError({samples[index].id: unread[index] for index in sorted(unread)}, len(samples))
    probabilities = {index: row for share in shares for index, row in share.probabilities.items()}
    short = {index for share in shares for index in share.short}
    return Predictions(
        ids=tuple(sample.id for sample in samples),
        probabilities=torch.tensor([probabilities[index] for index in range(len(samples))], dtype=torch.float64),
        targets=torch.tensor([sample.label for sample in samples]),
        short=torch.tensor([index in short for index in range(len(samples))]),
    )


@torch.no_grad()
def _score_share(
    model: nn.Module,
    dataset: VideoDataset,
    normalize: Normalize,
    keys: EvaluationBatches,
    num_workers: int,
    on_batch: Callable[[int], None] | None,
) -> _Share:
    weight = next(model.parameters())
    sums: dict[int, Tensor] = {}
    short: set[int] = set()
    unread: dict[int, DecodeError | OSError] = {}
    for clips, failures in read_batches(dataset, keys, num_workers=num_workers):
        for failure in failures:
            unread.setdefault(failure.key[1], failure.error)
        if clips is not None and not unread:  # else the others are read only to name all that cannot be
            # parameters are float64 or float32; autocast is inside the model's forward where it is on
            logits = model(normalize(clips.video.to(weight.device), weight.dtype)).double()
            probabilities = logits.sigmoid() if dataset.manifest.multi_label else logits.softmax(dim=-1)
            indices: list[int] = clips.index.tolist()  # type: ignore[attr-defined]  # collated: one number a clip
            for index, row in zip(indices, probabilities.cpu(), strict=True):
                sums[index] = sums[index] + row if index in sums else row
            shorts: list[bool] = clips.short.tolist()  # type: ignore[attr-defined]
            short |= {index for index, is_short in zip(indices, shorts, strict=True) if is_short}
        if on_batch is not None:
            on_batch(len(failures) + (0 if clips is None else len(clips.video)))
    return _Share({index: (total / dataset.num_views).tolist() for index, total in sums.items()}, short, unread)


def evaluate(
    model: nn.Module,
    dataset: VideoDataset,
    normalize: Normalize,
    *,
    batch_size: int,
    num_workers: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score a model on a data set; see ``predict_views`` for the arguments and what it raises."""
    predictions = predict_views(
        model, dataset, normalize, batch_size=batch_size, num_workers=num_workers, on_batch=on_batch
    )
    metrics = score(
        predictions.probabilities,
        predictions.targets,
        classes=dataset.manifest.classes,
        pairs=[sample.pair for sample in dataset.manifest.samples],
    )
    return Evaluation(metrics, int(predictions.short.sum()))


def evaluate_checkpoint(
    manifest: Path,
    *,
    model: Path,
    root: Path | None = None,
    format: str = "auto",
    target: str | None = None,
    scan: str = "auto",
    exclude: Path | None = None,
    max_missing: float = 0.0,
    num_clips: int | None = None,
    num_crops: int | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    decoder: DecoderName = "auto",
    limits: Limits = USUAL_LIMITS,
    image_fps: float | None = None,
    threads: int = 0,
    output: Path | None = None,
) -> dict[str, Any]:
    """Score a trained model on the videos of a manifest.

    Args:
        manifest: CSV file with columns path and label, or the annotations that `format` says.
        model: Checkpoint folder, such as RUN/best.
        root: Folder that the paths in the manifest are relative to; null for the manifest's own.
        format: What the annotations are; see `data.format` of training.
        target: What is to be told, where a data set has several kinds of label or several splits.
        scan: What tools/scan.py has found out about the videos; those that it calls bad are not scored. auto reads
            scan.csv in `root` where there is one, none reads nothing, anything else is a path.
        exclude: File with a list of videos, one path a line, that are not scored; null for none.
        max_missing: Greatest share of the videos that may be missing, or unreadable by the scan; they are not scored.
        num_clips: Clips a video, evenly spaced in time; null for as many as in training's evaluation.
        num_crops: Crops a clip; null for as many as in training's evaluation.
        batch_size: Clips a forward pass, in every process.
        num_workers: Processes that read videos ahead, in every process.
        decoder: Video reader.
        limits: What a file may ask of this machine.
        image_fps: Frames a second of videos that come as folders of images or .npy arrays.
        threads: Computing threads a process; 0 for $OMP_NUM_THREADS where it is set, else the cores shared out among
            the processes of this machine.
        output: JSON file to write the result to.

    Returns:
        What ``metrics.score`` says; and under ``"videos"`` how many of them were expected, found, missing, unreadable
        by the scan, excluded and, of those found, too short for a clip.

    Raises:
        ValueError: The folder is not a checkpoint, the manifest, the scan or the list is malformed, or the manifest has
            other classes than the model.
        UnreadableVideosError: Videos cannot be read; a ``DecodeError``.
    """
    state = join_processes()
    set_threads(threads)
    network, classes, recipe = load_checkpoint(model, num_clips=num_clips, num_crops=num_crops)
    # of the data's options only those that say which videos there are and how files are read
    data = DataConfig(
        root=manifest.parent,
        videos=None if root is None else root.absolute(),
        format=format,
        target=target,
        multi_label=recipe.multi_label,
        max_missing=max_missing,
        scan=scan,
        exclude=exclude,
        decoder=decoder,
        limits=limits,
        image_fps=image_fps,
    )
    reader = SplitReader(data)
    name = str(manifest)
    videos = reader.read(name, manifest.name, classes)
    reader.check_scan(videos.samples)
    dataset = build_test_dataset(videos, recipe, data)
    if state.is_main_process:
        for line in reader.lines:
            print(line)
    metrics, short = evaluate(
        network.to(state.device), dataset, build_normalize(recipe), batch_size=batch_size, num_workers=num_workers
    )
    result = {**metrics, "videos": {**dataclasses.asdict(reader.counts[name]), "short": short}}
    if output is not None and state.is_main_process:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
    return result


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


def print_videos(counts: Mapping[str, int]) -> None:
    """Print what became of the videos, a line for each of the counts that ``evaluate_checkpoint`` returns."""
    explained = {
        "missing": "not there, not scored",
        "unreadable": "by the scan, not scored",
        "excluded": "by the list, not scored",
        "short": "scored, but with frames that come again",
    }
    for name, count in counts.items():
        print(f"videos {name}: {count}" + (f" ({explained[name]})" if count and name in explained else ""))


def main() -> None:
    """The command line of ``tools/evaluate.py``."""
    parser = ArgumentParser(
        prog="evaluate", description="Score a trained model on the videos of a manifest.", allow_abbrev=False
    )
    parser.add_argument("manifest", type=Path, help="CSV file with columns path and label, and optionally pair.")
    parser.add_function_arguments(evaluate_checkpoint, skip={"manifest"}, as_group=False)
    options = parser.parse_args()
    try:
        options = parser.instantiate(options)
    except ValueError as error:
        parser.error(str(error))
    try:
        result = evaluate_checkpoint(**options.as_dict())
        if join_processes().is_main_process:
            videos = result.pop("videos")
            print_metrics(f"{options.model} on {options.manifest}", result)
            print_videos(videos)
    except (ValueError, ImportError, OSError, DecodeError) as error:
        # one write a line: the processes share a terminal
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    finally:
        PartialState().destroy_process_group()
