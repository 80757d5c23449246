"""How many videos and classes a training finds, read as the trainer reads them and nothing else."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ..engine.build_splits import SplitReader
from ..engine.data_config import DataConfig


class SplitSizes(NamedTuple):
    """Sizes of the data of a training.

    Attributes:
        classes: Classes of the training split, which are those of the others.
        train: Videos that are trained on.
        val: Videos that select the best epoch.
        test: Videos that are scored at the end; 0 without such a split.
    """

    classes: int
    train: int
    val: int
    test: int


@lru_cache
def split_sizes(data: DataConfig) -> SplitSizes:
    """Count the videos of all splits, less those that are missing, excluded or (of training) unreadable.

    Raises:
        ValueError: As ``SplitReader.read``.
    """
    reader = SplitReader(data)
    train = reader.read("train", data.train)
    val = reader.read("val", data.val, train.classes, scored=True)
    test = None if data.test is None else reader.read("test", data.test, train.classes, scored=True)
    return SplitSizes(
        len(train.classes), len(train.samples), len(val.samples), 0 if test is None else len(test.samples)
    )
