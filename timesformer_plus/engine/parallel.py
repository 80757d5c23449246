"""How a training is spread over processes: alone, DDP, or FSDP2, as accelerate's own configuration says.

Nothing here decides numbers: an update is the same global batch however many processes share it and whether they keep
whole weights (DDP) or shards of them (FSDP2).
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType, DynamoBackend, str_to_bool
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Prepared(NamedTuple):
    """A network and an optimizer that belong to each other, ready for training."""

    model: nn.Module
    optimizer: Any


class Parallel:
    """What depends on how processes share a training, behind one set of words.

    Which way it is comes from accelerate: ``accelerate launch --config_file configs/accelerate/fsdp2.yaml``, or the
    variables that it sets (``ACCELERATE_USE_FSDP=true FSDP_VERSION=2``) under torchrun. Without them several processes
    are DDP.

    Args:
        accelerator: Made after the processes have joined.

    Raises:
        ValueError: accelerate is configured for something that this engine does not do, or for what the recipe says:
            FSDP1, DeepSpeed, Megatron, tensor or context parallelism, accumulation, precision, torch.compile,
            activation checkpointing.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        _refuse_foreign(accelerator)
        _refuse_recipe_options(accelerator)
        self.is_sharded = _wants_fsdp() and accelerator.num_processes > 1
        if self.is_sharded:
            _set_up_sharding(accelerator)
        self._skeleton: nn.Module | None = None

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Prepared:
        """Make a network and its optimizer ready: move, wrap (DDP) or shard in place (FSDP2).

        Args:
            network: Built alike in every process; sharded in place where ``is_sharded``, so that it can then no longer
                be saved or evaluated by itself: see ``plain``.
            optimizer: That of its parameters; it has not made a step yet.

        Returns:
            What to train with. The schedule is not prepared: accelerate would step it once for every process.
        """
        if self.is_sharded:
            self._skeleton = _without_weights(network)
        return Prepared(*self.accelerator.prepare(network, optimizer))

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Within it backward passes add up gradients in their process; for all but the last micro-batch."""
        context: contextlib.AbstractContextManager[None] = self.accelerator.no_sync(model)
        return context

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss; outside of ``no_sync`` it becomes the mean over the processes."""
        self.accelerator.backward(loss)

    def clip_grad_norm(self, model: nn.Module, max_norm: float | None = None) -> float:
        """Scale the gradient down to ``max_norm``, if it is longer.

        Args:
            model: As ``prepare`` returned it.
            max_norm: Greatest norm; ``None`` to only measure.

        Returns:
            The norm before, over all parameters and shards: the same in every process; not finite if a gradient is not.
        """
        norm = self.accelerator.clip_grad_norm_(model.parameters(), math.inf if max_norm is None else max_norm)
        return float(_whole(norm))

    def average(self, model: nn.Module, *, decay: float, warmup: bool = False) -> ModelEmaV3:
        """A moving average of the weights (timm's), of the shards where these are sharded.

        Args:
            model: As ``prepare`` returned it; its weights of now are the beginning.
            decay: Share of the average that stays at each update.
            warmup: Let the decay grow from 0 over the first updates.

        Returns:
            To be updated by ``average.update(network_of(model), step)``. Its ``module`` holds the weights for
            ``full_weights`` and ``plain``; where sharded it cannot be called.
        """
        network = network_of(model)
        return ModelEmaV3(self._shell_of(network) if self.is_sharded else network, decay=decay, use_warmup=warmup)

    def full_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The whole state of a model, on the CPU and complete in every process.

        Where sharded all processes have to call it: they send each other their shards.

        Args:
            model: As ``prepare`` returned it, or the ``module`` of its ``average``.

        Returns:
            Copies, under the names and in the order of the network's own ``state_dict``.
        """
        state = network_of(model).state_dict()
        return {name: _whole(value.detach()).to("cpu", copy=True) for name, value in state.items()}

    def plain(self, model: nn.Module) -> nn.Module:
        """A network to evaluate or save in this process alone.

        Where sharded, a whole copy of the weights of now on this process's device; all processes have to call it, and
        it needs the memory of the whole network. Otherwise the network itself.

        Args:
            model: As ``prepare`` returned it, or the ``module`` of its ``average``.
        """
        if not self.is_sharded:
            return network_of(model)
        assert self._skeleton is not None, "prepare comes first"
        whole = copy.deepcopy(self._skeleton)
        whole.load_state_dict(self.full_weights(model), strict=True, assign=True)
        return whole.to(self.accelerator.device).train(model.training)

    def describe(self, *, batch_size: int, accumulate: int) -> str:
        """One line for people: how many processes, how they share, and what becomes of the global batch.

        Args:
            batch_size: Clips an update, over all processes.
            accumulate: Micro-batches an update.
        """
        processes = self.accelerator.num_processes
        alone = ", nothing to shard" if _wants_fsdp() else ""
        shared = f"{'FSDP2' if self.is_sharded else 'DDP'} on {_backend()}" if processes > 1 else ""
        counted = f"1 process{alone}" if processes == 1 else f"{processes} processes, {shared}"
        micro = batch_size / (processes * accumulate)
        size = f"{micro:g}" if micro.is_integer() else f"{micro:.1f} on average"
        return f"{counted}, {batch_size} clips an update = {processes} x {accumulate} micro-batches x {size}"

    def _shell_of(self, network: nn.Module) -> nn.Module:
        """A module that holds copies of the shards of ``network`` and does nothing with them."""
        # a sharded module refuses to be copied, so its shards go into a copy that was made before
        assert self._skeleton is not None, "prepare comes first"
        shell = copy.deepcopy(self._skeleton)
        shell.load_state_dict({k: v.detach().clone() for k, v in network.state_dict().items()}, assign=True)
        return shell.requires_grad_(False)


def network_of(model: nn.Module) -> nn.Module:
    """The network itself, without DDP's wrapper and torch.compile's."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    inner = getattr(model, "_orig_mod", model)  # what torch.compile(model) returns
    assert isinstance(inner, nn.Module)
    return inner


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _backend() -> str:
    return str(torch.distributed.get_backend())


def _without_weights(network: nn.Module) -> nn.Module:
    """A copy whose parameters take no memory; buffers are copied, as those outside of the state dict are not loaded."""
    empty: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in network.parameters()
    }
    return copy.deepcopy(network, empty)


def _wants_fsdp() -> bool:
    return bool(str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")))


def _refuse_foreign(accelerator: Accelerator) -> None:
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA):
        raise ValueError(
            f"accelerate is configured for {kind.value}, which this engine has not been made for; use DDP or FSDP2 "
            "(configs/accelerate/)"
        )
    if getattr(accelerator, "parallelism_config", None) is not None:
        raise ValueError(
            "accelerate is configured with a parallelism_config (tensor, context or hybrid parallelism), under which "
            "some processes would read the same clips; remove it: every process reads its own share of a batch here"
        )


def _refuse_recipe_options(accelerator: Accelerator) -> None:
    # accelerate's configuration can say these too: two answers to one question, of which one would be dropped silently
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"accelerate is configured with gradient_accumulation_steps={accelerator.gradient_accumulation_steps}, "
            "which would scale the loss; remove it there and set `accumulate` in the recipe"
        )
    wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if wanted not in ("no", accelerator.mixed_precision):
        raise ValueError(
            f"accelerate is configured with mixed_precision={wanted}, the recipe with "
            f"{accelerator.mixed_precision.replace('no', 'none')}; set mixed_precision: 'no' there and `precision` in "
            "the recipe"
        )
    if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        raise ValueError(
            "accelerate is configured with torch.compile (dynamo); remove it there and set `compile` in the recipe"
        )


def _set_up_sharding(accelerator: Accelerator) -> None:
    """Check accelerate's FSDP settings and put them to use, also where accelerate drops them."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
    version = getattr(plugin, "fsdp_version", 1)  # accelerate before 1.6 knows no other
    refusals: dict[str, Callable[[], bool]] = {
        "fsdp_version: 2 (FSDP1 is not supported; FSDP2 needs accelerate 1.6)": lambda: version != 2,
        "fsdp_activation_checkpointing: false, and `grad_checkpointing: true` in the recipe": (
            lambda: bool(plugin.activation_checkpointing)
        ),
        "no fsdp_ignored_modules: gradients of what is not sharded would not be shared": (
            lambda: plugin.ignored_modules is not None
        ),
    }
    for fix, applies in refusals.items():
        if applies():
            raise ValueError(f"accelerate's FSDP configuration does not fit this engine; set {fix}")
    if accelerator.mixed_precision in HALF:
        # accelerate would also add up gradients in half precision, whose sum depends on how many processes share it
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=HALF[accelerator.mixed_precision], reduce_dtype=torch.float32, output_dtype=torch.float32
        )
    # on the CPU accelerate reads these settings and then trains with plain DDP, without a word. Told that it is FSDP
    # it does there what it does on GPUs: torch's fully_shard runs on gloo.
    accelerator.state.fsdp_plugin = plugin
    # accelerate copies the one into the other whenever it looks
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
