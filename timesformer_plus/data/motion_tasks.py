"""What the clips of the built-in tasks show, drawn from a seed, and why some models cannot tell them apart.

Everything random in a clip (sprite, texture, handwriting, speed, place) is one *draw*; what its label depends on is
one of the task's *variants*. A training clip has a draw to itself. In validation and test a draw is rendered in every
variant of a *group*, so that what differs inside the group is the label and nothing else. Variants ``2k`` and
``2k + 1`` are partners, and share a pair name in the manifest.

``direction``: a sprite moves left or right, up or down, around its circle one way or the other, grows or shrinks. The
partner is the same clip backwards. Whatever a model makes of the frames one by one and then adds up, counts or
averages is equal for partners, so it gets at most one of the two right: 50 % top-1, and no pair with both right.

``drift``: a random texture, the same seen from every side, drifts in one of four directions over the edge of the frame
and back in at the other. A single frame has the same distribution in every class, at every moment. The partner is the
same clip backwards, so left and right are one to a model that only adds up frames, as up and down are; and what such a
model adds up has the same expectation in all four, with or without knowing the moment of each frame. (That expectation
is no hard ceiling for the latter: a detector that waits at the place where a right-moving texture would have got to
sums up more unevenly for right than for left, and a threshold on the sum could tell.)

``lattice``: the cell at frame t, row y, column x shows a handwritten 0 or 1: the digit is
(p + b_t*t + b_h*y + b_w*x) mod 2. The label is the three bits b; p only says which digit begins, and the partner has it
flipped. Take a model that cannot relate cells along one axis, so that its score for that axis' bit is a sum over the
slices across the axis, each slice judged by a function of its own, however clever. Both partners together show every
slice in both phases, and a group renders its eight bit patterns from one handwritten 0 and one 1 for each cell; so the
two partners' scores have the same sum whether the bit is 0 or 1. Both right needs that sum negative for one and
positive for the other: any such model gets at most half of all pairs right. Without attention along time the bit
``time`` is beyond reach in this sense, so is ``height`` without attention down a column, and ``width`` without
attention along a row.

Learning ``direction`` from scratch: which way a sprite went is a product of picture, place and moment, so place and
moment have to be as loud as the picture. Position and time embeddings that start at timm's .02 and at 0 leave ``ts`` at
50 % for long; ``configs/motion_direction.yaml`` therefore starts them larger, and says what it costs and reaches.
Sprites are large and fast and orbits begin near 6 o'clock, because with sprites that were smaller and slower, and
orbits that began anywhere, the orbits were learnt far worse than all else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float64]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class MotionTask(Protocol):
    """One built-in task."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    @property
    def multi_label(self) -> bool:
        """Whether a clip has any number of the classes instead of one."""
        ...

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The variants, by the groups that share a draw in validation and test."""
        ...

    def label(self, variant: int) -> str:
        """Write the label of a variant as the manifest wants it."""
        ...

    def render(self, rng: np.random.Generator, variant: int, split: Split, num_frames: int, size: int) -> Pictures:
        """Draw and render a clip.

        Args:
            rng: Source of the draw; equal generators give equal draws, whatever the variant.
            variant: A member of ``groups``.
            split: Where the clip belongs; some material must not be shared between splits.
            num_frames: T.
            size: Side of the frames, in pixels.

        Returns:
            RGB, (T, size, size, 3).
        """
        ...


@dataclass(frozen=True)
class Direction:
    """Sprites that move, orbit or change size; the odd class of each pair is the even one backwards."""

    classes: tuple[str, ...] = (
        "left",
        "right",
        "up",
        "down",
        "clockwise",
        "counterclockwise",
        "growing",
        "shrinking",
    )
    multi_label: bool = False
    groups: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3), (4, 5), (6, 7))

    def label(self, variant: int) -> str:
        """See ``MotionTask``."""
        return self.classes[variant]

    def render(self, rng: np.random.Generator, variant: int, split: Split, num_frames: int, size: int) -> Pictures:  # noqa: ARG002
        """See ``MotionTask``."""
        background, colour = _scene(rng, size)
        outline = _outline(rng)
        x, y, radius = _path(rng, self.classes[variant - variant % 2], num_frames)
        cover = _cover(outline, x * size, y * size, radius * size, size)[..., None]
        clip = np.round(255 * (background * (1 - cover) + colour * cover)).astype(np.uint8)
        return clip[::-1] if variant % 2 else clip


@dataclass(frozen=True)
class Drift:
    """Isotropic random textures on a torus, shifted by a constant step from frame to frame."""

    classes: tuple[str, ...] = ("left", "right", "up", "down")
    multi_label: bool = False
    groups: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3))

    def label(self, variant: int) -> str:
        """See ``MotionTask``."""
        return self.classes[variant]

    def render(self, rng: np.random.Generator, variant: int, split: Split, num_frames: int, size: int) -> Pictures:  # noqa: ARG002
        """See ``MotionTask``."""
        frequency = np.fft.fftfreq(size)
        fy, fx = frequency[:, None], frequency[None, :]
        grain = rng.uniform(
            1.0, 2.0
        )  # standard deviation of the blur that makes the texture out of white noise, pixels
        envelope = np.exp(-2 * (np.pi * grain) ** 2 * (fx**2 + fy**2))
        envelope[0, 0] = 0  # every frame has the same mean
        # a wave of half the sampling frequency cannot move by part of a pixel: it would come and go with the shift
        envelope[np.abs(fy + 0 * fx) == 0.5] = 0
        envelope[np.abs(fx + 0 * fy) == 0.5] = 0
        texture = np.fft.fft2(rng.standard_normal((size, size))) * envelope
        texture *= 1 / np.sqrt(np.mean(np.abs(texture) ** 2) / size**2)  # unit variance over the frame, at any shift

        step = rng.uniform(0.75, 2.5)  # pixels a frame
        shift = -step * np.arange(num_frames)
        phase = np.multiply.outer(shift, fx + 0 * fy if variant < 2 else fy + 0 * fx)
        frames = np.fft.ifft2(texture * np.exp(-2j * np.pi * phase)).real
        grey = np.clip(np.round(127.5 + 45 * frames), 0, 255).astype(np.uint8)
        clip = np.repeat(grey[..., None], 3, axis=-1)
        return clip[::-1] if variant % 2 else clip


@dataclass(frozen=True)
class Lattice:
    """A three-dimensional chequerboard of handwritten digits that alternates along some axes and not along others."""

    classes: tuple[str, ...] = ("time", "height", "width")
    multi_label: bool = True
    groups: tuple[tuple[int, ...], ...] = (tuple(range(16)),)
    cell: int = 8  # side of a cell, in pixels: the patch size of the model that reads it

    def bits(self, variant: int) -> tuple[int, int, int]:
        """Whether the digits alternate along time, down a column, along a row."""
        return variant >> 3 & 1, variant >> 2 & 1, variant >> 1 & 1

    def label(self, variant: int) -> str:
        """See ``MotionTask``."""
        return ";".join(name for name, bit in zip(self.classes, self.bits(variant), strict=True) if bit)

    def digits(self, variant: int, num_frames: int, size: int) -> NDArray[np.int64]:
        """Tell which digit each cell shows.

        Returns:
            0 or 1, (T, size / cell, size / cell).
        """
        side = size // self.cell
        t, y, x = np.indices((num_frames, side, side))
        b_t, b_h, b_w = self.bits(variant)
        return np.asarray((variant % 2 + b_t * t + b_h * y + b_w * x) % 2)

    def render(self, rng: np.random.Generator, variant: int, split: Split, num_frames: int, size: int) -> Pictures:
        """See ``MotionTask``."""
        if size % self.cell:
            raise ValueError(
                f"size={size} is not a multiple of the cells' {self.cell} pixels; the nearest below is "
                f"{size // self.cell * self.cell}"
            )
        chosen = self.digits(variant, num_frames, size)
        # a 0 and a 1 for every cell, whichever of them this variant shows: (2, T, side, side, cell, cell)
        both = np.stack([_handwriting(rng, digit, split, chosen.shape, self.cell) for digit in (0, 1)])
        cells = np.where(chosen[..., None, None] == 1, both[1], both[0])
        grey = np.round(255 * cells.swapaxes(2, 3).reshape(num_frames, size, size)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)


MOTION_TASKS: dict[str, MotionTask] = {"direction": Direction(), "drift": Drift(), "lattice": Lattice()}


def _scene(rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
    """A background, (size, size, 3), and a colour that stands out from it, (3,); both in 0..1."""
    from scipy.ndimage import zoom

    base, colour = rng.uniform(0.05, 0.35, 3), rng.uniform(0.6, 0.95, 3)
    patches = int(rng.integers(2, 6))
    coarse = rng.uniform(-0.08, 0.08, (patches, patches, 3))
    waves = zoom(coarse, (size / patches, size / patches, 1), order=1, mode="nearest", grid_mode=True)
    return np.clip(base + waves, 0, 1), colour


def _outline(rng: np.random.Generator) -> tuple[str, int, float]:
    """Kind of shape, number of its corners or petals, and the angle it is turned by, in radians."""
    kind = ("disc", "ring", "polygon", "flower")[rng.integers(4)]
    return kind, int(rng.integers(3, 6)), float(rng.uniform(0, 2 * np.pi))


def _path(rng: np.random.Generator, motion: str, num_frames: int) -> tuple[Floats, Floats, Floats]:
    """Centre (x, y) and radius of the sprite in each frame, as shares of the frame's side; each is (T,)."""
    progress = np.linspace(0, 1, num_frames)
    still = np.ones(num_frames)
    radius = rng.uniform(0.16, 0.24) * still
    if motion in ("left", "up"):
        travel = rng.uniform(0.55, 0.7)
        start = rng.uniform(0.1 + travel, 0.9)
        along, across = start - travel * progress, rng.uniform(0.15, 0.85) * still
        return (along, across, radius) if motion == "left" else (across, along, radius)
    if motion == "clockwise":
        # most of a turn, from about 6 o'clock; y points down, so a growing angle runs clockwise
        angle = np.pi / 2 + rng.uniform(-0.5, 0.5) + rng.uniform(0.6, 0.75) * 2 * np.pi * progress
        x, y = rng.uniform(0.42, 0.58, 2)
        orbit = rng.uniform(0.22, 0.32)
        return x + orbit * np.cos(angle), y + orbit * np.sin(angle), radius
    smallest, largest = rng.uniform(0.06, 0.12), rng.uniform(0.22, 0.36)
    x, y = rng.uniform(0.3, 0.7, 2)
    return x * still, y * still, smallest + (largest - smallest) * progress


def _cover(outline: tuple[str, int, float], x: Floats, y: Floats, radius: Floats, size: int) -> Floats:
    """How much of each pixel the sprite covers, in 0..1, (T, size, size); ``x``, ``y``, ``radius`` (T,) in pixels."""
    kind, corners, turn = outline
    centres = np.arange(size) + 0.5
    dx = centres[None, None, :] - x[:, None, None]
    dy = centres[None, :, None] - y[:, None, None]
    distance, angle = np.hypot(dx, dy), np.arctan2(dy, dx) - turn
    radius = radius[:, None, None]
    if kind == "polygon":
        sector = 2 * np.pi / corners
        edge = radius * np.cos(sector / 2) / np.cos(angle % sector - sector / 2)
    elif kind == "flower":
        edge = radius * (0.75 + 0.25 * np.cos(corners * angle))
    else:
        edge = radius
    outside = distance - edge
    if kind == "ring":
        outside = np.abs(outside + 0.25 * radius) - 0.25 * radius
    # half a pixel inside the edge is covered whole, half a pixel outside not at all
    return np.asarray(np.clip(0.5 - outside, 0, 1))


@lru_cache
def _instances(digit: int, split: Split) -> Floats:
    """The split's own share of scikit-learn's handwritten digits, 0..1, (N, 8, 8)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[digits.target == digit] / 16
    # three fifths for training and a fifth each for validation and test, by turns: no hand writes in one part only
    part = {"train": (0, 1, 2), "val": (3,), "test": (4,)}[split]
    chosen: Floats = images[np.isin(np.arange(len(images)) % 5, part)]
    return chosen


def _handwriting(rng: np.random.Generator, digit: int, split: Split, shape: tuple[int, ...], cell: int) -> Floats:
    """One instance, offset and shade for every cell, in 0..1, (*shape, cell, cell)."""
    from scipy.ndimage import zoom

    instances = _instances(digit, split)
    count = int(np.prod(shape))
    glyphs = instances[rng.integers(len(instances), size=count)]
    if cell != 8:
        glyphs = np.clip(zoom(glyphs, (1, cell / 8, cell / 8), order=1, mode="nearest", grid_mode=True), 0, 1)
    room = max(1, cell // 8)
    padded = np.pad(glyphs, ((0, 0), (room, room), (room, room)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (cell, cell), axis=(1, 2))
    top, left = rng.integers(2 * room + 1, size=(2, count))
    shifted = windows[np.arange(count), top, left]
    paper, ink = rng.uniform(0.0, 0.25, (count, 1, 1)), rng.uniform(0.65, 1.0, (count, 1, 1))
    return np.asarray(paper + (ink - paper) * shifted).reshape(*shape, cell, cell)
