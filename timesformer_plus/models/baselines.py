"""Video networks of pytorchvideo and torchvision under names of timm's: baselines in the same harness.

The networks are the libraries' own, imported when one is made. What is added is what training, scoring and costs ask of
a model here: clips (B, 3, T, H, W) in, logits (B, K) out, a classifier that can be exchanged, a size that is checked.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from torch import Tensor, nn

from .registry import clip_cfg, read_pretrained

__all__: list[str] = []  # register_model adds every entry point

ALPHA = 4
"""SlowFast: frames of the fast pathway to one of the slow (arXiv 1812.03982, section 3.2, with 8 for alpha)."""


@dataclass(frozen=True)
class ClipSize:
    """Stands where the other models have their patch embedding, for the size of the clips.

    Attributes:
        img_size: Height and width in pixels.
        input_format: Order of a clip's axes.
    """

    img_size: tuple[int, int]
    input_format: str = "NCTHW"


class VideoNetwork(nn.Module):
    """A network of another library as a model of timm's.

    Random layers are off but for dropout in front of the classifier (``drop_rate``): the libraries' stochastic depth
    draws masks that would change with the number of processes.

    Args:
        variant: The registered name.
        num_classes: Classes; 0 for features.
        num_frames: Frames of a clip, T; None for the number of the publication.
        img_size: Height and width of a clip, in pixels; None for those of the publication.
        in_chans: Channels; these networks have 3.
        drop_rate: Dropout in front of the classifier.
        **options: Passed to the library's builder: widths, depths.

    Raises:
        ValueError: An option does not fit the network.
        TypeError: The builder does not know an option.
    """

    def __init__(
        self,
        variant: str,
        num_classes: int = 400,
        num_frames: int | None = None,
        img_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        known = NETWORKS[variant]
        if "pattern" in options:
            raise ValueError(f"{variant} has no interleaving to choose; leave pattern out (model.pattern: null)")
        if in_chans != 3:
            raise ValueError(f"{variant} takes clips of 3 channels, not {in_chans=}")
        random = [name for name in options if "drop" in name or "stochastic" in name]
        if random:
            raise ValueError(f"{variant}: {', '.join(random)} cannot be set; drop_rate is the dropout that there is")
        size = known.img_size if img_size is None else img_size
        self.variant = variant
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_frames = known.num_frames if num_frames is None else num_frames
        self.patch_embed = ClipSize((size, size) if isinstance(size, int) else (int(size[0]), int(size[1])))
        self.network = known.make(
            max(num_classes, 1), self.num_frames, self.patch_embed.img_size, drop_rate, **{**known.options, **options}
        )
        self.num_features: int = self._head().in_features
        if not num_classes:
            self.reset_classifier(0)
        self.model_args = {
            "num_classes": num_classes,
            "num_frames": self.num_frames,
            "img_size": self.patch_embed.img_size,
            "drop_rate": drop_rate,
            **options,
        }

    def _head(self) -> Any:
        return self.network.get_submodule(NETWORKS[self.variant].head)

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        head: nn.Module = self._head()
        return head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a new one; 0 for none, so that (B, num_features) comes out."""
        self.num_classes = num_classes
        like = next(self.parameters())
        new = nn.Linear(self.num_features, num_classes).to(like) if num_classes else nn.Identity()
        self.network.set_submodule(NETWORKS[self.variant].head, new)

    def set_grad_checkpointing(self, enable: bool | Sequence[str] = True) -> None:
        """Refuse it: these networks have none.

        Raises:
            ValueError: ``enable`` is true.
        """
        if enable:
            raise ValueError(f"{self.variant} has no activation checkpointing; leave grad_checkpointing out")

    def forward(self, x: Tensor) -> Tensor:
        """Score clips.

        Args:
            x: (B, 3, T, H, W).

        Returns:
            (B, num_classes), or (B, num_features) without a classifier.

        Raises:
            ValueError: Clips of another size than the network was made for.
        """
        wanted = (self.in_chans, self.num_frames, *self.patch_embed.img_size)
        if tuple(x.shape[1:]) != wanted:
            raise ValueError(
                f"{self.variant} was made for clips (B, {', '.join(map(str, wanted))}), not {tuple(x.shape)}; "
                "give num_frames and img_size when it is created"
            )
        scores: Tensor = self.network(NETWORKS[self.variant].enter(x)).flatten(1)
        return scores


def _pytorchvideo(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit, which it uses while it is imported
        return import_module(f"pytorchvideo.models.{module}")


def _halved(size: int, times: int) -> int:
    """Size after layers of stride 2, which round up."""
    return int(-(-size // 2**times))


def _x3d(classes: int, frames: int, size: tuple[int, int], drop_rate: float, **options: Any) -> nn.Module:
    if size[0] != size[1]:
        raise ValueError(f"X3D is made for square frames, not {size}")
    return _pytorchvideo("x3d").create_x3d(  # type: ignore[no-any-return]
        model_num_class=classes,
        input_clip_length=frames,
        input_crop_size=size[0],
        dropout_rate=drop_rate,
        head_activation=None,
        inner_act=nn.SiLU,  # pytorchvideo's own Swish, the same function, warns of what it uses in every backward pass
        **options,
    )


def _slowfast(classes: int, frames: int, size: tuple[int, int], drop_rate: float, **options: Any) -> nn.Module:
    if frames % ALPHA:
        raise ValueError(f"SlowFast shows every {ALPHA}th frame to its slow pathway: {frames} frames do not divide")
    area = tuple(_halved(side, 5) for side in size)
    return _pytorchvideo("slowfast").create_slowfast(  # type: ignore[no-any-return]
        model_num_class=classes,
        dropout_rate=drop_rate,
        head_pool_kernel_sizes=((frames // ALPHA, *area), (frames, *area)),
        **options,
    )


def _two_pathways(x: Tensor) -> list[Tensor]:
    frames = x.shape[2]
    # pytorchvideo's choice: both ends, evenly between them
    slow = torch.linspace(0, frames - 1, frames // ALPHA, device=x.device).long()
    return [x.index_select(2, slow), x]


def _r2plus1d(classes: int, frames: int, size: tuple[int, int], drop_rate: float, **options: Any) -> nn.Module:
    return _pytorchvideo("r2plus1d").create_r2plus1d(  # type: ignore[no-any-return]
        model_num_class=classes,
        dropout_rate=drop_rate,
        head_pool_kernel_size=(_halved(frames, 2), *(_halved(side, 5) for side in size)),
        head_activation=None,
        **options,
    )


def _mvit(classes: int, frames: int, size: tuple[int, int], drop_rate: float, **options: Any) -> nn.Module:
    create = _pytorchvideo("vision_transformers").create_multiscale_vision_transformers
    device = torch.get_default_device()
    with torch.device("cpu"):  # it reads numbers off tensors, which the meta device has not
        network: nn.Module = create(
            head_num_classes=classes,
            temporal_size=frames,
            spatial_size=size,
            head_dropout_rate=drop_rate,
            **options,
        )
    return network.to(device)


def _swin3d(classes: int, frames: int, size: tuple[int, int], drop_rate: float, **options: Any) -> nn.Module:
    del frames, size  # it pads to whole windows
    if drop_rate:
        raise ValueError(f"Swin3D has no dropout in front of its classifier; leave drop_rate={drop_rate} out")
    network: nn.Module = import_module("torchvision.models.video").SwinTransformer3d(
        num_classes=classes, stochastic_depth_prob=0.0, **options
    )
    return network


def _mvit_v2(
    classes: int,
    frames: int,
    size: tuple[int, int],
    drop_rate: float,
    *,
    embed_dim: int,
    depths: tuple[int, ...],
    **options: Any,
) -> nn.Module:
    """MViTv2 (arXiv 2112.01526, table 1): stages double heads and channels and halve the queries' grid.

    The pooling of keys and values halves with every stage, so that their grid stays as it is.
    """
    library = import_module("torchvision.models.video.mvit")
    blocks, width = [], embed_dim
    for stage, depth in enumerate(depths):
        for block in range(depth):
            pool = 2 if stage and not block else 1
            shrink = 2 ** max(len(depths) - 1 - stage, 0)
            blocks.append(
                library.MSBlockConfig(
                    num_heads=2**stage,
                    input_channels=width,
                    output_channels=embed_dim * 2**stage,
                    kernel_q=[3, 3, 3],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, pool, pool],
                    stride_kv=[1, shrink, shrink],
                )
            )
            width = embed_dim * 2**stage
    network: nn.Module = library.MViT(
        spatial_size=size,
        temporal_size=frames,
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        dropout=drop_rate,
        stochastic_depth_prob=0.0,
        num_classes=classes,
        **options,
    )
    return network


def _as_it_is(x: Tensor) -> Any:
    return x


@dataclass(frozen=True)
class Known:
    """How a registered name is made.

    Attributes:
        make: Takes classes, frames, (height, width), dropout and options; gives the network.
        head: Path of its last layer.
        num_frames: Frames of the published model.
        img_size: Side of its frames, in pixels.
        options: Of the builder.
        enter: From clips (B, 3, T, H, W) to what the network takes.
    """

    make: Callable[..., nn.Module]
    head: str
    num_frames: int
    img_size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    enter: Callable[[Tensor], Any] = _as_it_is


_X3D: dict[str, Any] = {"make": _x3d, "head": "blocks.5.proj"}
_SWIN: dict[str, Any] = {"make": _swin3d, "head": "head", "num_frames": 32, "img_size": 224}
_WINDOWS: dict[str, Any] = {"patch_size": [2, 4, 4], "window_size": [8, 7, 7]}
# MViT-B: where channels and heads double and the queries' grid halves
_DOUBLE = [[1, 2.0], [3, 2.0], [14, 2.0]]
_HALVE = [[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]]

NETWORKS: dict[str, Known] = {
    "pytorchvideo_x3d_xs": Known(num_frames=4, img_size=160, **_X3D),
    "pytorchvideo_x3d_s": Known(num_frames=13, img_size=160, **_X3D),
    "pytorchvideo_x3d_m": Known(num_frames=16, img_size=224, **_X3D),
    "pytorchvideo_x3d_l": Known(num_frames=16, img_size=312, options={"depth_factor": 5.0}, **_X3D),
    "pytorchvideo_slowfast_r50": Known(_slowfast, "blocks.6.proj", 32, 224, enter=_two_pathways),
    "pytorchvideo_r2plus1d_r50": Known(_r2plus1d, "blocks.5.proj", 16, 224),
    "pytorchvideo_mvit_b_16x4": Known(
        _mvit,
        "head.proj",
        16,
        224,
        {
            "embed_dim_mul": _DOUBLE,
            "atten_head_mul": _DOUBLE,
            "pool_q_stride_size": _HALVE,
            "pool_kv_stride_adaptive": [1, 8, 8],
            "pool_kvq_kernel": [3, 3, 3],
        },
    ),
    "torchvision_swin3d_t": Known(
        options={**_WINDOWS, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}, **_SWIN
    ),
    "torchvision_swin3d_s": Known(
        options={**_WINDOWS, "embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]}, **_SWIN
    ),
    "torchvision_swin3d_b": Known(
        options={**_WINDOWS, "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}, **_SWIN
    ),
    "torchvision_mvit_v2_s": Known(_mvit_v2, "head.1", 16, 224, {"embed_dim": 96, "depths": (1, 2, 11, 2)}),
}
"""Registered name -> how it is made."""

default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": clip_cfg(
            input_size=(3, known.img_size, known.img_size), first_conv=None, classifier=f"network.{known.head}"
        )
        for name, known in NETWORKS.items()
    }
)


def _create(variant: str, pretrained: bool, given: dict[str, Any]) -> VideoNetwork:
    given = dict(given)
    cfg = resolve_pretrained_cfg(variant, given.pop("pretrained_cfg", None), given.pop("pretrained_cfg_overlay", None))
    cache_dir = given.pop("cache_dir", None)
    model: VideoNetwork = build_model_with_cfg(
        partial(VideoNetwork, variant), variant, pretrained=False, pretrained_cfg=cfg, **given
    )
    if pretrained:
        tensors, source = read_pretrained(variant, cfg.to_dict(), cache_dir)
        _load(model, tensors, source)
    return model


def _load(model: VideoNetwork, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy weights, strictly: only the classifier may differ, and only in the number of classes.

    Names are ours (``network.…``) or the library's own.
    """
    prefix = "" if any(name.startswith("network.") for name in tensors) else "network."
    tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    own = model.state_dict()
    head = f"network.{NETWORKS[model.variant].head}"
    for name in (f"{head}.weight", f"{head}.bias"):
        if name not in own:
            tensors.pop(name, None)
        elif (
            name in tensors and tensors[name].shape[1:] == own[name].shape[1:] and len(tensors[name]) != len(own[name])
        ):
            tensors[name] = own[name]
    wrong = sorted(
        name
        for name in own.keys() | tensors.keys()
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    )
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{source} does not fit {model.variant}: {', '.join(wrong[:3])}{more} differ or are missing")
    model.load_state_dict(tensors)


def _entry_point(name: str) -> Callable[..., VideoNetwork]:
    def create(pretrained: bool = False, **kwargs: Any) -> VideoNetwork:
        return _create(name, pretrained, kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name} on {NETWORKS[name].num_frames} frames of {NETWORKS[name].img_size} px."
    return create


globals().update({name: register_model(_entry_point(name)) for name in NETWORKS})
