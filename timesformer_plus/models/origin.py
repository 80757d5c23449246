"""Where an inflated image model came from: what builds the video model again, or why nothing does."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from timm.models.vision_transformer import VisionTransformer
from torch import nn

__all__ = ["NAME", "Origin"]

NAME = "timesformer_from_image"
"""The registered name that builds a video model of an image model's name."""


class _Unnamed(dict[str, str]):
    """Stands for an image model that no name gives: refuses to be written as JSON, and says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason=reason)

    def items(self) -> Any:  # what json reads
        raise ValueError(self["reason"])

    def __reduce__(self) -> Any:
        return type(self), (self["reason"],)


class Origin:
    """What timm noted about an image model, kept while that is turned into a video model in place.

    Args:
        image: timm's VisionTransformer or Eva.
    """

    def __init__(self, image: Any) -> None:
        self.kind = type(image).__name__
        self.cfg: dict[str, Any] = dict(getattr(image, "pretrained_cfg", None) or {})
        self.noted: dict[str, Any] | None = getattr(image, "_model_args", None)  # older versions of timm note nothing
        norm_key = "fc_norm" if isinstance(image, VisionTransformer) else "use_fc_norm"
        self.now = {
            "num_classes": image.num_classes,
            "global_pool": image.global_pool,
            "in_chans": image.patch_embed.proj.in_channels,
            "img_size": tuple(image.patch_embed.img_size),
            norm_key: not isinstance(image.fc_norm, nn.Identity),
        }

    def record(self, model: Any, arguments: dict[str, Any]) -> None:
        """Write into the video model how to build it again, or why nobody can.

        Args:
            model: The video model that the image model has become.
            arguments: What it was inflated with.
        """
        name, tag = self.cfg.get("architecture"), self.cfg.get("tag")
        if name and tag and f"{name}.{tag}" in timm.list_models(name, include_tags=True):
            name = f"{name}.{tag}"
        # as everywhere in timm, it describes the weights that the model started from
        cfg = (
            self.cfg
            or PretrainedCfg(
                num_classes=self.now["num_classes"],
                input_size=(self.now["in_chans"], *self.now["img_size"]),
                first_conv="patch_embed.proj",
                classifier="head",
            ).to_dict()
        )
        model.pretrained_cfg = model.default_cfg = {**cfg, "architecture": NAME}
        model.pretrained_cfg.pop("state_dict", None)
        model._model_args = {**(self.noted or {}), **self.now, **arguments, "image_model": name}
        reason = self._why_not_again(model)
        if reason:
            model._model_args["image_model"] = _Unnamed(
                f"this video model was inflated from a {self.kind} object and cannot be written so that it can be "
                f"built again: {reason}; inflate a name of timm's instead and load your weights into that "
                "(pretrained_cfg_overlay={'file': ...}), or save model.state_dict() and keep the code that built it"
            )

    def _why_not_again(self, model: Any) -> str | None:
        name = model._model_args["image_model"]
        if not name:
            return "timm's create_model did not make the object, so no name and arguments are known that do"
        if self.noted is None:
            return "this version of timm does not note the arguments of its models"
        try:
            with torch.device("meta"):
                again = timm.create_model(NAME, pretrained=False, **model._model_args)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            return f"{name!r} with the arguments that timm noted gives no such model ({error})"
        here, there = _shapes(model), _shapes(again)
        wrong = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
        if wrong:
            return f"{name!r} with the arguments that timm noted has other parameters ({', '.join(wrong[:3])})"
        if repr(model) != repr(again):
            return f"{name!r} with the arguments that timm noted has other layers or options"
        return None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
