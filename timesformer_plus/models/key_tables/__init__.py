"""Other projects' names for the tensors of this family of models, one module an architecture."""

from . import timesformer
from .families import Convert, Family

__all__ = ["FAMILIES", "Convert", "Family"]

FAMILIES: tuple[Family, ...] = (*timesformer.FAMILIES,)
"""Every family known, in the order in which a file is held against their anchors."""
