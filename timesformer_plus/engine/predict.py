"""Name what a video shows, with a trained model."""

from __future__ import annotations

import sys
from pathlib import Path

from timesformer_plus.data.containers import Limits
from timesformer_plus.data.decoders import DecodeError, DecoderName
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.engine.build_data import build_normalize, build_test_dataset, choose_views
from timesformer_plus.engine.clip_loading import UnreadableVideosError
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.evaluate import USUAL_LIMITS
from timesformer_plus.engine.option_names import OptionParser
from timesformer_plus.engine.processes import join_processes
from timesformer_plus.engine.protocols import Average
from timesformer_plus.engine.published import MODEL_HELP, open_model
from timesformer_plus.engine.views import predict_views


def predict(
    model: str | Path,
    video: Path,
    *,
    weights: Path | None = None,
    classes: Path | None = None,
    topk: int = 5,
    protocol: str | None = None,
    num_clips: int | None = None,
    num_crops: int | None = None,
    average: Average | None = None,
    batch_size: int = 16,
    decoder: DecoderName = "auto",
    limits: Limits = USUAL_LIMITS,
    image_fps: float | None = None,
) -> list[tuple[str, float]]:
    """Score one video, with the frames, size and normalisation that the model was trained with.

    Args:
        model: Checkpoint folder, such as RUN/best or what tools/convert.py wrote, or the registered name of a published
            checkpoint, such as timesformer_base_patch16_224.fb_k400.
        video: A video file, a folder of frame images, or an .npy array.
        weights: For a registered name: a local copy of its file; null fetches it from where it was published.
        classes: For a model whose classes have no names: a file with them in their order, one a line, or a JSON object
            from name to number.
        topk: How many classes to name.
        protocol: A published protocol by name, such as paper_timesformer (1 clip x 3 crops, logits summed); null for
            that of training's evaluation.
        num_clips: Clips, evenly spaced in time, that the answer is the mean of; null for as many as in training's
            evaluation.
        num_crops: Crops a clip; null for as many as in training's evaluation.
        average: What the views are averaged in: probabilities, or logits; null for that of training's evaluation.
        batch_size: Greatest number of views in a forward pass.
        decoder: Video reader: decord, pyav, torchcodec or pytorchvideo; auto is the fastest that is exact on
            every file, pyav.
        limits: What the file may ask of this machine.
        image_fps: Frames a second of a video that comes as a folder of images or an .npy array.

    Returns:
        Class names (numbers, where nobody knows names) with their probabilities in 0..1, most probable first. The
        probabilities of all classes sum to one, except those of a multi-label model, where every class has its own.

    Raises:
        ValueError: ``model`` is no checkpoint or has no published recipe, ``topk`` or a number is not positive, or the
            protocol is unknown.
        DecodeError: The video cannot be read.
        OSError: Nor can the disk.
    """
    if topk < 1:
        raise ValueError(f"{topk=} is not positive; how many classes shall be named?")
    state = join_processes()
    if state.num_processes > 1:
        raise ValueError(f"one video is no work for {state.num_processes} processes; start this without torchrun")
    (network, names, recipe), notes = open_model(model, weights=weights, classes=classes)
    for note in notes:
        sys.stderr.write(f"{note}\n")
    recipe = choose_views(recipe, protocol=protocol, num_clips=num_clips, num_crops=num_crops, average=average)
    network = network.double() if recipe.precision == "fp64" else network.float()
    unknown = (0,) * len(names) if recipe.multi_label else 0  # the true label: not looked at
    manifest = Manifest((Sample(str(video), Path(video), unknown),), names, recipe.multi_label)
    data = DataConfig(root=Path(video).parent, decoder=decoder, limits=limits, image_fps=image_fps)
    dataset = build_test_dataset(manifest, recipe, data)
    try:
        predictions = predict_views(
            network.to(state.device),
            dataset,
            build_normalize(recipe),
            protocol=recipe.protocol,
            batch_size=min(dataset.num_views, batch_size),
        )
    except UnreadableVideosError as unreadable:
        (error,) = unreadable.errors.values()  # of one video that is the whole story
        raise error from None
    assert predictions is not None  # this is the only process
    probabilities, order = predictions.probabilities()[0].sort(descending=True, stable=True)
    ranked = zip(order.tolist(), probabilities.tolist(), strict=True)
    return [(names[index], probability) for index, probability in ranked][:topk]


def print_predictions(video: Path, predictions: list[tuple[str, float]]) -> None:
    """Print predictions as a table with bars."""
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text: in a string, "[something]" in the name of a class or a file would be markup
    table = Table("class", "probability", "", title=Text(str(video), style="table.title"))
    table.columns[1].justify = "right"
    for name, probability in predictions:
        table.add_row(Text(name), f"{100 * probability:.1f} %", Bar(1.0, 0.0, probability, width=30))
    Console().print(table)


def main() -> None:
    """The command line of ``tools/predict.py``."""
    parser = OptionParser(
        prog="predict", description="Name what a video shows, with a trained model.", allow_abbrev=False
    )
    parser.add_argument("video", type=Path, help="A video file.")
    parser.add_function_arguments(predict, skip={"video", "model"}, as_group=False)
    parser.add_argument("--model", type=str, required=True, help=MODEL_HELP)
    options = parser.parse_args()
    try:
        options = parser.instantiate(options)
    except ValueError as error:
        parser.error(str(error))
    try:
        predictions = predict(**options.as_dict())
    except (ValueError, ImportError, OSError, DecodeError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    print_predictions(options.video, predictions)
