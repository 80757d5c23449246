"""Features from inside a video model, in timm's words and in DINO's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .tokens import Grid

if TYPE_CHECKING:  # the class behind the mixins: any of timm's transformers that has these names
    from timm.models.vision_transformer import VisionTransformer as Transformer
else:
    Transformer = object

__all__ = ["Intermediates"]


class Intermediates(Transformer):  # type: ignore[misc]  # timm's classes are Any to mypy
    """``forward_intermediates`` and ``get_intermediate_layers`` for tokens that come with their grid.

    The class that mixes this in has ``_embed`` (clips to tokens and grid) and ``_run_blocks``, which keeps what leaves
    the blocks it is told to.
    """

    blocks: Any
    norm: nn.Module
    num_prefix_tokens: int

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        raise NotImplementedError

    def _run_blocks(
        self,
        x: Tensor,
        grid: Grid,
        take: list[int] | None = None,
        stop: int | None = None,
        prefix_only: bool = False,
    ) -> tuple[Tensor, list[tuple[Tensor, Grid]]]:
        raise NotImplementedError

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
