"""What accelerate's own configuration says about a training, and whether this engine does that.

accelerate reads a file (``accelerate launch --config_file``) or variables of the environment. Some of what can be set
there it drops without a word, and some is also an option of a recipe: whatever would not happen as it is written is
refused here.
"""

from __future__ import annotations

import os

import accelerate
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType, DynamoBackend, compare_versions, is_torch_version, str_to_bool
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

OTHER_ENGINES = {"DeepSpeed": "ACCELERATE_USE_DEEPSPEED", "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM"}


def refuse_unfit(accelerator: Accelerator) -> None:
    """Refuse ways of working together, and answers to questions, that are not accelerate's to give.

    Raises:
        ValueError: accelerate is configured for DeepSpeed, Megatron or tensor, context or hybrid parallelism; or for an
            accumulation, precision or torch.compile that is not the recipe's.
    """
    for engine, variable in {
        "DeepSpeed": "ACCELERATE_USE_DEEPSPEED",
        "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM",
    }.items():
        if _is_on(variable):
            raise ValueError(
                f"accelerate is configured for {engine}, which this engine has not been made for; use DDP or FSDP2 "
                "(configs/accelerate/)"
            )
    if getattr(accelerator, "parallelism_config", None) is not None:  # accelerate before 1.10 has none
        raise ValueError(
            "accelerate is configured with a parallelism_config (tensor, context or hybrid parallelism), under which "
            "some processes would read the same clips; remove it: every process reads its own share of a batch here"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"accelerate is configured with gradient_accumulation_steps={accelerator.gradient_accumulation_steps}, "
            "which would scale the loss; remove it there and set `accumulate` in the recipe"
        )
    wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if wanted not in ("no", accelerator.mixed_precision):
        raise ValueError(
            f"accelerate is configured with mixed_precision={wanted}, which is not the recipe's; set "
            f"mixed_precision: 'no' there, and `precision: {wanted}` in the recipe if it is meant"
        )
    if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        raise ValueError(
            "accelerate is configured with torch.compile (dynamo); remove it there and set `compile` in the recipe"
        )


def read_fsdp(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """Read and check accelerate's settings for FSDP2.

    Returns:
        ``None`` if it is not configured for FSDP.

    Raises:
        ValueError: The settings, or the versions of torch and accelerate, do not fit.
    """
    if not _is_on("ACCELERATE_USE_FSDP"):
        return None
    if is_torch_version("<", "2.9"):
        raise ValueError(f"FSDP2 needs torch 2.9, which can write shards without pickles; here is {torch.__version__}")
    if compare_versions("accelerate", "<", "1.7"):  # 1.6 has FSDP2 for some policies only
        raise ValueError(f"FSDP2 needs accelerate 1.7; here is {accelerate.__version__}")
    plugin = getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
    # `accelerate launch` sets this unasked; it is for weights that only one process has read, and works with models of
    # transformers only. Here every process makes the same network.
    plugin.cpu_ram_efficient_loading = False
    policy = getattr(plugin.auto_wrap_policy, "func", plugin.auto_wrap_policy)
    on_cpu = accelerator.device.type == "cpu"
    refusals = {
        "fsdp_version: 2 (FSDP1 is not supported)": plugin.fsdp_version != 2,
        "fsdp_activation_checkpointing: false there, and grad_checkpointing: true in the recipe": (
            plugin.activation_checkpointing
        ),
        "no fsdp_ignored_modules: gradients of what is not sharded would not be shared": (
            plugin.ignored_modules is not None
        ),
        "fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP (by size it cuts where torch warns of wrong gradients)": (
            policy is size_based_auto_wrap_policy
        ),
        "fsdp_offload_params: false: the weights are on the CPU already": (
            on_cpu and isinstance(plugin.cpu_offload, CPUOffloadPolicy)
        ),
        "distributed_type: MULTI_GPU: torch would put shards on this machine's GPU, on which training does not run": (
            on_cpu and torch.accelerator.is_available()
        ),
    }
    for fix, applies in refusals.items():
        if applies:
            raise ValueError(f"accelerate's FSDP configuration does not fit this engine; set {fix}")
    return plugin


def apply_fsdp(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Make accelerate do what the settings say, also on the CPU, where it reads them and then trains with plain DDP.

    Args:
        accelerator: Becomes one of FSDP2: what it prepares is sharded.
        plugin: Settings as ``read_fsdp`` returned them.
    """
    # accelerate would keep weights, activations and sums of gradients in half precision here, and only here: `Parallel`
    # does what DDP does, autocast of weights that are gathered as they are
    plugin.mixed_precision_policy = MixedPrecisionPolicy()
    accelerator.state.fsdp_plugin = plugin
    # told that it is FSDP, accelerate does on gloo what it does on GPUs. Whenever it makes a state anew it copies this
    # from the partial one, so it has to stand in both: else all is sharded, but no_sync and clipping are DDP's.
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def _is_on(variable: str) -> bool:
    return bool(str_to_bool(os.environ.get(variable, "false")))
