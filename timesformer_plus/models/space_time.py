"""What a video model adds to timm's transformers: tubelets, position in space and time, the block loop, the sizes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .block_loop import BlockLoop
from .embed import resize_space_embed, resize_time_embed
from .group_attention import GroupAttention
from .pattern import Pattern, format_block, format_pattern
from .recomputing import parts_to_compute_again
from .tokens import LETTERS, Grid, check_grid

__all__ = ["SpaceTime"]

_logger = logging.getLogger(__name__)


class SpaceTime(BlockLoop):
    """Clips through timm's transformer: mixed in front of ``VisionTransformer`` (or another of timm's with its names).

    The class behind it has timm's parts: prefix tokens, ``norm_pre``, ``blocks``, ``norm``, pooling and head. The one
    that mixes this in gives the model a ``TubeletEmbed`` and blocks for ``block(x, grid, rope, time_rope)``, calls
    ``_set_pattern`` and sets ``_model_args``.
    """

    pattern: str
    fused: bool = False
    time_embed: nn.Parameter | None
    time_embed_std: float
    pos_embed_std: float | None
    pos_embed: nn.Parameter | None
    reg_token: nn.Parameter | None
    no_embed_class: bool
    in_chans: int
    num_classes: int
    embed_dim: int
    global_pool: str
    norm_pre: nn.Module
    pos_drop: nn.Module
    fc_norm: nn.Module
    _model_args: dict[str, Any]

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

    def _set_pattern(
        self,
        pattern: Pattern,
        time_embed_std: float = 0.0,
        pos_embed_std: float | None = None,
        time_embed: bool = True,
        time_rope: bool = False,
    ) -> None:
        """Write down the interleaving and add the time embedding; the last step of every constructor.

        Args:
            pattern: The parsed pattern.
            time_embed_std: Standard deviation of the first time embedding.
            pos_embed_std: That of the first space position embedding; as it is if ``None``.
            time_embed: Whether a pattern that uses time gets a time embedding.
            time_rope: Whether queries and keys are turned by their moment.

        Raises:
            ValueError: A grid that a letter cannot cut, or a class token that is read and never sees a patch.
        """
        self.pattern = format_pattern(pattern)
        self.plan = pattern.plan(len(self.blocks))
        self.frames_meet = pattern.uses_time
        self.time_rope = time_rope
        self._check_plan(self.grid)
        if time_rope:
            self._time_rotary(Grid(1, 1, 1))  # refuses what it must
        if (
            self.global_pool in ("token", "prr")
            and self.cls_token is not None
            and not any(LETTERS[letter].prefix for letter in pattern.letters)
        ):
            raise ValueError(
                f"pattern {self.pattern!r} never lets the class token see a patch, and global_pool="
                f"{self.global_pool!r} reads only that; pass global_pool='avg' or add a letter such as 's'"
            )
        like = self.patch_embed.proj.weight
        shape = (1, self.grid.t, self.embed_dim)
        has_one = time_embed and pattern.uses_time
        self.time_embed = nn.Parameter(torch.zeros(shape, device=like.device, dtype=like.dtype)) if has_one else None
        self.time_embed_std, self.pos_embed_std = time_embed_std, pos_embed_std
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
            # timm says the same of space
            _logger.info("Resized time embedding: %d to %d frames of tokens.", self.time_embed.shape[1], self.grid.t)
            self.time_embed = nn.Parameter(
                resize_time_embed(self.time_embed.detach(), self.grid.t), requires_grad=self.time_embed.requires_grad
            )
        sizes = {"num_frames": frames, "img_size": tuple(size), "patch_size": tuple(patch)}
        self._model_args = {**self._model_args, **sizes}

    def fuse(self) -> SpaceTime:
        """Make scoring cheaper, for inference: the same scores with fewer products.

        Every ``fc`` is folded into the projection in front of it: of the 17 products of C x C that a block of ``ts``
        runs a token through, that spares one. And where the head reads the class token alone, ``forward`` runs the last
        block's last attention for prefix tokens' queries alone, and its MLP for these tokens; ``forward_features`` goes
        on to return all tokens. Save the model before: the folded one has other parameters than its name promises.

        Returns:
            The model itself.
        """
        for module in self.modules():
            if isinstance(module, GroupAttention):
                module.fuse()
        self.fused = True
        return self

    def set_grad_checkpointing(self, enable: bool | str | Sequence[str] = True) -> None:
        """Compute activations again in the backward pass instead of keeping them.

        Args:
            enable: True for whole blocks, as in timm, False for nothing; or which parts of the blocks, one or several
                of ``"attention"``, ``"mlp"`` and the letters of attentions, such as ``("mlp", "j")``. An MLP keeps ten
                numbers a token and channel, an attention seven or eight, of which one is left. Of ``"norm"`` and
                ``"act"`` only outputs are computed again, without matrix products: ``("norm", "act")`` spares five
                numbers of an MLP and one of an attention.

        Raises:
            ValueError: A part that is none.
        """
        parts = parts_to_compute_again(enable)
        self.grad_checkpointing = enable is True
        for block in self.blocks:
            block.recomputed = parts

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips.

        Args:
            x: (B, in_chans, T, H, W); with ``input_format="NTCHW"`` (B, T, in_chans, H, W).

        Returns:
            Logits (B, num_classes); pooled features (B, C) without classes.

        Raises:
            ValueError: A clip of another shape than the model takes.
        """
        if self.fused and self.global_pool == "token" and self.blocks[-1].ends_in_prefix:
            features: Tensor = self.norm(self._run_blocks(*self._embed(x), prefix_only=True)[0])
        else:
            features = self.forward_features(x)
        logits: Tensor = self.forward_head(features)
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
        x, of_prefix = x.unflatten(1, (grid.t, -1)), None
        if self.pos_embed is not None:
            n = self.num_prefix_positions
            pos: Tensor = self.pos_embed
            if (grid.h, grid.w) != tuple(self.patch_embed.grid_size):
                pos = resize_space_embed(pos, self.patch_embed.grid_size, (grid.h, grid.w), n)
            x, of_prefix = x + pos[:, None, n:], pos[:, :n]
        if self.time_embed is not None:
            x = x + resize_time_embed(self.time_embed, grid.t)[:, :, None]
        return self._put_prefix(x.flatten(1, 2), grid, of_prefix)

    @property
    def num_prefix_positions(self) -> int:
        """Entries in front of a position table that belong to prefix tokens."""
        return 0 if self.no_embed_class else self.num_prefix_tokens

    def _put_prefix(self, x: Tensor, grid: Grid, pos: Tensor | None) -> Tensor:
        """Put prefix tokens, at their positions (1, P, C) if they have some, in front of patch tokens."""
        tokens: list[Tensor] = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if tokens:
            prefix = torch.cat(tokens, dim=1)
            if pos is not None and pos.shape[1]:
                prefix = prefix + pos
            sets = grid.t if self.plan[0].per_frame_prefix else 1
            x = torch.cat([prefix.repeat(1, sets, 1).expand(x.shape[0], -1, -1), x], dim=1)
        dropped: Tensor = self.pos_drop(x)
        return dropped
