"""The command that scores a trained model on the videos of a manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from timesformer_plus.data.containers import Limits
from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.decoders import DecodeError, DecoderName
from timesformer_plus.data.scan import SCAN_FILE
from timesformer_plus.engine.atomic_file import write_atomically
from timesformer_plus.engine.build_data import ClipRecipe, build_normalize, build_test_dataset, choose_views
from timesformer_plus.engine.build_splits import SplitReader
from timesformer_plus.engine.data_config import DataConfig, require
from timesformer_plus.engine.evaluation import Evaluation, evaluate
from timesformer_plus.engine.interrupt import exit_code, interrupts
from timesformer_plus.engine.memory import MemoryShortageError
from timesformer_plus.engine.option_names import OptionParser
from timesformer_plus.engine.processes import choose_workers, join_processes, set_threads
from timesformer_plus.engine.protocols import Average, Precision, Protocol
from timesformer_plus.engine.published import MODEL_HELP, open_model
from timesformer_plus.engine.reading_workers import WorkerError
from timesformer_plus.engine.score_tables import (
    print_classes,
    print_metrics,
    print_videos,
    scoring_bar,
    write_confusion,
)
from timesformer_plus.engine.views import Interrupted
from timesformer_plus.engine.watch import PeerFailedError, Watch

USUAL_LIMITS = Limits()
# exit code where there is a score, but videos that could not be read are in it as wrong; torchrun makes 1 of it, so
# scripts that start several processes look at "status" in the result
EXIT_UNREADABLE = 3
# errors that are told in one line, without a traceback
EXPECTED = (ValueError, ImportError, OSError, DecodeError, WorkerError, MemoryShortageError, PeerFailedError)


def evaluate_checkpoint(
    manifest: Path,
    *,
    model: str | Path,
    weights: Path | None = None,
    classes: Path | None = None,
    root: Path | None = None,
    format: str = "auto",
    target: str | None = None,
    scan: str = "auto",
    exclude: Path | None = None,
    max_missing: float = 0.0,
    protocol: str | None = None,
    num_clips: int | None = None,
    num_crops: int | None = None,
    average: Average | None = None,
    precision: Precision | None = None,
    batch_size: int = 16,
    num_workers: int | None = None,
    timeout: float = 1800.0,
    decoder: DecoderName = "auto",
    limits: Limits = USUAL_LIMITS,
    image_fps: float | None = None,
    threads: int = 0,
    world_size: int | None = None,
    output: Path | None = None,
    predictions: Path | None = None,
    confusion: Path | None = None,
) -> dict[str, Any]:
    """Score a trained model on the videos of a manifest.

    Args:
        manifest: CSV file with columns path and label, or the annotations that `format` says.
        model: Checkpoint folder, such as RUN/best or what tools/convert.py wrote, or the registered name of a published
            checkpoint, such as timesformer_base_patch16_224.fb_k400, which is then scored as its authors did.
        weights: For a registered name: a local copy of its file; null fetches it from where it was published.
        classes: For a model whose classes have no names: a file with them in their order, one a line, or a JSON object
            from name to number such as Something-Something's labels.json.
        root: Folder that the paths in the manifest are relative to; null for the manifest's own, and for a manifest
            that is a folder for that folder, or the one above it if only that one has a scan.csv.
        format: What the annotations are; see `data.format` of training.
        target: What is to be told, where a data set has several kinds of label or several splits.
        scan: What tools/scan.py has found out about the videos; those that it calls bad count as wrong, unread. auto
            reads scan.csv in `root` where there is one, none reads nothing, anything else is a path.
        exclude: File with a list of videos, one path a line, that are not scored; null for none.
        max_missing: Greatest share of the videos that may be missing; they are not scored.
        protocol: A published protocol by name, such as paper_timesformer (1 clip x 3 crops, logits summed) or videomae
            (5 x 3); null for that of training's evaluation.
        num_clips: Clips a video, evenly spaced in time; null for as many as in training's evaluation.
        num_crops: Crops a clip; null for as many as in training's evaluation.
        average: What a video's views are averaged in: probabilities, or logits; null for that of training's evaluation.
        precision: What the model computes in: fp32, bf16 or fp16 (autocast) or fp64; null for what it did in training.
        batch_size: Greatest number of clips in a forward pass, in every process.
        num_workers: Processes that read videos ahead, for every process, with one thread each; null stands for its
            share of the cores less one, at most 16, beside a GPU, and for 0 on the CPU.
        timeout: Seconds without progress of any process after which the evaluation ends with an error.
        decoder: Video reader.
        limits: What a file may ask of this machine.
        image_fps: Frames a second of videos that come as folders of images or .npy arrays.
        threads: Computing threads a process; 0 for $OMP_NUM_THREADS where it is set, else the cores shared out among
            the processes of this machine.
        world_size: How many processes there have to be; null for as many as are started.
        output: JSON file to write the result to.
        predictions: File to keep the logits of every view in (.npz), which tools/rescore.py scores again.
        confusion: CSV file to write the confusion matrix to: a row for each true class, a column for each guess and one
            for videos that could not be read (single-label data only).

    Returns:
        What ``metrics.score`` says; under ``"status"`` whether the score is ``"complete"`` or ``"some unreadable"``
        videos are in it as wrong; under ``"protocol"`` how it came about; under ``"videos"`` how many of them were
        expected, found, missing, excluded and, of those found, unreadable by the scan and too short for a clip; and
        under ``"unreadable"`` the id of each that could not be read, so that it is wrong, and why. For single-label
        data ``"confusion"`` has what the videos of each class were taken for.

    Raises:
        ValueError: The model is no checkpoint or has no published recipe, the manifest, the scan or the list is
            malformed, or the manifest has other classes than the model; or a protocol is unknown or contradicted.
        UnreadableVideosError: Not one of the videos can be read; a ``DecodeError``.
        MemoryShortageError: ``batch_size`` is too large.
        WorkerError: A process that reads videos was killed, or hangs.
        PeerFailedError: Another process has failed; the message is about that one.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGUSR1 asked to stop.
    """
    require(timeout > 0, f"timeout={timeout} is not a positive number of seconds")
    state = join_processes(world_size, timeout=timeout)
    set_threads(threads)
    (network, names, recipe), notes = open_model(model, weights=weights, classes=classes)
    recipe = choose_views(recipe, protocol=protocol, num_clips=num_clips, num_crops=num_crops, average=average)
    recipe = dataclasses.replace(recipe, precision=precision or recipe.precision)
    network = network.double() if recipe.precision == "fp64" else network.float()
    require(
        confusion is None or not recipe.multi_label,
        f"confusion={confusion}: a video of several classes is taken for none; leave it out for multi-label data",
    )
    if state.is_main_process:
        for path in (output, predictions, confusion):
            _probe(path)
    # of the data's options only those that say which videos there are and how files are read
    folder = _root_of(manifest)
    data = DataConfig(
        root=folder,
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
    videos = reader.read(name, os.path.relpath(manifest, folder), names, scored=True)
    reader.check_scan(videos.samples)
    dataset = build_test_dataset(videos, recipe, data)
    if state.is_main_process:
        for line in (*notes, *reader.lines, f"{state.num_processes} process{'' if state.num_processes == 1 else 'es'}"):
            print(line)
    evaluation = _watched(
        network.to(state.device),
        dataset,
        recipe,
        batch_size,
        num_workers=choose_workers(num_workers),
        timeout=timeout,
        file=predictions,
    )
    result = {
        **evaluation.metrics,
        "status": "some unreadable" if evaluation.unreadable else "complete",
        "protocol": recipe.protocol.as_dict(),
        "videos": {**dataclasses.asdict(reader.counts[name]), "short": evaluation.short_videos},
        "unreadable": evaluation.unreadable,
        "confusion": evaluation.confusion,
    }
    if state.is_main_process:
        _print_result(f"{model} on {manifest}", result)  # before anything is written: a disk may be full by now
        if output is not None:
            write_atomically(output, json.dumps(result, indent=2) + "\n")
        if confusion is not None:
            write_confusion(confusion, evaluation.confusion, names)
    return result


def _probe(target: Path | None) -> None:
    """Find out before anything is scored that a result cannot be written where it is to go.

    Raises:
        ValueError: It cannot.
    """
    if target is None:
        return
    require(not target.is_dir(), f"{target} is a folder; give the name of a file")
    probe = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise ValueError(f"{target} cannot be written ({error.strerror}); give another place") from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _root_of(manifest: Path) -> Path:
    """Where paths begin: for a folder of videos in itself, unless the scan that knows them is that of the one above."""
    manifest = Path(os.path.abspath(manifest))  # as it is written: a link may lead anywhere
    if not manifest.is_dir():
        return manifest.parent
    is_above = not (manifest / SCAN_FILE).is_file() and (manifest.parent / SCAN_FILE).is_file()
    return manifest.parent if is_above else manifest


def _watched(
    network: nn.Module,
    dataset: VideoDataset,
    recipe: ClipRecipe,
    batch_size: int,
    *,
    num_workers: int,
    timeout: float,
    file: Path | None,
) -> Evaluation:
    """Evaluate with a bar on terminals, and with an end to it when a process hangs, dies or is told to stop."""
    state = join_processes()
    clips = math.ceil(len(dataset) * dataset.num_views / state.num_processes)
    with (
        interrupts() as interrupt,
        Watch(timeout, interrupt=interrupt, expected=(KeyboardInterrupt,)) as watch,
        scoring_bar(clips, enabled=state.is_main_process) as done,
    ):

        def on_batch(number: int) -> None:
            watch.at("scoring videos")
            done(number)

        try:
            return evaluate(
                network,
                dataset,
                build_normalize(recipe),
                protocol=recipe.protocol,
                batch_size=batch_size,
                num_workers=num_workers,
                timeout=watch.reading_timeout,
                requested=lambda: interrupt.requested,
                on_batch=on_batch,
                on_wait=lambda: watch.at("waiting for the scores of the others", waits=True),
                predictions=file,
            )
        except Interrupted:
            raise KeyboardInterrupt(interrupt.signal) from None


def main() -> None:
    """The command line of ``tools/evaluate.py``."""
    parser = OptionParser(
        prog="evaluate", description="Score a trained model on the videos of a manifest.", allow_abbrev=False
    )
    parser.add_argument("manifest", type=Path, help="CSV file with columns path and label, and optionally pair.")
    parser.add_function_arguments(evaluate_checkpoint, skip={"manifest", "model"}, as_group=False)
    parser.add_argument("--model", type=str, required=True, help=MODEL_HELP)
    options = parser.parse_args()
    try:
        options = parser.instantiate(options)
    except ValueError as error:
        parser.error(str(error))
    code = 0
    try:
        result = evaluate_checkpoint(**options.as_dict())
        code = EXIT_UNREADABLE if result["unreadable"] else 0
        # all end together and alike: a launcher ends those that are left when the first one fails
        join_processes().wait_for_everyone()
    except KeyboardInterrupt as stop:
        sys.stderr.write("interrupted: there is no score\n")
        code = exit_code(stop)
    except EXPECTED as error:
        # one write a line: the processes share a terminal
        sys.stderr.write(f"error: {error}\n")
        code = 1
    finally:
        PartialState().destroy_process_group()
    sys.exit(code)


def _print_result(title: str, result: dict[str, Any]) -> None:
    result = dict(result)
    protocol, videos, unreadable = (result.pop(key) for key in ("protocol", "videos", "unreadable"))
    confusion, _ = result.pop("confusion"), result.pop("status")
    if confusion:
        del result["per_class"]  # the table of the classes says more
    print_metrics(title, result)
    print_classes(confusion)
    print(f"protocol {Protocol.from_dict(protocol)}")
    print_videos(videos, unreadable)
