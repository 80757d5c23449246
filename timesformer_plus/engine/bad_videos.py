"""Unreadable videos during training: counted over all processes, named once, and no more of them than agreed."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelerate.utils import gather_object

from timesformer_plus.data.dataset import Clip

# files that an error names; the run's folder has all of them
NAMED = 10


class BadVideosError(RuntimeError):
    """More videos of an epoch could not be read than `data.max_bad` allows."""


@dataclass(frozen=True)
class BadVideo:
    """A video that another one stood in for.

    Attributes:
        index: Which sample of the training split.
        kind: What is wrong with it, in a word or two.
        reason: The same as a sentence with the path.
    """

    index: int
    kind: str
    reason: str


def default_max_bad(num_samples: int) -> int:
    """Substitutes an epoch that training bears unless told otherwise: 0.1 % of the split, at least 10."""
    return max(10, math.ceil(num_samples / 1000))


class BadVideos:
    """The unreadable videos of a run.

    Args:
        limit: How many of an epoch's clips may be substitutes, over all processes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kinds: Counter[str] = Counter()
        self._of_epoch: list[BadVideo] = []
        self._known: set[int] = set()
        self._fresh: list[BadVideo] = []

    def see(self, clips: Clip, count: int) -> None:
        """Take note of the substitutes among the first ``count`` clips of a collated batch of this process."""
        seen = zip(clips.wanted.tolist(), clips.problem, clips.reason, strict=True)  # type: ignore[attr-defined]
        for index, kind, reason in list(seen)[:count]:
            if kind:
                self._fresh.append(BadVideo(index, kind, reason))

    @property
    def fresh(self) -> int:
        """Substitutes that this process has seen since the last ``gather``."""
        return len(self._fresh)

    @property
    def known(self) -> int:
        """Videos that are known to be unreadable, as of the last ``gather``."""
        return len(self._known)

    @property
    def of_epoch(self) -> int:
        """Substitutes of this epoch, in all processes, as of the last ``gather``."""
        return len(self._of_epoch)

    def gather(self) -> list[BadVideo]:
        """Add up what all processes have seen; all of them have to call this together.

        Returns:
            The videos that were not known to be unreadable before, the same in every process.
        """
        seen: list[BadVideo] = gather_object(self._fresh)
        self._fresh = []
        new = {video.index: video for video in seen if video.index not in self._known}
        self._known |= new.keys()
        # a video that comes several times in an epoch (repeated augmentation) is one
        met = {video.index for video in self._of_epoch}
        fresh = {video.index: video for video in seen if video.index not in met}
        self.kinds.update(video.kind for video in fresh.values())
        self._of_epoch += fresh.values()
        return list(new.values())

    def check(self) -> None:
        """Stop if there are too many.

        Raises:
            BadVideosError: There are more than ``limit`` in this epoch by now.
        """
        if self.of_epoch <= self.limit:
            return
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(v.kind for v in self._of_epoch).most_common())
        some = "; ".join(video.reason for video in self._of_epoch[:NAMED])
        more = self.of_epoch - NAMED
        raise BadVideosError(
            f"{self.of_epoch} videos of this epoch could not be read, more than data.max_bad={self.limit} ({kinds}); "
            "run tools/scan.py over the videos, which training then leaves out, or raise data.max_bad. They are: "
            f"{some}{f'; and {more} more, listed in bad_videos.csv of the run' if more > 0 else ''}"
        )

    def start_epoch(self) -> None:
        """Count from nothing again."""
        self._of_epoch = []

    def state(self) -> dict[str, Any]:
        """What has been seen so far, as JSON; nothing that has not been gathered."""
        return {
            "kinds": dict(self.kinds),
            "known": sorted(self._known),
            "of_epoch": [dataclasses.astuple(video) for video in self._of_epoch],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up again what ``state`` has returned."""
        self.kinds = Counter(state["kinds"])
        self._known = set(state["known"])
        self._of_epoch = [BadVideo(*video) for video in state["of_epoch"]]
