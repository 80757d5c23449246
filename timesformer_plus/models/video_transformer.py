"""The video model: timm's VisionTransformer with space-time blocks, and the names under which timm knows it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .embed import TubeletEmbed, resize_space_embed, resize_time_embed
from .layers import SpaceTimeBlock
from .pattern import BlockPlan, format_block, format_pattern, parse_pattern
from .tokens import LETTERS, Grid, check_grid
from .weights import filter_checkpoint

__all__ = ["VideoTransformer"]  # register_model adds every entry point


class VideoTransformer(VisionTransformer):  # type: ignore[misc]  # timm's classes are Any to mypy
    """timm's ``VisionTransformer`` on clips, with any interleaving of attention over space and time.

    Prefix tokens (class, registers), ``pre_norm``, LayerScale, ``qk_norm``, pooling, the head and their parameter
    names are timm's. What video changes is the embedding, the position, the block loop and the sizes.

    Args:
        pattern: The interleaving, or the name of a scheme (see ``parse_pattern``).
        num_frames: Frames of a clip.
        tubelet_size: Frames of a token; divides ``num_frames``.
        input_format: ``"NCTHW"`` or ``"NTCHW"``; ``None`` means NCTHW and refuses a clip that could be either.
        dynamic_num_frames: Take clips of other lengths too, the time embedding resampled linearly.
        time_embed_std: Standard deviation of the first time embedding; 0 changes nothing about an inflated image model.
        pos_embed_std: Standard deviation of the first space position embedding; timm's initialisation if ``None``.
            Small models trained from scratch learn motion in far fewer updates when both are about as large as the
            patch tokens or larger (1 to 2): places and moments then differ from the first step.
        **kwargs: Every option of timm's ``VisionTransformer`` except ``embed_layer`` and ``block_fn``.

    Raises:
        ValueError: A pattern that does not fit depth, grid, heads or pooling, or sizes that do not divide.
    """

    def __init__(
        self,
        pattern: str = "ts",
        num_frames: int = 8,
        tubelet_size: int = 1,
        input_format: Literal["NCTHW", "NTCHW"] | None = None,
        dynamic_num_frames: bool = False,
        time_embed_std: float = 0.0,
        pos_embed_std: float | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("embed_layer", "block_fn"):
            if name in kwargs:
                raise ValueError(f"{name} is fixed by the video model; subclass VideoTransformer to change it")
        if kwargs.get("patch_drop_rate", 0.0) > 0:
            raise ValueError(
                "patch_drop_rate drops single tokens, which leaves no grid to attend over; use drop_path_rate, "
                "pos_drop_rate or attn_drop_rate instead"
            )
        parsed = parse_pattern(pattern)
        plan = parsed.plan(kwargs.get("depth", 12))
        embed_options: dict[str, Any] = {
            "num_frames": num_frames,
            "tubelet_size": tubelet_size,
            "input_format": input_format,
            "dynamic_num_frames": dynamic_num_frames,
        }
        if tubelet_size < 1:
            raise ValueError(f"{tubelet_size=} must be at least 1 frame")

        def embed_layer(**options: Any) -> TubeletEmbed:
            options.pop("output_fmt", None)  # tokens come with their grid, so the flat layout serves dynamic sizes too
            return TubeletEmbed(**embed_options, **options)

        def block_fn(*, depth: int, **options: Any) -> SpaceTimeBlock:
            return SpaceTimeBlock(
                steps=plan[depth].steps, per_frame_prefix=plan[depth].per_frame_prefix, depth=depth, **options
            )

        super().__init__(embed_layer=embed_layer, block_fn=block_fn, **kwargs)
        self.pattern = format_pattern(parsed)
        self.plan = plan
        self._check_plan(self.grid)
        if (
            self.global_pool in ("token", "prr")
            and self.has_class_token
            and not any(LETTERS[letter].prefix for letter in parsed.letters)
        ):
            raise ValueError(
                f"pattern {self.pattern!r} never lets the class token see a patch, and global_pool="
                f"{self.global_pool!r} reads only that; pass global_pool='avg' or add a letter such as 's'"
            )
        dd = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        self.time_embed = nn.Parameter(torch.zeros(1, self.grid.t, self.embed_dim, **dd)) if parsed.uses_time else None
        self.time_embed_std, self.pos_embed_std = time_embed_std, pos_embed_std
        self._init_positions()
        # older timm records no arguments at construction; `local-dir:` models are rebuilt from these
        stds = {"time_embed_std": time_embed_std, "pos_embed_std": pos_embed_std}
        given = {"pattern": self.pattern, **stds, **embed_options, **kwargs}
        self._model_args = {k: v for k, v in given.items() if k not in ("device", "dtype") and v is not None}

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return int(self.patch_embed.num_frames)

    @property
    def tubelet_size(self) -> int:
        """Frames of a token."""
        return int(self.patch_embed.tubelet_size)

    @property
    def grid(self) -> Grid:
        """Token counts of a clip as it leaves the embedding."""
        grid: Grid = self.patch_embed.grid
        return grid

    @property
    def model_args(self) -> dict[str, Any]:
        """Arguments that build this model again, as it is now; what ``save_for_hf(model_args=...)`` wants."""
        return {
            **self._model_args,
            "num_frames": self.num_frames,
            "img_size": tuple(self.patch_embed.img_size),
            "patch_size": tuple(self.patch_embed.patch_size),
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
            "global_pool": self.global_pool,
            "fc_norm": not isinstance(self.fc_norm, nn.Identity),
        }

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Initialise as timm does; positions as ``time_embed_std`` and ``pos_embed_std`` say.

        Args:
            mode: timm's initialisation: ``""``, ``"jax"``, ``"jax_nlhb"``, ``"moco"`` or ``"reset"``.
            needs_reset: Whether modules still have to reset their parameters (after ``to_empty``).
        """
        super().init_weights(mode, needs_reset=needs_reset)
        if hasattr(self, "pos_embed_std"):  # timm's constructor calls this before there is one
            self._init_positions()

    def _init_positions(self) -> None:
        if self.pos_embed is not None and self.pos_embed_std is not None:
            nn.init.normal_(self.pos_embed, std=self.pos_embed_std)
        if self.time_embed is not None:
            nn.init.normal_(self.time_embed, std=self.time_embed_std)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone."""
        return {*super().no_weight_decay(), "time_embed"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort parameters into stem, blocks and head, for layer-wise learning rates.

        Args:
            coarse: Unused; one group a block either way, as in timm's VisionTransformer.

        Returns:
            timm's matcher with the time embedding in the stem.
        """
        matcher: dict[str, Any] = super().group_matcher(coarse)
        return {**matcher, "stem": matcher["stem"] + "|time_embed"}

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        num_frames: int | None = None,
    ) -> None:
        """Change the size of a clip; position embeddings are resampled, space and time apart.

        Args:
            img_size: Height and width in pixels; unchanged if ``None``.
            patch_size: Height and width of a patch in pixels; unchanged if ``None``.
            num_frames: Frames of a clip; unchanged if ``None``.

        Raises:
            ValueError: Sizes that do not divide, or a grid that a letter of the pattern cannot cut.
        """
        size = (img_size, img_size) if isinstance(img_size, int) else img_size or self.patch_embed.img_size
        patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size or self.patch_embed.patch_size
        frames = self.num_frames if num_frames is None else num_frames
        self._check_plan(Grid(frames // self.tubelet_size, size[0] // patch[0], size[1] // patch[1]))
        self.patch_embed.set_num_frames(frames)
        if img_size is not None or patch_size is not None:
            super().set_input_size(img_size=tuple(size), patch_size=patch_size)
        if self.time_embed is not None and self.time_embed.shape[1] != self.grid.t:
            self.time_embed = nn.Parameter(
                resize_time_embed(self.time_embed.detach(), self.grid.t), requires_grad=self.time_embed.requires_grad
            )
        sizes = {"num_frames": frames, "img_size": tuple(size), "patch_size": tuple(patch)}
        self._model_args = {**self._model_args, **sizes}

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips.

        Args:
            x: (B, in_chans, T, H, W); with ``input_format="NTCHW"`` (B, T, in_chans, H, W).

        Returns:
            Logits (B, num_classes); pooled features (B, C) without classes.

        Raises:
            ValueError: A clip of another shape than the model takes.
        """
        logits: Tensor = self.forward_head(self.forward_features(x))
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        """Run embedding, blocks and final norm.

        Args:
            x: Clips as in ``forward``.

        Returns:
            (B, P + T*H*W, C) on the grid that the pattern ends with; after a ``|`` that is (T, 1, 1).

        Raises:
            ValueError: A clip of another shape than the model takes.
        """
        features: Tensor = self.norm(self._run_blocks(*self._embed(x))[0])
        return features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCTHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Run the model and keep what leaves the chosen blocks.

        Args:
            x: Clips as in ``forward``.
            indices: The last n blocks for a number, these blocks for a list, all for ``None``.
            return_prefix_tokens: Return (patch tokens, prefix tokens (B, P, C)) instead of patch tokens alone.
            norm: Apply the final norm to them.
            stop_early: Skip blocks behind the last chosen one.
            output_fmt: ``"NCTHW"`` for (B, C, T, H, W), ``"NLC"`` for (B, T*H*W, C). timm's feature extractor knows no
                name for five axes and asks for ``"NCHW"``: it gets NCTHW.
            intermediates_only: Leave out the final features.
            output_dict: Return a dictionary with timm's keys ``image_intermediates``,
                ``image_intermediates_prefix`` and ``image_features``.

        Returns:
            (features (B, P + T*H*W, C), intermediates), or the intermediates alone, or the dictionary.

        Raises:
            ValueError: An unknown format, or a clip of another shape than the model takes.
        """
        output_fmt = getattr(output_fmt, "value", output_fmt)
        if output_fmt not in ("NCTHW", "NCHW", "NLC"):
            raise ValueError(f"{output_fmt=} must be 'NCTHW' or 'NLC'")
        take, last = feature_take_indices(len(self.blocks), indices)
        x, grid = self._embed(x)
        x, taken = self._run_blocks(x, grid, take, last + 1 if stop_early else None)
        P = self.num_prefix_tokens
        normed = [(self.norm(y) if norm else y, at) for y, at in taken]
        prefixes = [y[:, :P] for y, _ in normed]
        patches = [y[:, P:] for y, _ in normed]
        if output_fmt != "NLC":
            patches = [y.transpose(1, 2).unflatten(2, tuple(at)) for y, (_, at) in zip(patches, normed, strict=True)]
        with_prefix = return_prefix_tokens and P > 0
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": patches}
            if with_prefix:
                result["image_intermediates_prefix"] = prefixes
            if not intermediates_only:
                result["image_features"] = self.norm(x)
            return result
        intermediates = list(zip(patches, prefixes, strict=True)) if with_prefix else patches
        return intermediates if intermediates_only else (self.norm(x), intermediates)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | list[int] | tuple[int, ...] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> Any:
        """Return what leaves the chosen blocks, in DINO's words.

        Args:
            x: Clips as in ``forward``.
            n: The last n blocks, or these blocks.
            reshape: (B, C, T, H, W) instead of (B, T*H*W, C).
            return_prefix_tokens: Return (patch tokens, prefix tokens) pairs.
            norm: Apply the final norm.

        Returns:
            A list, one entry a block.
        """
        return self.forward_intermediates(
            x,
            n if isinstance(n, int) else list(n),
            return_prefix_tokens=return_prefix_tokens,
            norm=norm,
            output_fmt="NCTHW" if reshape else "NLC",
            intermediates_only=True,
        )

    def extra_repr(self) -> str:
        blocks = " ".join(
            ("| " if p.starts_stage else "") + format_block(p.steps) for p in self.plan[: len(self.blocks)]
        )
        return f"pattern={self.pattern!r}, grid={tuple(self.grid)}, blocks: {blocks}"

    def _check_plan(self, grid: Grid) -> None:
        """Refuse a grid that some block cannot cut, before anything runs."""
        for block in self.plan:
            grid = Grid(grid.t, 1, 1) if block.starts_stage else grid
            for step in block.steps:
                for letter in step.letters:
                    check_grid(grid, letter)

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Clips to tokens in the layout of the first block."""
        x, grid = self.patch_embed(x)
        return self.norm_pre(self._pos_embed(x, grid)), grid

    def _pos_embed(self, x: Tensor, grid: Grid) -> Tensor:
        """Add position to patch tokens (B, T*H*W, C); put prefix tokens in front, T sets if they are per frame."""
        B, P = x.shape[0], self.num_prefix_tokens
        prefix: list[Tensor] = [token for token in (self.cls_token, self.reg_token) if token is not None]
        x = x.unflatten(1, (grid.t, -1))
        if self.pos_embed is not None:
            n = 0 if self.no_embed_class else P
            pos = self.pos_embed
            if (grid.h, grid.w) != tuple(self.patch_embed.grid_size):
                pos = resize_space_embed(pos, self.patch_embed.grid_size, (grid.h, grid.w), n)
            x = x + pos[:, None, n:]
            if n:
                prefix = [torch.cat(prefix, dim=1) + pos[:, :n]]
        if self.time_embed is not None:
            x = x + resize_time_embed(self.time_embed, grid.t)[:, :, None]
        x = x.flatten(1, 2)
        if prefix:
            sets = grid.t if self.plan[0].per_frame_prefix else 1
            x = torch.cat([torch.cat(prefix, dim=1).repeat(1, sets, 1).expand(B, -1, -1), x], dim=1)
        dropped: Tensor = self.pos_drop(x)
        return dropped

    def _run_blocks(
        self, x: Tensor, grid: Grid, take: list[int] | None = None, stop: int | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Grid]]]:
        """Run the blocks; return the last tokens and, behind each block in ``take``, tokens and grid."""
        taken = []
        before = self.plan[0]
        for i, (block, plan) in enumerate(zip(self.blocks[:stop], self.plan, strict=False)):
            if plan.starts_stage:
                x, grid = self._reduce_frames(x, grid, before, plan)
            x = checkpoint(block, x, grid) if self.grad_checkpointing else block(x, grid)
            before = plan
            if take is not None and i in take:
                taken.append((self._share_prefix(x, grid, plan), grid))
        return self._share_prefix(x, grid, before), taken

    def _share_prefix(self, x: Tensor, grid: Grid, plan: BlockPlan) -> Tensor:
        """Average prefix tokens that belong to frames over the frames."""
        if not plan.per_frame_prefix or not self.num_prefix_tokens:
            return x
        cut = grid.t * self.num_prefix_tokens
        prefix = x[:, :cut].unflatten(1, (grid.t, -1)).mean(dim=1)
        return torch.cat([prefix, x[:, cut:]], dim=1)

    def _reduce_frames(self, x: Tensor, grid: Grid, before: BlockPlan, after: BlockPlan) -> tuple[Tensor, Grid]:
        """Make every frame one token: its own class token if that has seen the frame, else its patch tokens' mean."""
        cut = x.shape[1] - grid.num_tokens
        if before.class_token_holds_frame and self.has_class_token:
            frames = x[:, :cut].unflatten(1, (grid.t, -1))[:, :, 0]
        else:
            frames = x[:, cut:].unflatten(1, (grid.t, -1)).mean(dim=2)
        if before.per_frame_prefix and not after.per_frame_prefix:
            x = self._share_prefix(x, grid, before)
        prefix = x[:, : x.shape[1] - grid.num_tokens]
        return torch.cat([prefix, frames], dim=1), Grid(grid.t, 1, 1)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 400,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",  # what data.transforms does
        "fixed_input_size": True,
        # the normalisation that TimeSformer's recipe uses for every channel
        "mean": (0.45, 0.45, 0.45),
        "std": (0.225, 0.225, 0.225),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "timesformer_test_patch8_32.untrained": _cfg(input_size=(3, 32, 32)),
        "timesformer_tiny_patch16_224.untrained": _cfg(),
        "timesformer_small_patch16_224.untrained": _cfg(),
        "timesformer_base_patch16_224.untrained": _cfg(),
        "timesformer_base_patch16_448.untrained": _cfg(input_size=(3, 448, 448)),
        "timesformer_base_patch16_224_f96.untrained": _cfg(),
        "timesformer_large_patch16_224.untrained": _cfg(),
    }
)


def _create(variant: str, pretrained: bool, defaults: dict[str, Any], given: dict[str, Any]) -> VideoTransformer:
    model: VideoTransformer = build_model_with_cfg(
        VideoTransformer,
        variant,
        pretrained,
        pretrained_filter_fn=filter_checkpoint,
        feature_cfg={"out_indices": given.pop("out_indices", 3), "feature_cls": "getter"},
        **{**defaults, **given},
    )
    return model


@register_model
def timesformer_test_patch8_32(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """A very small model for tests and two-core experiments: 8 frames of 32 px."""
    defaults = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2}
    return _create("timesformer_test_patch8_32", pretrained, defaults, kwargs)


@register_model
def timesformer_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-Ti/16 on 8 frames of 224 px."""
    defaults = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
    return _create("timesformer_tiny_patch16_224", pretrained, defaults, kwargs)


@register_model
def timesformer_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-S/16 on 8 frames of 224 px."""
    defaults = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
    return _create("timesformer_small_patch16_224", pretrained, defaults, kwargs)


@register_model
def timesformer_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-B/16 on 8 frames of 224 px: TimeSformer (arXiv 2102.05095, section 4)."""
    defaults = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return _create("timesformer_base_patch16_224", pretrained, defaults, kwargs)


@register_model
def timesformer_base_patch16_448(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-B/16 on 16 frames of 448 px: TimeSformer-HR (arXiv 2102.05095, section 4.5)."""
    defaults = {"img_size": 448, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "num_frames": 16}
    return _create("timesformer_base_patch16_448", pretrained, defaults, kwargs)


@register_model
def timesformer_base_patch16_224_f96(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-B/16 on 96 frames of 224 px: TimeSformer-L (arXiv 2102.05095, section 4.5)."""
    defaults = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "num_frames": 96}
    return _create("timesformer_base_patch16_224_f96", pretrained, defaults, kwargs)


@register_model
def timesformer_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoTransformer:
    """ViT-L/16 on 8 frames of 224 px."""
    defaults = {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16}
    return _create("timesformer_large_patch16_224", pretrained, defaults, kwargs)
