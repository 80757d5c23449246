"""Typed options of the data: which videos, which frames of them, and what training does to their pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from timesformer_plus.data.augment import ErasingMode
from timesformer_plus.data.clip_reader import Sampling
from timesformer_plus.data.clips import ShortPolicy
from timesformer_plus.data.containers import Limits
from timesformer_plus.data.decoders import DecoderName
from timesformer_plus.data.transforms import ChannelOrder


def require(condition: bool, message: str) -> None:
    """Raise a ``ValueError`` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class DataConfig:
    """The videos and how clips are cut from them.

    Args:
        root: Folder of the annotations below; the paths inside them are relative to `videos`.
        train: Annotations of the training split: a CSV file with columns path and label, or what `format` says.
        val: Annotations of the split that selects the best epoch.
        test: Annotations of the split read once, at the end, with the best epoch's weights; null for none.
        format: What the annotations are: csv, jsonl, folder (a folder per class), webdataset (tar shards), or the name
            of a data set such as kinetics, something_v2 or ucf101; auto tells the first four by the name.
        videos: Folder of the videos, relative to `root`; null for `root` itself.
        target: What is to be told, where a data set has several kinds of label or several splits (see `format`).
        multi_label: Labels are sets of class names joined by ';', and every class is scored by itself.
        max_missing: Greatest share of a split's videos that may be missing; they are left out of it, and counted. What
            the scan could not read counts among them in the training split; in the others it is scored as wrong.
        allow_empty_classes: Accept classes without a video to learn them from.
        allow_leaks: Accept videos, or parts of one recording, that two splits share; they are counted, not refused.
        scan: What tools/scan.py has found out about the videos: auto reads scan.csv in `videos` where there is one,
            none reads nothing, anything else is a path (from the current folder).
        exclude: File (from the current folder) with a list of videos to leave out of every split, one path a line as
            the scan has them; null for none.
        max_bad: Unreadable videos that training replaces by others in an epoch, before it stops; 0 stops at the first,
            null stands for the greater of 10 and 0.1 % of the split. Evaluation replaces none.
        decoder: Video reader: decord, pyav, torchcodec or pytorchvideo; auto is the fastest that is exact on every
            file, pyav.
        limits: What a file may ask of this machine.
        decode_size: Length of the shorter side, in pixels, that frames are reduced to when they are decoded; null
            keeps their size. It makes decoded videos in `cache_dir` smaller; it saves hardly any time.
        image_fps: Frames a second of videos that come as folders of images or .npy arrays.
        num_frames: Frames a clip; null for the number the model is made for.
        sampling: stride cuts a run of frames `stride` apart; seconds shows what is on screen `target_fps` times a
            second; segments takes one frame from each of `num_frames` equal parts of the video.
        stride: Distance between the frames of a clip, in frames of the video, for `sampling: stride`.
        target_fps: Frames of a clip a second of video, for `sampling: seconds`.
        short: What becomes of a video too short for a clip: repeat its last frame, loop it, or error.
        img_size: Height and width of a clip, in pixels; null for the size the model is made for.
        channel_order: Order in which the model takes red, green and blue: rgb, or bgr; null for that of the weights, as
            mean and std are those of the weights unless model.args.pretrained_cfg_overlay states others.
        shards_at_once: Tar shards that training works through together, in random order; so each is read once an epoch,
            as a disk or a network likes it. 0 shuffles all videos of all shards.
        num_workers: Processes that read videos ahead, for every training process, with one thread each; 0 reads in the
            training process; null stands for its share of the cores less one, at most 16, beside a GPU, and for 0 on
            the CPU.
        cache_dir: Folder in which decoded videos are kept, for all processes and later runs; null for none.
        cache_mb: Size that `cache_dir` may reach, in MB (10^6 bytes). A video that no longer fits, or whose frames take
            more than 256 MiB, is decoded each time.
    """

    root: Path
    train: str = "train.csv"
    val: str = "val.csv"
    test: str | None = "test.csv"
    format: str = "auto"
    videos: Path | None = None
    target: str | None = None
    multi_label: bool = False
    max_missing: float = 0.0
    allow_empty_classes: bool = False
    allow_leaks: bool = False
    scan: str = "auto"
    exclude: Path | None = None
    max_bad: int | None = None
    decoder: DecoderName = "auto"
    limits: Limits = field(default_factory=Limits)
    decode_size: int | None = None
    image_fps: float | None = None
    num_frames: int | None = None
    sampling: Sampling = "stride"
    stride: int = 1
    target_fps: float | None = None
    short: ShortPolicy = "repeat"
    img_size: int | tuple[int, int] | None = None
    channel_order: ChannelOrder | None = None
    shards_at_once: int = 0
    num_workers: int | None = None
    cache_dir: Path | None = None
    cache_mb: int = 0

    def __post_init__(self) -> None:
        require(self.num_frames is None or self.num_frames > 0, f"data.num_frames={self.num_frames} is not positive")
        require(self.stride > 0, f"data.stride={self.stride} is not positive")
        require(0 <= self.max_missing < 1, f"data.max_missing={self.max_missing} is not a share in [0, 1)")
        require(self.max_bad is None or self.max_bad >= 0, f"data.max_bad={self.max_bad} is negative")
        for name in ("decode_size", "image_fps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"data.{name}={value} is not positive")
        require(
            (self.sampling == "seconds") == (self.target_fps is not None) and (self.target_fps or 1) > 0,
            f"data.target_fps={self.target_fps} with data.sampling={self.sampling}: seconds needs a positive "
            "target_fps, the others take none",
        )
        require(
            self.sampling == "stride" or self.stride == 1,
            f"data.stride={self.stride} with data.sampling={self.sampling}: a stride is for sampling: stride",
        )
        require(self.shards_at_once >= 0, f"data.shards_at_once={self.shards_at_once} is negative")
        require((self.num_workers or 0) >= 0, f"data.num_workers={self.num_workers} is negative")
        require(self.cache_mb >= 0, f"data.cache_mb={self.cache_mb} is negative")
        require(
            (self.cache_mb > 0) == (self.cache_dir is not None),
            f"data.cache_mb={self.cache_mb} with data.cache_dir={self.cache_dir}: give the folder that decoded videos "
            "are kept in and the size that it may reach, or neither",
        )

    @property
    def videos_root(self) -> Path:
        """Folder that the paths of the videos are relative to."""
        return self.root if self.videos is None else self.root / self.videos


@dataclass(frozen=True)
class AugmentConfig:
    """What training does to clips; every choice holds for all frames of a clip.

    Args:
        scale: Smallest and largest share of the frame's area that a crop covers, before it is resized; null keeps the
            scale: the frame is resized until it just covers `img_size`, and cropped at a random place.
        ratio: Smallest and largest width / height of crops, for `scale`.
        short_side: Smallest and largest length, in pixels, that the shorter side of the frame is resized to before it
            is cropped.
        multi_scale: Shares of the shorter side from which width and height of a crop at a corner or in the middle are
            drawn, such as [1, 0.875, 0.75, 0.66] (TSN); takes the place of `scale`.
        hflip: Probability of mirroring a clip. Leave it 0 where left and right are different classes, or name those.
        flip_pairs: Pairs of class names that a mirrored clip exchanges, such as
            `[[Pushing left to right, Pushing right to left]]`.
        color_jitter: How far brightness, contrast and saturation may change (0.4: by factors from 0.6 to 1.4), as one
            number, one for each, or four with the hue; 0 for none.
        rand_augment: RandAugment in timm's words, as in m9-n2: magnitude 9 of 10, 2 operations a clip; null for none.
        erasing: Probability of erasing a rectangle through all frames.
        erasing_mode: What it is erased with: const, the model's mean colour, or pixel, noise.
        mixup: Alpha of the Beta distribution of mixup's shares; 0 for none. Clips are mixed in pairs of neighbours in
            the batch, every pair by a share of its own, so the number of processes does not matter.
        cutmix: The same for cutmix, whose box goes through all frames.
        mix_prob: Probability that a pair is mixed at all.
        mix_switch: Where both are on, the probability of cutmix.
        repeats: Times that every video of a batch comes in it, cut and augmented anew each time (repeated
            augmentation, arXiv 1901.09335); an epoch then has as many times more updates.
    """

    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (0.75, 4 / 3)
    short_side: tuple[int, int] | None = None
    multi_scale: tuple[float, ...] | None = None
    hflip: float = 0.0
    flip_pairs: tuple[tuple[str, str], ...] = ()
    color_jitter: float | tuple[float, ...] = 0.0
    rand_augment: str | None = None
    erasing: float = 0.0
    erasing_mode: ErasingMode = "const"
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5
    repeats: int = 1

    def __post_init__(self) -> None:
        low, high = self.scale or (1.0, 1.0)
        require(0 < low <= high <= 1, f"augment.scale={[low, high]}: give 0 < low <= high <= 1, or null")
        low, high = self.ratio
        require(0 < low <= high, f"augment.ratio={list(self.ratio)}: give 0 < low <= high")
        require(
            self.scale is None or self.multi_scale is None,
            "augment.scale and augment.multi_scale are two ways to crop; set one of them to null",
        )
        for name in ("hflip", "erasing", "mix_prob", "mix_switch"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name}={getattr(self, name)} is not a probability")
        for name in ("mixup", "cutmix"):
            require(getattr(self, name) >= 0, f"augment.{name}={getattr(self, name)} is negative")
        require(
            self.mixup > 0 or self.cutmix > 0 or (self.mix_prob, self.mix_switch) == (1.0, 0.5),
            f"augment.mix_prob={self.mix_prob}, mix_switch={self.mix_switch} are for mixup and cutmix, which are off",
        )
        require(self.repeats > 0, f"augment.repeats={self.repeats} is not positive")
        require(
            not self.flip_pairs or self.hflip > 0,
            "augment.flip_pairs names classes that mirrored clips exchange, but augment.hflip is 0; set it to 0.5",
        )
