"""From configuration to what learns: model, loss, optimizer, schedule.

Here the configuration is turned into plain keyword arguments; nothing below ``engine`` knows of it.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

import timesformer_plus.models  # noqa: F401  registers the models with timm
from timesformer_plus.engine.config import ModelConfig, OptimConfig, ScheduleConfig
from timesformer_plus.engine.data_config import DataConfig


def build_model(model: ModelConfig, data: DataConfig, num_classes: int) -> nn.Module:
    """Create the network for the clips and the classes of the data.

    Raises:
        ValueError: timm does not know the name, an option does not fit the model, or there are no such weights.
    """
    return _create(model, data, num_classes, pretrained=model.pretrained)


def _create(model: ModelConfig, data: DataConfig, num_classes: int, *, pretrained: bool) -> nn.Module:
    given: dict[str, Any] = {"pattern": model.pattern, "num_frames": data.num_frames, "img_size": data.img_size}
    if ":" not in model.name and not timm.is_model(model.name):  # local-dir:FOLDER and hf-hub:REPOSITORY have one
        kinds = ["*timesformer*", "videomae_*", "vivit_*", "vjepa2_*", "pytorchvideo_*", "torchvision_*"]
        near = ", ".join(timm.list_models(kinds))
        raise ValueError(f"model.name={model.name!r} is not a model that timm knows; the video models are {near}")
    try:
        network: nn.Module = timm.create_model(
            model.name,
            pretrained=pretrained,
            num_classes=num_classes,
            **{key: value for key, value in given.items() if value is not None},
            **model.args,
        )
    except FileNotFoundError as error:  # timm's has no text for a file of weights
        file = dict(model.args.get("pretrained_cfg_overlay") or {}).get("file")
        if file is None:
            raise ValueError(f"model.name={model.name!r}: {error}") from error
        raise ValueError(
            f"model {model.name!r}: there is no file {file} with its weights; model.args.pretrained_cfg_overlay.file "
            "names it, and the head of a recipe says where to get it"
        ) from error
    except (TypeError, RuntimeError) as error:  # an unknown key in model.args; no weights, or others than expected
        raise ValueError(
            f"model {model.name!r} cannot be made ({error}); see model.args and model.pretrained"
        ) from error
    return network


def build_on_meta(model: ModelConfig, data: DataConfig, num_classes: int = 2) -> nn.Module:
    """Create the network without weights, on the meta device, where it takes no memory and no time.

    Raises:
        ValueError: As ``build_model``, but for weights, which are not looked for.
    """
    with torch.device("meta"):
        return _create(model, data, num_classes, pretrained=False)


def build_loss(*, multi_label: bool, label_smoothing: float = 0.0) -> nn.Module:
    """Cross entropy of (B, K) logits, for every clip by itself.

    Against class indices (B,) or, after mixing, probabilities (B, K), it is (B,). Multi-label, it is binary, against
    (B, K) in 0..1, and itself (B, K).
    """
    if multi_label:
        return nn.BCEWithLogitsLoss(reduction="none")
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing, reduction="none")


def build_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Make timm's optimizer of that name; norms, biases and what the model lists are free of weight decay.

    Raises:
        ValueError: timm does not know the name, the optimizer does not take an argument, or needs second derivatives.
    """
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            network,
            opt=config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
            **config.args,
        )
    except TypeError as error:  # an unknown key in optim.args
        raise ValueError(f"optimizer {config.name!r} refuses its arguments ({error}); see optim.args") from error
    except (AssertionError, ImportError, RuntimeError) as error:  # those that need a GPU, or another package
        raise ValueError(
            f"optimizer {config.name!r} cannot be made here ({error}); choose another optim.name"
        ) from error
    if getattr(optimizer, "is_second_order", False):
        raise ValueError(f"optim.name={config.name!r} needs second derivatives, which training does not compute")
    return optimizer


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: ScheduleConfig, *, epochs: int, steps_per_epoch: int
) -> Scheduler:
    """Make timm's schedule of that name, in updates. Call ``step_update(updates done)`` after every update.

    Raises:
        ValueError: The installed timm has no schedule of that name.
    """
    # what is not set is left to timm: 1.0.26 cannot take None for decay_epochs
    decay = {} if config.decay_epochs is None else {"decay_epochs": config.decay_epochs}
    made: tuple[Scheduler | None, int] = create_scheduler_v2(
        optimizer,
        sched=config.name,
        num_epochs=epochs,
        warmup_epochs=config.warmup_epochs,
        warmup_lr=config.warmup_lr,
        min_lr=config.min_lr,
        decay_milestones=list(config.milestones),
        decay_rate=config.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
        **decay,
    )
    if made[0] is None:  # older versions answer so to a name that they do not know
        raise ValueError(
            f"schedule.name={config.name!r} is not a schedule of timm {timm.__version__}; "
            "choose another, such as cosine, or upgrade timm"
        )
    return made[0]
