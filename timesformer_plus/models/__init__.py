"""Attention layers, interleavings and the models built from them; imports torch, timm and einops only."""

from . import baselines, from_image, timesformer, videomae, vivit, vjepa2  # noqa: F401  registers the models with timm
from .inflate import inflate
from .layers import AxisAttention, SpaceTimeBlock
from .pattern import SCHEMES, format_pattern, parse_pattern
from .tokens import LETTERS, Grid
from .video_transformer import VideoTransformer

__all__ = [
    "LETTERS",
    "SCHEMES",
    "AxisAttention",
    "Grid",
    "SpaceTimeBlock",
    "VideoTransformer",
    "format_pattern",
    "inflate",
    "parse_pattern",
]
