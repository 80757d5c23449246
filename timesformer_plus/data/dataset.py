"""A data set of videos: samples x reader x transform, looked up by what a clip is a function of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from timesformer_plus.data.clip_reader import ClipFrames, ClipReader
from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.data.manifests import Manifest
from timesformer_plus.data.transforms import ClipTransform

OnError = Literal["raise", "substitute"]
# unreadable videos in a row, after which it is no longer a matter of single videos
MAX_SUBSTITUTES = 10


class Clip(NamedTuple):
    """One clip as a batch is made of; torch's default collation makes one.

    Attributes:
        video: uint8, (C, T, H, W). ``transforms.Normalize`` makes it what a model takes, on the model's device.
        target: The class index, int64 and scalar; or one 0 or 1 for every class, float32, (num_classes,).
        index: Which sample of the manifest is shown, and what ``target`` is the label of.
        view: Which of the sample's views.
        wanted: Which sample was asked for. It is ``index``, unless that one could not be read.
        problem: Why it could not be read, in a word or two (``DecodeError.kind``); empty if it could.
        reason: The same as a sentence with the path.
        short: Whether the video was too short for the clip, so that frames come again.
    """

    video: Tensor
    target: Tensor
    index: int  # type: ignore[assignment]  # takes the place of tuple.index, which nobody asks a clip for
    view: int
    wanted: int
    problem: str
    reason: str
    short: bool


class VideoDataset(Dataset[Clip]):
    """Clips of the videos of a manifest, looked up by ``(epoch, index, view)``.

    All randomness is a function of ``(seed, epoch, index, view)``: neither the order of access nor the number of
    workers changes a clip, and a run can be taken up again anywhere. The epoch is part of the key because an attribute
    set in the main process never reaches workers that persist.

    Args:
        manifest: The videos.
        reader: Reads the frames of a clip.
        transform: Turns them into the clip.
        num_crops: Crops of each clip that a video is tested with; view ``v`` is crop ``v % num_crops`` of clip
            ``v // num_crops``.
        flip_pairs: Pairs of class indices that a mirrored clip exchanges, such as left and right.
        on_error: What becomes of a video that cannot be read, a second time neither: ``"raise"``, or ``"substitute"``
            another sample with its own label, drawn by ``(seed, epoch, index, view)`` and nothing else. The clip tells.
            One of ``manifest.unreadable`` is not tried at all.
        seed: Seed of all randomness.

    Raises:
        ValueError: A count below one, an unknown option, or a pair that names no two classes.
    """

    def __init__(
        self,
        manifest: Manifest,
        reader: ClipReader,
        transform: ClipTransform,
        *,
        num_crops: int = 1,
        flip_pairs: Sequence[tuple[int, int]] = (),
        on_error: OnError = "raise",
        seed: int = 0,
    ) -> None:
        if num_crops < 1 or seed < 0:
            raise ValueError(f"{num_crops=}, {seed=}: at least one crop, and no negative seed")
        if on_error not in get_args(OnError):
            raise ValueError(f"{on_error=} is unknown; allowed are {', '.join(map(repr, get_args(OnError)))}")
        self.manifest = manifest
        self.reader = reader
        self.transform = transform
        self.num_crops = num_crops
        self.on_error: OnError = on_error
        self.seed = seed
        self._last: tuple[int, int, ClipFrames] | None = None
        self._failed: tuple[int, DecodeError | OSError] | None = None
        self._mirrored = _exchange(len(manifest.classes), flip_pairs)

    @property
    def num_views(self) -> int:
        """Views that a video is tested with: clips in time times ``num_crops``."""
        return self.reader.num_clips * self.num_crops

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.manifest.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> Clip:
        """Load one view of one video.

        Args:
            key: ``(epoch, index, view)``: epoch at least 0, index in ``range(len(self))``, view in
                ``range(self.num_views)``; in training any view is one more draw (repeated augmentation).

        Returns:
            The clip.

        Raises:
            TypeError: The key is a plain number, as a sampler made for ordinary data sets sends.
            IndexError: The index or view is outside its range.
            DecodeError: The video cannot be read, nor, with ``"substitute"``, any of ten others.
        """
        if not isinstance(key, tuple) or len(key) != 3:
            raise TypeError(
                f"key {key!r}: a video is looked up by (epoch, index, view); use a sampler that yields these"
            )
        epoch, wanted, view = (int(part) for part in key)
        # in training a view is one more draw (repeated augmentation), of which there are any number
        views = view + 1 if self.reader.training else self.num_views
        if not 0 <= wanted < len(self) or not 0 <= view < views or epoch < 0:
            raise IndexError(
                f"key {key!r}: there are {len(self)} videos with {self.num_views} views, and epochs from 0"
            )
        seed = self._seed_of(epoch, wanted, view)
        clip, crop = (0, 0) if self.reader.training else divmod(view, self.num_crops)
        index, error = wanted, None
        try:
            read = self._read(wanted, clip, seed, is_first=view == 0)
        except DecodeError as wrong:
            if self.on_error == "raise":
                raise
            error = wrong
            index, read = self._substitute(clip, [epoch, wanted, view], wrong)
        with _drawing_from(seed):
            video, flipped = self.transform(read.frames, crop=crop, num_crops=self.num_crops)
        problem, reason = ("", "") if error is None else (error.kind, str(error))
        return Clip(video, self._target(index, flipped), index, view, wanted, problem, reason, read.short)

    def _seed_of(self, *key: int) -> int:
        return int(np.random.SeedSequence([self.seed, *key]).generate_state(1, np.uint64)[0])

    def _read(self, index: int, clip: int, seed: int, *, is_first: bool) -> ClipFrames:
        # the crops of a test clip come one after the other and are of the same frames
        if self._last is not None and self._last[:2] == (index, clip):
            return self._last[2]
        # a video that is tested is wrong as soon as one view fails: the rest of them is not waited for. The first view
        # is tried all the same: it may be of another evaluation, when the disk is there again
        if self._failed is not None and self._failed[0] == index and not is_first:
            raise self._failed[1].with_traceback(None)
        try:
            read = self._read_twice(index, clip, seed)
        except (DecodeError, OSError) as error:
            if not self.reader.training:
                self._failed = (index, error)
            raise
        self._failed = None
        if not self.reader.training and self.num_crops > 1:
            self._last = (index, clip, read)
        return read

    def _read_twice(self, index: int, clip: int, seed: int) -> ClipFrames:
        try:
            return self._read_once(index, clip, seed)
        except DecodeError:
            # once more: network disks have moments of weakness
            return self._read_once(index, clip, seed)

    def _read_once(self, index: int, clip: int, seed: int) -> ClipFrames:
        sample = self.manifest.samples[index]
        if sample.id in self.manifest.unreadable:
            raise DecodeError(sample.path, self.manifest.unreadable[sample.id], "unreadable")
        return self.reader.read(sample, clip=clip, generator=torch.Generator().manual_seed(seed))

    def _substitute(self, clip: int, key: Sequence[int], wrong: DecodeError) -> tuple[int, ClipFrames]:
        """The sample that is shown in the place of an unreadable one, and its frames."""
        for attempt in range(1, MAX_SUBSTITUTES + 1):
            # of the key alone: neither where the reading failed nor the attempts before this one have a say
            seed = self._seed_of(*key, attempt)
            index = int(np.random.default_rng(seed).integers(len(self)))
            try:
                return index, self._read_once(index, clip, seed)
            except DecodeError:
                # it is counted when it is asked for itself
                continue
        raise wrong

    def __getstate__(self) -> dict[str, Any]:
        # a spawned worker has no use for the frames that were read last
        return self.__dict__ | {"_last": None, "_failed": None}

    def _target(self, index: int, flipped: bool) -> Tensor:
        label = self.manifest.samples[index].label
        if isinstance(label, int):
            return torch.tensor(self._mirrored[label] if flipped else label)
        return torch.tensor([label[i] for i in self._mirrored] if flipped else label, dtype=torch.float32)


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator, which torchvision draws from, and put it back as it was afterwards.

    ``torch.manual_seed`` would seed the GPUs as well, and ``torch.random.fork_rng`` looks for them every time.
    """
    state = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.default_generator.set_state(state)


def _exchange(num_classes: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For every class the one that it becomes when a clip is mirrored."""
    mirrored = list(range(num_classes))
    for left, right in pairs:
        if left == right or not {left, right} <= set(range(num_classes)) or mirrored[left] != left:
            raise ValueError(
                f"flip pair ({left}, {right}): give two of the {num_classes} classes, and every class at most once"
            )
        if mirrored[right] != right:
            raise ValueError(f"flip pair ({left}, {right}): class {right} is in another pair already")
        mirrored[left], mirrored[right] = right, left
    return mirrored
