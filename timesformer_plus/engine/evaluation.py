"""What a model scores on a split, the same in every process: its predictions kept, and scored as they are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from accelerate.utils import broadcast_object_list
from torch import nn

from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.transforms import Normalize
from timesformer_plus.engine.memory import MemoryShortageError, is_out_of_memory
from timesformer_plus.engine.metrics import Metrics, count_confusions, score
from timesformer_plus.engine.predictions import Predictions, save_predictions
from timesformer_plus.engine.protocols import Protocol
from timesformer_plus.engine.views import predict_views


class Evaluation(NamedTuple):
    """What there is to say about a model on a data set.

    Attributes:
        metrics: See ``metrics.score``.
        short_videos: Videos that were too short for a clip, so that frames came again.
        unreadable: Id of every video that could not be read, and so is wrong -> why.
        confusion: Class -> what its videos were taken for -> how many, without zeros; ``UNREADABLE`` stands for those
            that could not be read. Empty for multi-label data.
    """

    metrics: Metrics
    short_videos: int
    unreadable: dict[str, str]
    confusion: dict[str, dict[str, int]]


def evaluate(
    model: nn.Module,
    dataset: VideoDataset,
    normalize: Normalize,
    *,
    protocol: Protocol,
    batch_size: int,
    num_workers: int = 0,
    timeout: float = 0.0,
    requested: Callable[[], bool] | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    predictions: Path | None = None,
) -> Evaluation:
    """Score a model on a data set; see ``predict_views`` for the other arguments and what else it raises.

    Args:
        model: The model.
        dataset: The videos.
        normalize: Turns a batch of their pixels into the model's input.
        protocol: How the views are cut and averaged.
        batch_size: Greatest number of clips in a forward pass, in every process.
        num_workers: Processes that read ahead, for every process.
        timeout: Seconds that workers may take for a batch; 0 waits for ever.
        requested: Whether this process is to stop.
        on_batch: Called before the first batch with 0, and with the number of clips after every one.
        on_wait: Called when this process is done with its videos and may have to wait for the others.
        predictions: File to keep every view's logits in, see ``predictions``; ``None`` for none.

    Returns:
        The same in every process; computed from the logits that are kept, in the main one.

    Raises:
        MemoryShortageError: ``batch_size`` is too large.
        OSError: ``predictions`` cannot be written.
    """
    try:
        said = predict_views(
            model,
            dataset,
            normalize,
            protocol=protocol,
            batch_size=batch_size,
            num_workers=num_workers,
            timeout=timeout,
            requested=requested,
            on_batch=on_batch,
            on_wait=on_wait,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(
            f"scoring {batch_size} clips at a time needs more memory than there is; lower evaluation.batch_size of a "
            "training, --batch_size of tools/evaluate.py"
        ) from error
    outcome: list[Evaluation | OSError | None] = [None]
    if said is not None:
        try:
            if predictions is not None:
                save_predictions(predictions, said)
            outcome = [summarise(said)]
        except OSError as error:  # a full disk, say: the other processes must not wait for a score
            outcome = [error]
    broadcast_object_list(outcome)
    (result,) = outcome
    if isinstance(result, OSError):
        raise result
    assert result is not None  # the main process has put it there
    return result


def summarise(predictions: Predictions) -> Evaluation:
    """Score what a model has said about the videos of a split."""
    probabilities, targets, scored = predictions.probabilities(), predictions.targets, predictions.scored
    metrics = score(
        probabilities,
        targets,
        classes=predictions.classes,
        pairs=predictions.pairs,
        scored=scored,
        nats=predictions.nats(),
    )
    confusion = {} if predictions.multi_label else count_confusions(probabilities, targets, predictions.classes, scored)
    return Evaluation(metrics, int(predictions.short.sum()), predictions.unreadable, confusion)
