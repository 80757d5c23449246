"""Clips whose frames are put into another order, or are fewer: what a model that reads time cannot answer as before.

Frames are altered after they were cut, resized and cropped, each by itself; so the pictures are those of the clip as it
is, to the last bit, and the number of frames stays the model's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from timesformer_plus.data.clip_reader import ClipReader
from timesformer_plus.data.dataset import Clip, VideoDataset
from timesformer_plus.data.manifests import Manifest
from timesformer_plus.data.transforms import ClipTransform
from timesformer_plus.engine.batches import mix_seed

Condition = Literal["as_is", "reversed", "shuffled", "repeated", "half"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)


def altered_order(condition: Condition, num_frames: int, *, video: str, view: int) -> list[int]:
    """Which frames of a clip are shown, and in which order.

    For eight frames:

    ========== ================= ==========================================================================
    as_is      0 1 2 3 4 5 6 7
    reversed   7 6 5 4 3 2 1 0
    shuffled   for example       a function of ``video`` and ``view`` alone, so the same for every model and
               3 0 6 1 7 5 2 4   every seed; never the order as it is
    repeated   4 4 4 4 4 4 4 4   the middle one
    half       0 0 2 2 4 4 6 6   every second one, shown twice
    ========== ================= ==========================================================================

    Args:
        condition: One of ``CONDITIONS``.
        num_frames: Frames of the clip, T. A single one stays as it is in every condition.
        video: Id of the video.
        view: Which view of it.

    Returns:
        T numbers in ``range(num_frames)``.

    Raises:
        ValueError: The condition is unknown, or there is no frame.
    """
    if num_frames < 1:
        raise ValueError(f"{num_frames=}: a clip has at least 1 frame")
    frames = list(range(num_frames))
    orders: dict[Condition, Callable[[], list[int]]] = {
        "as_is": lambda: frames,
        "reversed": lambda: frames[::-1],
        "shuffled": lambda: _shuffled(num_frames, video, view),
        "repeated": lambda: [num_frames // 2] * num_frames,
        "half": lambda: [frame // 2 * 2 for frame in frames],
    }
    if condition not in orders:
        raise ValueError(f"{condition=} is unknown; allowed are {', '.join(map(repr, CONDITIONS))}")
    return orders[condition]()


def _shuffled(num_frames: int, video: str, view: int) -> list[int]:
    chance = np.random.default_rng(mix_seed("shuffled", video, view))
    as_is = list(range(num_frames))
    while True:
        order: list[int] = chance.permutation(num_frames).tolist()
        if order != as_is or num_frames == 1:
            return order


class AlteredClips(VideoDataset):
    """The clips that videos are tested with, altered in time.

    Args:
        manifest: The videos.
        reader: Reads the frames of a clip; not one for training, whose clips start anywhere.
        transform: Turns them into the clip.
        num_crops: Crops of each clip.
        condition: What becomes of the frames, see ``altered_order``.

    Raises:
        ValueError: The reader is one for training, or an option is unknown.
    """

    def __init__(
        self,
        manifest: Manifest,
        reader: ClipReader,
        transform: ClipTransform,
        *,
        num_crops: int = 1,
        condition: Condition,
    ) -> None:
        super().__init__(manifest, reader, transform, num_crops=num_crops)
        if reader.training:
            raise ValueError("clips of training start anywhere, so their order says nothing; give a reader for tests")
        altered_order(condition, reader.num_frames, video="", view=0)  # refuses what is unknown
        self.condition: Condition = condition

    @classmethod
    def of(cls, dataset: VideoDataset, condition: Condition) -> AlteredClips:
        """The same clips as those of ``dataset``, altered."""
        return cls(
            dataset.manifest, dataset.reader, dataset.transform, num_crops=dataset.num_crops, condition=condition
        )

    def __getitem__(self, key: tuple[int, int, int]) -> Clip:
        """Load one view of one video; see ``VideoDataset``."""
        clip = super().__getitem__(key)
        if self.condition == "as_is":
            return clip
        video = self.manifest.samples[clip.index].id
        order = altered_order(self.condition, clip.video.shape[1], video=video, view=clip.view)
        return clip._replace(video=clip.video[:, order].contiguous())
