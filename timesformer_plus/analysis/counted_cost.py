"""What a model costs by count, the same on every machine: parameters, multiply-adds, activations kept for training.

One multiply-add counts as one FLOP here, as in the papers of this field (ViT-B/16 is "17.6 GFLOPs" on one image); tools
that count the multiplication and the addition apart report twice as much. Counted are matrix products and convolutions,
where practically all the arithmetic is; norms, softmax, activations and additions are not. A masked product (causal
attention) counts in full, because it is computed in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

MEGABYTE = 10**6


@dataclass(frozen=True)
class Cost:
    """Cost of one model on one clip view.

    Attributes:
        params: Number of parameters, the head's included.
        gflops: 10^9 multiply-adds to run one clip view forward.
        activation_mb: 10^6 bytes that training keeps of one clip view for the backward pass (see
            ``activation_bytes``); None where they were not counted.
    """

    params: int
    gflops: float
    activation_mb: float | None = None


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


def measure_cost(model: nn.Module, clip: tuple[int, int, int, int] | None = None, *, activations: bool = False) -> Cost:
    """Count parameters and multiply-adds, and activations if asked, without computing anything.

    The forward pass runs on the meta device, where tensors have shapes and no data: ViT-L on 96 frames takes a second
    and no memory. The model itself may lie on any device and is left as it is.

    Args:
        model: Takes one batch of clip views.
        clip: Shape of a clip view, such as (C, T, H, W); None takes the one that the model was built for.
        activations: Whether to count what training keeps of a clip view too, which takes twice as long.

    Returns:
        The cost of one clip view.

    Raises:
        ValueError: ``clip`` is None and the model does not tell its clip shape.
    """
    shape = (1, *(clip or clip_shape(model)))
    return Cost(
        params=sum(parameter.numel() for parameter in model.parameters()),
        gflops=count_multiply_adds(model, shape) / 1e9,
        activation_mb=activation_bytes(model, shape) / MEGABYTE if activations else None,
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


def activation_bytes(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that a forward pass in training mode keeps for the backward pass, the weights left out.

    Every tensor that autograd saves is seen, and each piece of memory counts once however many views of it are saved;
    the clips themselves are among them. The pass runs on tensors that have shapes and no data and pretend to lie on
    the CPU, so that attention is the fused one that training uses there (queries, keys, values, output and a number a
    query; no attention matrix). In single precision: mixed precision keeps about half. What activation checkpointing
    holds on to by itself is not seen.

    Args:
        model: Any module that takes one tensor; left as it is, its gradients too.
        shape: Shape of that tensor, batch first.

    Returns:
        The number for the whole batch.
    """
    kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no two share an address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad():
        state = {
            name: torch.empty_like(tensor, device="cpu").requires_grad_(tensor.requires_grad)
            for name, tensor in _tensors(model)
        }
        with in_mode(model, training=True), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = torch.func.functional_call(model, state, (torch.empty(shape),))
        for tensor in state.values():
            kept.pop(tensor.untyped_storage()._cdata, None)
        size = sum(storage.nbytes() for storage in kept.values())
        del output  # the graph, and with it what it kept, has lived until here
    return size


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model in training or evaluation mode, and every module of it back in its own mode afterwards."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every module of it back in its own mode afterwards."""
    with in_mode(model, training=False):
        yield
