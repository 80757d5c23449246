"""Other projects' names for the tensors of this family of models, one module an architecture."""

from . import timesformer, videomae, vivit, vjepa2
from .families import Convert, Family

__all__ = ["FAMILIES", "Convert", "Family"]

FAMILIES: tuple[Family, ...] = (
    videomae.ORIGINAL,  # in front of TimeSformer, whose wrapper is called `model.` too
    *vjepa2.FAMILIES,
    *timesformer.FAMILIES,
    *vivit.FAMILIES,
    videomae.TRANSFORMERS,  # behind ViViT, whose bare model has all of its names and more
)
"""Every family known, in the order in which a file is held against their anchors."""
