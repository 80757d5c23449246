"""What a trained model makes of time: its scores on the clips as they are, and on the same clips altered.

    python -m timesformer_plus.analysis.time_sensitivity RUN [RUN …] [--threads N]

Nothing is trained. Every finished run gets a file ``time_sensitivity.json``:

    {"format": 1, "split": "test", "digest": HEX,
     "conditions": {"as_is": METRICS, "reversed": METRICS, "shuffled": METRICS, "repeated": METRICS, "half": METRICS}}

METRICS are those of ``engine.metrics.score``, parts and all. The conditions are those of ``engine.altered_clips``; the
views and the videos are those that the run itself was scored with. A run that has its file already is passed over, if
the file is about the same weights and the same score.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from ..engine.altered_clips import CONDITIONS, AlteredClips, Condition
from ..engine.atomic_folder import MANIFEST_FILE
from ..engine.build_data import ClipRecipe, build_normalize, build_test_dataset
from ..engine.build_splits import SplitReader
from ..engine.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint, load_checkpoint
from ..engine.config import TrainConfig
from ..engine.evaluation import evaluate
from ..engine.metrics import Metrics, headline
from ..engine.processes import choose_workers, join_processes
from ..engine.train import EVALUATION_BATCH
from .json_files import read_json, write_json
from .options import parse_options, read_options
from .runs import read_result

CONDITION_NAMES: dict[str, str] = {
    "as_is": "as they are",
    "reversed": "reversed",
    "shuffled": "shuffled",
    "repeated": "one frame, repeated",
    "half": "every second frame, twice",
}
"""What the clips of a condition are called where people read of them."""

FILE = "time_sensitivity.json"
FORMAT = 1
# metrics that are about probabilities: their last digits are the machine's, whereas a count is right or wrong
ABOUT_PROBABILITIES = ("loss", "ece")
PROBABILITY_TOLERANCE = 1e-4


class ProbeError(ValueError):
    """Some runs could not be scored on altered clips; the others have been.

    Args:
        failures: Folder of every such run -> why.
    """

    def __init__(self, failures: Mapping[Path, str]) -> None:
        super().__init__("; ".join(f"{folder}: {why}" for folder, why in failures.items()))
        self.failures = dict(failures)


def probe_runs(folders: Sequence[Path], *, threads: int, jobs: int = 1) -> None:
    """Score the models of finished runs on altered clips, and keep what they score beside them.

    Args:
        folders: Folders of runs. One that is not finished, or that has its file already, is passed over.
        threads: Threads to compute with. With another number than in training the last bits of a probability may
            differ.
        jobs: Runs at a time, each in a process of its own; 1 for this process.

    Raises:
        ProbeError: A run could not be scored; the others have been.
    """
    jobs = min(jobs, len(folders) // 2)  # a process takes longer to start than a model to score
    outcomes = _side_by_side(folders, threads, jobs) if jobs > 1 else _one_by_one(folders, threads)
    failures = {folder: why for folder, why in outcomes.items() if why}
    if failures:
        raise ProbeError(failures)


def _one_by_one(folders: Sequence[Path], threads: int) -> dict[Path, str]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return {folder: _keep(folder) for folder in folders}
    finally:
        torch.set_num_threads(before)


def _side_by_side(folders: Sequence[Path], threads: int, jobs: int) -> dict[Path, str]:
    # a server imports torch once and forks; this process may have used threads that cannot be handed on
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    outcomes: dict[Path, str] = {}
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_process, initargs=(threads,)) as pool:
        waiting = {pool.submit(_keep, folder): folder for folder in folders}
        try:
            for done in as_completed(waiting):
                error = done.exception()
                outcomes[waiting[done]] = done.result() if error is None else f"its process has ended: {error}"
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {folder: outcomes[folder] for folder in folders}


def _begin_process(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that waits
    torch.set_num_threads(threads)


def _keep(folder: Path) -> str:
    """Probe one run if that is to be done; why it could not be, empty if all is well."""
    try:
        if read_result(folder) is not None and read_sensitivity(folder) is None:
            write_json(folder / FILE, probe(folder))
    except Exception as error:  # whatever ails one run, the others are not to be lost
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def read_sensitivity(folder: Path) -> dict[str, Any] | None:
    """What ``probe_runs`` has kept of a run; None where there is nothing, or something about other weights."""
    stored = read_json(folder / FILE)
    if stored is None or stored.get("format") != FORMAT or list(stored.get("conditions", ())) != list(CONDITIONS):
        return None
    return stored if read_result(folder) is not None and stored.get("digest") == score_digest(folder) else None


def probe(folder: Path) -> dict[str, Any]:
    """Score the best model of a run on the clips as they are and altered; see the module for what it returns.

    Args:
        folder: The run's; its data has to lie where it lay in training.

    Raises:
        ValueError: The run is not finished, its model or data are not to be had, or the score on the clips as they are
            is not the one that the run has stored, so that no other score would mean anything.
    """
    if read_result(folder) is None:
        raise ValueError(f"{folder} holds no finished run; train it to its end first")
    split, stored = _scored_split(folder)
    config, checkpoint = _read_config(folder), load_checkpoint(folder / "best")
    found = {condition: _score(config, checkpoint, split, condition) for condition in CONDITIONS[:1]}
    _check_as_is(folder, split, found["as_is"], stored)
    found |= {condition: _score(config, checkpoint, split, condition) for condition in CONDITIONS[1:]}
    return {"format": FORMAT, "split": split, "digest": score_digest(folder), "conditions": found}


def drops(sensitivity: Mapping[str, Any], condition: Condition) -> dict[str, Any]:
    """How much lower every score is on altered clips, part by part.

    Args:
        sensitivity: What ``probe`` has returned.
        condition: Which clips.

    Returns:
        Metric -> score as it is minus score altered, in the nesting of the metrics (``per_class`` by class); above zero
        where altering costs accuracy. For ``loss`` and ``ece``, where less is better, it is below zero then.
    """
    conditions: Mapping[str, Mapping[str, Any]] = sensitivity["conditions"]
    return _minus(conditions["as_is"], conditions[condition])


def _minus(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _minus(value, right[name]) if isinstance(value, Mapping) else value - right[name]
        for name, value in left.items()
        if name in right
    }


def _score(config: TrainConfig, checkpoint: Checkpoint, split: str, condition: Condition) -> Metrics:
    recipe: ClipRecipe = checkpoint.recipe
    network = checkpoint.model.double() if recipe.precision == "fp64" else checkpoint.model.float()
    file = config.data.test if split == "test" else config.data.val
    assert file is not None  # a run without a test split has no score on it
    videos = SplitReader(config.data).read(split, file, checkpoint.classes, scored=True)
    return evaluate(
        network.to(join_processes().device),
        AlteredClips.of(build_test_dataset(videos, recipe, config.data), condition),
        build_normalize(recipe),
        protocol=recipe.protocol,
        # the shape of a batch has a say in the last bits, so it is that of training
        batch_size=config.evaluation.batch_size or min(EVALUATION_BATCH, config.batch_size),
        num_workers=choose_workers(config.data.num_workers),
        timeout=config.timeout,
    ).metrics


def _scored_split(folder: Path) -> tuple[str, dict[str, Any]]:
    """The split that the run's score is about, and that score."""
    result = read_result(folder) or {}
    for split in ("test", "val"):
        if result.get(split):
            return split, result[split]
    raise ValueError(f"{folder}/result.json has no score on test or val; train the run again")


def _read_config(folder: Path) -> TrainConfig:
    try:
        return parse_options(read_options(folder / "config.yaml"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder}/config.yaml is not the configuration of a run: {error}") from error


def score_digest(folder: Path) -> str:
    """What a run's file of scores is about: the weights, and the score that they were stored with."""
    hashed = hashlib.sha256()
    for name in (MANIFEST_FILE, CONFIG_FILE, WEIGHTS_FILE):
        file = folder / "best" / name
        if file.is_file():
            hashed.update(file.read_bytes())
            if name == MANIFEST_FILE:  # it has the digests of the others
                break
    split, stored = _scored_split(folder)
    hashed.update(json.dumps([FORMAT, split, stored], sort_keys=True).encode())
    return hashed.hexdigest()


def _check_as_is(folder: Path, split: str, found: Metrics, stored: Mapping[str, Any]) -> None:
    """Hold the score on the clips as they are against the run's own.

    Raises:
        ValueError: An accuracy differs at all, or a score of probabilities by more than rounding.
    """
    wrong = []
    for name in sorted(found.keys() | stored.keys()):
        new, old = found.get(name), stored.get(name)
        if name in ABOUT_PROBABILITIES and isinstance(new, float) and isinstance(old, float):
            same = math.isclose(new, old, rel_tol=PROBABILITY_TOLERANCE, abs_tol=PROBABILITY_TOLERANCE)
        else:
            same = new == old
        wrong += [] if same else [f"{name} {old} then, {new} now"]
    if wrong:
        raise ValueError(
            f"{folder}/best does not score on the {split} split what result.json says ({'; '.join(wrong[:3])}); the "
            "videos, the weights or the machine are others: train the run again here"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Probe the runs that the command line names, and print what they score.

    Returns:
        Exit status: 1 where a run could not be scored or is not finished, else 0.
    """
    parser = ArgumentParser(
        prog="python -m timesformer_plus.analysis.time_sensitivity",
        description="Score the models of finished runs on clips that are reversed, shuffled, frozen or halved.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Folder of a finished run.")
    parser.add_argument("--threads", type=int, default=1, help="Threads to compute with (default: 1).")
    options = parser.parse_args(argv)
    if options.threads < 1:
        parser.error(f"--threads {options.threads}: give at least 1")
    failures: dict[Path, str] = {}
    try:
        probe_runs(options.runs, threads=options.threads)
    except ProbeError as error:
        failures = error.failures
    for folder in options.runs:
        found = None if folder in failures else read_sensitivity(folder)
        if found is None:
            why = failures.setdefault(folder, "not finished, so it was not scored")
            sys.stderr.write(f"error: {folder}: {why}\n")
            continue
        name = headline(found["conditions"]["as_is"])
        scores = ", ".join(f"{one} {100 * found['conditions'][one][name]:.1f} %" for one in CONDITIONS)
        print(f"{folder}: {found['split']} {name}: {scores}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
