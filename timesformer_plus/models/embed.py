"""From pixels to tokens: tubelets, and the resizing of space and time position embeddings."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from torch import Tensor, nn

from .tokens import Grid

__all__ = ["TubeletEmbed", "resize_space_embed", "resize_time_embed"]


class TubeletEmbed(PatchEmbed):  # type: ignore[misc]  # timm is untyped
    """timm's ``PatchEmbed`` on clips: a token per patch and ``tubelet_size`` frames.

    With ``tubelet_size=1`` the stem is timm's Conv2d, run on every frame, so that image weights and timm's channel
    adaptation fit as they are; otherwise it is a Conv3d whose kernel and stride cover the tubelet.

    Args:
        num_frames: Frames of a clip, a multiple of ``tubelet_size``.
        tubelet_size: Frames of a token.
        dynamic_num_frames: Take clips of any number of frames that is a multiple of ``tubelet_size``.
        input_format: ``"NCTHW"`` or ``"NTCHW"``; ``None`` means NCTHW, and refuses clips where the two look alike.
        img_size: Height and width of a frame in pixels.
        patch_size: Height and width of a patch in pixels.
        in_chans: Channels of a frame.
        embed_dim: Channels C of a token.
        **kwargs: Other options of ``timm.layers.PatchEmbed``.

    Raises:
        ValueError: Sizes that do not divide, or an unknown input format.
    """

    proj: nn.Conv2d | nn.Conv3d

    def __init__(
        self,
        num_frames: int,
        tubelet_size: int = 1,
        dynamic_num_frames: bool = False,
        input_format: str | None = None,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        **kwargs: Any,
    ) -> None:
        if input_format not in (None, "NCTHW", "NTCHW"):
            raise ValueError(f"{input_format=} must be 'NCTHW', 'NTCHW' or None")
        super().__init__(img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **kwargs)
        self.tubelet_size = tubelet_size
        self.dynamic_num_frames = dynamic_num_frames
        self.input_format = input_format
        self._check_img_size(*self.img_size)
        self.set_num_frames(num_frames)
        if tubelet_size > 1:
            image = self.proj
            kernel = (tubelet_size, *self.patch_size)
            self.proj = nn.Conv3d(
                in_chans,
                embed_dim,
                kernel_size=kernel,
                stride=kernel,
                bias=image.bias is not None,
                device=image.weight.device,
                dtype=image.weight.dtype,
            )

    @property
    def in_chans(self) -> int:
        """Channels of a frame."""
        return int(self.proj.weight.shape[1])

    @property
    def grid(self) -> Grid:
        """Token counts of a clip of the size that the model was built for."""
        return Grid(self.num_frames // self.tubelet_size, *self.grid_size)

    def set_num_frames(self, num_frames: int) -> None:
        """Change the number of frames of a clip.

        Args:
            num_frames: A multiple of ``tubelet_size``.

        Raises:
            ValueError: It is not.
        """
        self._check_num_frames(num_frames)
        self.num_frames = num_frames

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Change height and width of frames, and of patches where a token is a patch of a single frame.

        Args:
            img_size: In pixels; unchanged if ``None``.
            patch_size: In pixels; unchanged if ``None``.

        Raises:
            ValueError: Sizes that do not divide, or another patch size for tubelets of several frames.
        """
        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        if patch_size is not None and self.tubelet_size > 1:
            raise ValueError(
                f"patch_size can be changed with tubelet_size=1 only, this model has tubelet_size={self.tubelet_size}; "
                "build the model with the patch_size you want"
            )
        new_patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        height, width = img_size or self.img_size
        self._check_img_size(height, width, new_patch)
        super().set_input_size(img_size=img_size, patch_size=patch_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Cut a clip into tokens.

        Args:
            x: (B, C, T, H, W), or (B, T, C, H, W) with ``input_format="NTCHW"``.

        Returns:
            Tokens (B, T*H*W, C), time-major, and their grid.

        Raises:
            ValueError: Another number of axes, channels or frames, or another size than the model takes.
        """
        x = self._check_clip(x)
        B = x.shape[0]
        if self.dynamic_img_pad:
            pad_h, pad_w = (-x.shape[3] % self.patch_size[0], -x.shape[4] % self.patch_size[1])
            x = F.pad(x, (0, pad_w, 0, pad_h))
        grid = Grid(x.shape[2] // self.tubelet_size, x.shape[3] // self.patch_size[0], x.shape[4] // self.patch_size[1])
        if self.tubelet_size > 1:
            x = self.proj(x).flatten(2).transpose(1, 2)
        else:
            x = self.proj(x.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)
            x = x.reshape(B, grid.num_tokens, -1)
        return self.norm(x), grid

    def _check_clip(self, x: Tensor) -> Tensor:
        chans, frames = self.in_chans, self.num_frames
        expected = f"(B, C={chans}, T={frames}, H={self.img_size[0]}, W={self.img_size[1]})"
        if x.ndim != 5:
            hint = "; an image is a clip of one frame: x.unsqueeze(2)" if x.ndim == 4 else ""
            raise ValueError(f"a clip has 5 axes, {expected}, got {tuple(x.shape)}{hint}")
        if self.input_format is None and x.shape[1] == x.shape[2] == chans:
            raise ValueError(
                f"a clip of {chans} frames and {chans} channels, {tuple(x.shape)}, may be (B, C, T, H, W) or "
                "(B, T, C, H, W); say which with input_format='NCTHW' or 'NTCHW' when you create the model"
            )
        if self.input_format == "NTCHW":
            x = x.transpose(1, 2)
        if x.shape[1] != chans:
            hint = ""
            if x.shape[2] == chans:
                hint = "; frames before channels? Pass x.transpose(1, 2), or create the model with input_format='NTCHW'"
                if self.input_format == "NTCHW":
                    hint = "; this model was created with input_format='NTCHW' and wants frames before channels"
            raise ValueError(
                f"expected a clip {expected} with {chans} channels, got {x.shape[1]} ({tuple(x.shape)}){hint}"
            )
        if self.dynamic_num_frames:
            self._check_num_frames(x.shape[2])
        elif x.shape[2] != frames:
            raise ValueError(
                f"expected {frames} frames, got {x.shape[2]}; sample {frames}, call "
                f"model.set_input_size(num_frames={x.shape[2]}), or create the model with dynamic_num_frames=True"
            )
        if not self.strict_img_size:
            self._check_img_size(x.shape[3], x.shape[4])
        elif tuple(x.shape[3:]) != tuple(self.img_size):
            raise ValueError(
                f"expected frames of {self.img_size[0]}x{self.img_size[1]} pixels, got {x.shape[3]}x{x.shape[4]}; "
                f"resize them, call model.set_input_size(img_size={tuple(x.shape[3:])}), or create the model with "
                "dynamic_img_size=True"
            )
        return x

    def _check_img_size(self, height: int, width: int, patch_size: tuple[int, int] | None = None) -> None:
        ph, pw = patch_size or self.patch_size
        if not self.dynamic_img_pad and (height % ph or width % pw):
            raise ValueError(
                f"img_size {height}x{width} is not a multiple of patch_size {ph}x{pw}: the rest would be cut off; "
                "choose another size or pass dynamic_img_size=True with dynamic_img_pad=True"
            )

    def _check_num_frames(self, num_frames: int) -> None:
        if num_frames < 1 or self.tubelet_size < 1 or num_frames % self.tubelet_size:
            raise ValueError(f"num_frames={num_frames} is not a positive multiple of tubelet_size={self.tubelet_size}")

    def extra_repr(self) -> str:
        return f"num_frames={self.num_frames}, tubelet_size={self.tubelet_size}, grid={tuple(self.grid)}"


def resize_space_embed(embed: Tensor, old: tuple[int, int], new: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """Resample a space position embedding to another grid, bicubic and antialiased, as timm does.

    Args:
        embed: (1, P + H*W, C).
        old: Its height and width in tokens.
        new: The wanted ones.
        num_prefix_tokens: P, entries in front that belong to prefix tokens and stay as they are.

    Returns:
        (1, P + H'*W', C).
    """
    resized: Tensor = resample_abs_pos_embed(
        embed, new_size=list(new), old_size=list(old), num_prefix_tokens=num_prefix_tokens
    )
    return resized


def resize_time_embed(embed: Tensor, num_frames: int) -> Tensor:
    """Resample a time embedding linearly between its frames, whose centres stay where they are in the clip.

    Args:
        embed: (1, T, C).
        num_frames: T', the wanted number of tokens along time.

    Returns:
        (1, T', C).
    """
    if embed.shape[1] == num_frames:
        return embed
    channels_first = embed.float().transpose(1, 2)
    resized = F.interpolate(channels_first, size=num_frames, mode="linear", align_corners=False)
    return resized.transpose(1, 2).contiguous().to(embed.dtype)  # safetensors writes nothing else
