"""What a model costs: parameters, multiply-adds, clips a second.

One multiply-add counts as one FLOP here, as in the papers of this field (ViT-B/16 is "17.6 GFLOPs" on one image); tools
that count the multiplication and the addition apart report twice as much. Counted are matrix products and convolutions,
where practically all the arithmetic is; norms, softmax, activations and additions are not. A masked product (causal
attention) counts in full, because it is computed in full.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Cost of one model on one clip view.

    Attributes:
        params: Number of parameters, the head's included.
        gflops: 10^9 multiply-adds to run one clip view forward.
    """

    params: int
    gflops: float


@dataclass(frozen=True)
class Speed:
    """Measured inference speed and what it was measured on.

    Attributes:
        clips_per_second: Clip views a second: batch size over the median time of a forward pass.
        batch_size: Clip views a forward pass.
        repeats: Timed forward passes.
        threads: Threads torch computed with; on a GPU they only feed it.
        device: Name of the processor or GPU.
    """

    clips_per_second: float
    batch_size: int
    repeats: int
    threads: int
    device: str


def clip_shape(model: nn.Module) -> tuple[int, int, int, int]:
    """Shape of the clip view that a video model was built for.

    Args:
        model: A ``VideoTransformer`` (read: ``num_frames``, ``in_chans``, ``patch_embed``).

    Returns:
        (C, T, H, W), or (T, C, H, W) where the model takes its input so.

    Raises:
        ValueError: The model does not say what it was built for.
    """
    try:
        height, width = model.patch_embed.img_size  # type: ignore[union-attr,misc]
        channels, frames = int(model.in_chans), int(model.num_frames)  # type: ignore[arg-type]
        swapped = model.patch_embed.input_format == "NTCHW"  # type: ignore[union-attr]
    except AttributeError as error:
        raise ValueError(
            f"{type(model).__name__} does not tell its clip shape ({error}); give clip=(C, T, H, W)"
        ) from None
    return (frames, channels, int(height), int(width)) if swapped else (channels, frames, int(height), int(width))


def measure_cost(model: nn.Module, clip: tuple[int, int, int, int] | None = None) -> Cost:
    """Count parameters and multiply-adds without computing anything.

    The forward pass runs on the meta device, where tensors have shapes and no data: ViT-L on 96 frames takes a second
    and no memory. The model itself may lie on any device and is left as it is.

    Args:
        model: Takes one batch of clip views.
        clip: Shape of a clip view, such as (C, T, H, W); None takes the one that the model was built for.

    Returns:
        The cost of one clip view.

    Raises:
        ValueError: ``clip`` is None and the model does not tell its clip shape.
    """
    return Cost(
        params=sum(parameter.numel() for parameter in model.parameters()),
        gflops=count_multiply_adds(model, (1, *(clip or clip_shape(model)))) / 1e9,
    )


def count_multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of one forward pass in evaluation mode.

    Args:
        model: Any module that takes one tensor.
        shape: Shape of that tensor, batch first.

    Returns:
        The number for the whole batch.
    """
    state = {name: tensor.detach().to("meta") for name, tensor in _tensors(model)}
    # Fused attention is one opaque operator that the counter does not know on every device, so that `s` and `j` would
    # look alike: the math backend spells it out as two matrix products.
    with (
        evaluating(model),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.device("meta"),
        torch.no_grad(),
    ):
        torch.func.functional_call(model, state, (torch.empty(shape),))
    flops = counter.get_total_flops()
    return int(flops) // 2


def measure_speed(
    models: Mapping[str, nn.Module],
    *,
    clip: tuple[int, int, int, int] | None = None,
    batch_size: int = 8,
    repeats: int = 11,
    warmup: int = 2,
    threads: int | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Speed]:
    """Time the forward passes of several models in turn.

    Each round times every model once, so that a machine that slows down or speeds up on the way (clock, neighbours)
    does so for all of them; the median over the rounds forgets the odd interruption.

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
    """
    if batch_size < 1 or repeats < 1 or warmup < 0:
        raise ValueError(f"need {batch_size=} >= 1, {repeats=} >= 1 and {warmup=} >= 0")
    device = torch.device(device)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with _threads(threads) as used, torch.inference_mode():
        inputs = {name: torch.randn(batch_size, *(clip or clip_shape(m)), device=device) for name, m in models.items()}
        for model in models.values():
            model.to(device)
        for round_ in range(warmup + repeats):
            for name, model in models.items():
                with evaluating(model):
                    elapsed = _time_forward(model, inputs[name], device)
                if round_ >= warmup:
                    seconds[name].append(elapsed)
    where = device_name(device)
    return {
        name: Speed(batch_size / statistics.median(times), batch_size, repeats, used, where)
        for name, times in seconds.items()
    }


def measure_saved_models(folders: Mapping[str, Path], threads: int) -> dict[str, tuple[Cost, Speed]]:
    """Count and time models that training has saved.

    Args:
        folders: Name -> folder in timm's ``local-dir:`` form.
        threads: Threads to compute with.

    Returns:
        Name -> cost and speed on the CPU, timed side by side.
    """
    models = {name: timm.create_model(f"local-dir:{folder}") for name, folder in folders.items()}
    speeds = measure_speed(models, threads=threads)
    return {name: (measure_cost(model), speeds[name]) for name, model in models.items()}


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


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _time_forward(model: nn.Module, batch: Tensor, device: torch.device) -> float:
    start = time.perf_counter()
    model(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every module of it back in its own mode afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was


@contextmanager
def _threads(threads: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
