"""Any interleaving of attention over time, space, height, width, joint, local and sparse groups as a timm video model.

Importing this package registers the models with timm: ``timm.create_model("timesformer_base_patch16_224",
pattern="ts")``.
"""

from .models import (
    LETTERS,
    SCHEMES,
    AxisAttention,
    Grid,
    SpaceTimeBlock,
    VideoTransformer,
    format_pattern,
    inflate,
    parse_pattern,
)

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
