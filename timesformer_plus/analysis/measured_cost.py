"""What a model costs by the clock and by the memory it takes, on the machine at hand.

Models are timed in turn: each round runs every one of them once, so that a machine that slows down or speeds up on the
way (clock, neighbours) does so for all; the median over the rounds forgets the odd interruption.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import timm
import torch
from torch import Tensor, nn

from .counted_cost import MEGABYTE, Cost, clip_shape, measure_cost
from .passes import Inference, Training
from .resident_memory import Peaks, measure_resident

Memory = Literal["allocator", "resident set", ""]

BATCH_SIZE = 8
REPEATS = 11
TRAINING_REPEATS = 5
WARMUP = 2


@dataclass(frozen=True)
class Speed:
    """What was measured of a model, and on what. Numbers that were not taken are None.

    Attributes:
        clips_per_second: Clip views a second in inference: batch size over the median time of a forward pass.
        batch_size: Clip views a pass.
        repeats: Timed forward passes; of training steps there are fewer.
        threads: Threads torch computed with; on a GPU they only feed it.
        device: Name of the processor or GPU.
        latency_ms: Median milliseconds of a forward pass over one clip view.
        train_clips_per_second: Clip views a second in training: forward, backward, AdamW, in single precision.
        peak_memory_mb: 10^6 bytes at the peak of a forward pass over a batch, the model included.
        train_peak_memory_mb: The same of a training step, with gradients and the optimizer's state.
        memory: What the peaks are: of the GPU's ``"allocator"``, or by how much the ``"resident set"`` of a fresh
            process grows (see ``resident_memory``); empty where none was taken.
    """

    clips_per_second: float
    batch_size: int
    repeats: int
    threads: int
    device: str
    latency_ms: float | None = None
    train_clips_per_second: float | None = None
    peak_memory_mb: float | None = None
    train_peak_memory_mb: float | None = None
    memory: Memory = ""


class CostError(RuntimeError):
    """Not everything could be measured.

    Attributes:
        measured: Name -> cost and speed, of those models of which the speed in inference is known.
        failures: Name -> why something, or all, is missing.
    """

    def __init__(self, measured: Mapping[str, tuple[Cost, Speed]], failures: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {why}" for name, why in failures.items()))
        self.measured, self.failures = dict(measured), dict(failures)


def measure_speed(
    models: Mapping[str, nn.Module],
    *,
    clip: tuple[int, int, int, int] | None = None,
    batch_size: int = BATCH_SIZE,
    repeats: int = REPEATS,
    warmup: int = WARMUP,
    threads: int | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Speed]:
    """Time the forward passes of several models in turn.

    Args:
        models: Name -> model. Moved to ``device`` and put back in its mode afterwards.
        clip: Shape of a clip view, such as (C, T, H, W); None takes what each model was built for.
        batch_size: Clip views a forward pass.
        repeats: Timed rounds.
        warmup: Rounds before them that are not timed.
        threads: Threads to compute with; None keeps torch's present number.
        device: Where to run.

    Returns:
        Name -> speed, in the order given.

    Raises:
        ValueError: ``batch_size`` or ``repeats`` below 1, ``warmup`` below 0, or a clip shape is missing.
        Exception: Whatever a model raises.
    """
    if batch_size < 1 or repeats < 1 or warmup < 0:
        raise ValueError(f"need {batch_size=} >= 1, {repeats=} >= 1 and {warmup=} >= 0")
    device = torch.device(device)
    with _threads(threads) as used:
        passes = {
            name: Inference(model.to(device), torch.randn(batch_size, *(clip or clip_shape(model)), device=device)).run
            for name, model in models.items()
        }
        seconds, failures = _take_turns(passes, device, repeats=repeats, warmup=warmup)
    for error in failures.values():
        raise error
    where = device_name(device)
    return {name: Speed(batch_size / median, batch_size, repeats, used, where) for name, median in seconds.items()}


def measure_saved_models(
    folders: Mapping[str, Path], threads: int, *, device: str | torch.device | None = None
) -> dict[str, tuple[Cost, Speed]]:
    """Count, time and watch the memory of models that training has saved.

    Args:
        folders: Name -> folder in timm's ``local-dir:`` form.
        threads: Threads to compute with.
        device: Where to run; None takes the GPU if there is one, else the CPU.

    Returns:
        Name -> cost and speed, timed side by side.

    Raises:
        CostError: Something could not be measured. It holds all that could.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    failures: dict[str, list[str]] = {}

    def note(errors: Mapping[str, Exception | str], what: str) -> None:
        for name, error in errors.items():
            why = error if isinstance(error, str) else " ".join(f"{type(error).__name__}: {error}".split())
            failures.setdefault(name, []).append(f"{what}: {why}")

    models: dict[str, nn.Module] = {}
    costs: dict[str, Cost] = {}
    for name, folder in folders.items():
        try:
            model = timm.create_model(f"local-dir:{folder}")
            costs[name] = measure_cost(model, activations=True)
            models[name] = model
        except Exception as error:  # noqa: PERF203  # of whatever kind: the others hang on it
            note({name: error}, "loading and counting")
    peaks, errors = _peaks({name: folders[name] for name in models}, models, device, threads)
    note(errors, "memory")
    with _threads(threads):
        clips = {name: torch.randn(BATCH_SIZE, *clip_shape(model), device=device) for name, model in models.items()}
        kinds: list[tuple[str, dict[str, Callable[[], None]], int]] = [
            (
                "inference",
                {name: Inference(model.to(device), clips[name]).run for name, model in models.items()},
                REPEATS,
            ),
            ("latency", {name: Inference(model, clips[name][:1]).run for name, model in models.items()}, REPEATS),
            ("training", {name: Training(model, clips[name]).run for name, model in models.items()}, TRAINING_REPEATS),
        ]
        seconds: dict[str, dict[str, float]] = {}
        for what, passes, repeats in kinds:
            seconds[what], raised = _take_turns(passes, device, repeats=repeats, warmup=WARMUP)
            note(raised, what)
    measured = {}
    for name, median in seconds["inference"].items():
        speed = Speed(BATCH_SIZE / median, BATCH_SIZE, REPEATS, threads, device_name(device))
        if name in seconds["latency"]:
            speed = replace(speed, latency_ms=1e3 * seconds["latency"][name])
        if name in seconds["training"]:
            speed = replace(speed, train_clips_per_second=BATCH_SIZE / seconds["training"][name])
        if name in peaks:
            speed = replace(
                speed,
                peak_memory_mb=peaks[name].inference_mb,
                train_peak_memory_mb=peaks[name].training_mb,
                memory="allocator" if device.type == "cuda" else "resident set",
            )
        measured[name] = (costs[name], speed)
    if failures:
        raise CostError(measured, {name: "; ".join(reasons) for name, reasons in failures.items()})
    return measured


def device_name(device: str | torch.device = "cpu") -> str:
    """Name of the processor or GPU as its maker writes it, e.g. ``"NVIDIA H100 80GB HBM3"``."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on most Linux systems
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def _peaks(
    folders: Mapping[str, Path], models: Mapping[str, nn.Module], device: torch.device, threads: int
) -> tuple[dict[str, Peaks], Mapping[str, Exception | str]]:
    """Peak memory of the models, and why there is none of others."""
    if device.type != "cuda":
        return measure_resident(folders, batch_size=BATCH_SIZE, threads=threads)
    peaks: dict[str, Peaks] = {}
    errors: dict[str, Exception | str] = {}
    for name, model in models.items():
        try:
            peaks[name] = _allocated(model, device)
        except Exception as error:  # noqa: PERF203
            errors[name] = error
        finally:
            model.to("cpu")
    return peaks, errors


def _allocated(model: nn.Module, device: torch.device) -> Peaks:
    """Peaks of the GPU's allocator, over what it held before the model came."""
    before = torch.cuda.memory_allocated(device)
    clips: Tensor = torch.randn(BATCH_SIZE, *clip_shape(model), device=device)
    model.to(device)

    def peak(run: Callable[[], None]) -> float:
        run()  # libraries ask for their working space once
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MEGABYTE

    return Peaks(peak(Inference(model, clips).run), peak(Training(model, clips).run))


def _take_turns(
    passes: Mapping[str, Callable[[], None]], device: torch.device, *, repeats: int, warmup: int
) -> tuple[dict[str, float], dict[str, Exception]]:
    """Median seconds of each pass over rounds of all; a pass that raises is left out of the rounds that follow."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    failures: dict[str, Exception] = {}
    for round_ in range(warmup + repeats):
        for name, run in passes.items():
            if name in failures:
                continue
            try:
                elapsed = _time(run, device)
            except Exception as error:
                failures[name] = error
                continue
            if round_ >= warmup:
                seconds[name].append(elapsed)
    return {name: statistics.median(times) for name, times in seconds.items() if name not in failures}, failures


def _time(run: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@contextmanager
def _threads(threads: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
