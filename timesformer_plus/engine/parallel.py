"""How a training is spread over processes: alone, DDP, or FSDP2, as accelerate's own configuration says.

Nothing here decides numbers: an update is the same global batch however many processes share it and whether they keep
whole weights (DDP) or shards of them (FSDP2).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from timesformer_plus.engine.accelerate_settings import apply_fsdp, read_fsdp, refuse_unfit

# The optimizers whose updates of shards are held against those of whole weights by a test. Of the others some stop in
# the middle of a step (Mars, NovoGrad, AdamP, SGDP, Kron, big vision's Adafactor) and some compute something else: Muon
# works in bf16 on whole matrices.
SHARDED_OPTIMIZERS = frozenset({
    "AdaBelief", "Adadelta", "Adam", "Adamax", "AdamW", "AdamWLegacy", "Adan", "Adopt", "Lamb", "Lars", "Lion",
    "MADGRAD", "NAdam", "NAdamW", "RAdam", "RMSpropTF", "SGD", "SGDW",
})  # fmt: skip


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
        refuse_unfit(accelerator)
        fsdp = read_fsdp(accelerator)
        self._wants_shards = fsdp is not None
        self.is_sharded = fsdp is not None and accelerator.num_processes > 1
        if fsdp is not None and self.is_sharded:
            apply_fsdp(accelerator, fsdp)
        self._skeleton: nn.Module | None = None

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Prepared:
        """Make a network and its optimizer ready: move, wrap (DDP) or shard in place (FSDP2).

        Args:
            network: Built alike in every process; sharded in place where ``is_sharded``, so that it can then no longer
                be saved or evaluated by itself: see ``plain``.
            optimizer: That of its parameters; it has not made a step yet.

        Returns:
            What to train with. The schedule is not prepared: accelerate would step it once for every process.

        Raises:
            ValueError: Shards cannot be updated by this optimizer as whole weights are, or accelerate's policy names a
                class of layers that the network does not have.
        """
        if self.is_sharded:
            _refuse_optimizer(optimizer)
            if self.accelerator.mixed_precision != "no":
                # accelerate does this for all but FSDP2, in which it casts weights instead; other numbers than DDP's
                network = self.accelerator.prepare_model(network, evaluation_mode=True)
            self._skeleton = _without_weights(network)
        prepared = Prepared(*self.accelerator.prepare(network, optimizer))
        if self.is_sharded and not (isinstance(network_of(prepared.model), FSDPModule) and self.accelerator.is_fsdp2):
            raise RuntimeError("accelerate was told to shard the network and did not; this version of it is not known")
        return prepared

    def rehearse(self, model: nn.Module, loss: Callable[[], Tensor]) -> None:
        """Let the first update of a resumed run add up gradients as that of one which never stopped.

        After its first backward pass DDP puts the gradients into other buckets, in the order in which they came. The
        place in a bucket decides in which order three or more processes add up, and so the last bits. Here that first
        pass is made for nothing. With fewer processes, or with FSDP2, there is nothing to do.

        Args:
            model: As ``prepare`` returned it; its weights and buffers stay what they are.
            loss: A forward pass of ``model`` in training mode, of any clips; all processes call this together.
        """
        if not isinstance(model, DistributedDataParallel) or self.accelerator.num_processes < 3:
            return
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self.backward(loss())
        model.zero_grad()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)

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
        alone = ", nothing to shard" if self._wants_shards else ""
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


def _refuse_optimizer(optimizer: torch.optim.Optimizer) -> None:
    name = type(optimizer).__name__
    cautious = any(group.get("caution") for group in optimizer.param_groups)
    if name not in SHARDED_OPTIMIZERS or cautious:
        what = f"{name} with caution" if cautious and name in SHARDED_OPTIMIZERS else name
        raise ValueError(
            f"optimizer {what} has not been shown to update shards (FSDP2) as it updates whole weights; use DDP, or "
            f"one of {', '.join(sorted(SHARDED_OPTIMIZERS))}"
        )
