"""The interleaving as a short string: which attention layers a model has, in which order.

pattern := stage { "|" stage }            "|" reduces every frame to one token: the grid becomes (T, 1, 1)
stage   := block { " " block }
block   := step+ [ "*" N ]                adjacent steps run in turn, each with its own residual; one MLP at the end
step    := letter { "+" letter }          in parallel on the same input, residuals summed
         | letter { "&" letter }          the heads of one attention shared out evenly among the letters
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

from .tokens import LETTERS

__all__ = ["SCHEMES", "BlockPlan", "Pattern", "Step", "format_block", "format_pattern", "parse_block", "parse_pattern"]

SCHEMES: dict[str, str] = {
    "space": "s",
    "joint": "j",
    "divided": "ts",
    "local_global": "lg",
    "axial": "twh",
    "space_time": "st",
    "parallel": "t+s",
    "alternate": "t s",
    "factorised_encoder": "s*8 | j*4",
    "factorised_heads": "t&s",
}
"""Interleavings with a name in the literature (TimeSformer, ViViT); wherever a pattern is taken, so is such a name."""

_MAX_REPEAT = 999


@dataclass(frozen=True)
class Step:
    """Attentions that read the same input: one letter, several in parallel (``+``), or one shared by heads (``&``).

    Args:
        letters: Keys of ``LETTERS``.
        share_heads: Whether the letters share out the heads of one attention (``&``) or have one each (``+``).
    """

    letters: tuple[str, ...]
    share_heads: bool = False

    @property
    def attentions(self) -> tuple[tuple[str, ...], ...]:
        """Letters of each attention module of the step."""
        return (self.letters,) if self.share_heads else tuple((letter,) for letter in self.letters)

    def __str__(self) -> str:
        return ("&" if self.share_heads else "+").join(self.letters)


@dataclass(frozen=True)
class BlockPlan:
    """One block of a model of known depth.

    Args:
        steps: What the block runs in turn.
        starts_stage: Whether every frame is reduced to one token before this block.
        per_frame_prefix: Whether each frame has prefix tokens of its own in this block.
        prefix_has_seen: Whether prefix tokens have met patch tokens by the end of this block.
    """

    steps: tuple[Step, ...]
    starts_stage: bool
    per_frame_prefix: bool
    prefix_has_seen: bool

    @property
    def within_frames(self) -> bool:
        """Whether the block does the same to every frame and lets nothing out of it, as a block of an image model."""
        return self.per_frame_prefix and not any(LETTERS[letter].uses_time for letter in _letters((self.steps,)))

    @property
    def class_token_holds_frame(self) -> bool:
        """Whether a class token, if there is one, sums up its own frame and no other."""
        return self.per_frame_prefix and self.prefix_has_seen


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern, repeats written out.

    Args:
        stages: Stages of blocks of steps.
    """

    stages: tuple[tuple[tuple[Step, ...], ...], ...]

    @property
    def letters(self) -> frozenset[str]:
        """Every letter that occurs."""
        return frozenset(letter for stage in self.stages for letter in _letters(stage))

    @property
    def uses_time(self) -> bool:
        """Whether any layer lets frames meet, so that the model has a time embedding."""
        return any(LETTERS[letter].uses_time for letter in self.letters)

    @property
    def num_blocks(self) -> int:
        """Blocks that are written down; a pattern of one stage is tiled to a model's depth."""
        return sum(len(stage) for stage in self.stages)

    def plan(self, depth: int) -> tuple[BlockPlan, ...]:
        """Lay the pattern out over the blocks of a model.

        A prefix token belongs to one frame for as long as only ``s h w c`` have been used: then nothing travels
        between frames through it. With the first stage that lets frames meet in both directions it is shared.

        Args:
            depth: Number of blocks of the model.

        Returns:
            One plan a block, ``depth`` in all.

        Raises:
            ValueError: The blocks written down do not divide the depth, or, with ``|``, are not exactly as many.
        """
        n, text = self.num_blocks, format_pattern(self)
        if len(self.stages) > 1 and n != depth:
            raise ValueError(
                f"pattern {text!r} describes {n} blocks and cannot be tiled because of its '|', but {depth=}; "
                "write exactly that many blocks ('*N' repeats one) or set depth to match"
            )
        if depth % n:
            raise ValueError(
                f"pattern {text!r} describes {n} blocks, which does not divide {depth=}; "
                f"write {depth} blocks or repeat with '*N'"
            )
        plans: list[BlockPlan] = []
        per_frame, seen = True, False
        for number, stage in enumerate(self.stages):
            per_frame = per_frame and all(LETTERS[letter].per_frame for letter in _letters(stage))
            for i, steps in enumerate(stage):
                seen = seen or any(LETTERS[letter].prefix for letter in _letters((steps,)))
                plans.append(BlockPlan(steps, number > 0 and i == 0, per_frame, seen))
        return tuple(plans * (depth // n))


def parse_pattern(text: str) -> Pattern:
    """Parse a pattern, or the name of a scheme.

    Args:
        text: For example ``"ts"``, ``"s*3 j"``, ``"t&s"``, ``"s*8 | j*4"`` or ``"divided"``.

    Returns:
        The parsed pattern; ``format_pattern`` writes it in canonical form.

    Raises:
        ValueError: The text is not a pattern; the message shows the place and the fix.
    """
    if not isinstance(text, str):
        raise ValueError(f"a pattern is a string such as 'ts' or 's*3 j', got {text!r}")
    source = SCHEMES.get(text.strip(), text)
    stages = []
    start = 0
    for stage in source.split("|"):
        blocks = [
            block
            for found in re.finditer(r"\S+", stage)
            for block in _parse_block(source, start + found.start(), found[0])
        ]
        if not blocks:
            raise _error(
                source,
                min(start, max(len(source) - 1, 0)),
                "a stage without blocks",
                "write a block on both sides of '|'",
            )
        stages.append(tuple(blocks))
        start += len(stage) + 1
    return Pattern(tuple(stages))


def parse_block(text: str) -> tuple[Step, ...]:
    """Parse the steps of a single block.

    Args:
        text: For example ``"ts"`` or ``"t+s"``; no spaces, no ``|``, no ``*N``.

    Returns:
        The steps, in the order in which they run.

    Raises:
        ValueError: The text is not exactly one block.
    """
    pattern = parse_pattern(text)
    if pattern.num_blocks != 1:
        raise ValueError(f"{text!r} describes {pattern.num_blocks} blocks, one is wanted here, such as 'ts'")
    return pattern.stages[0][0]


def format_pattern(pattern: Pattern) -> str:
    """Write a pattern in its canonical form: single spaces, neighbours that are alike as ``*N``.

    Args:
        pattern: A parsed pattern.

    Returns:
        The one text that stands for all spellings of this pattern; parsing it gives ``pattern`` back.
    """
    return " | ".join(
        " ".join(
            format_block(steps) + (f"*{count}" if count > 1 else "")
            for steps, count in ((steps, len(list(run))) for steps, run in groupby(stage))
        )
        for stage in pattern.stages
    )


def format_block(steps: tuple[Step, ...]) -> str:
    """Write the steps of one block, for example ``"ts"``."""
    return "".join(map(str, steps))


def _letters(blocks: tuple[tuple[Step, ...], ...]) -> list[str]:
    return [letter for steps in blocks for step in steps for letter in step.letters]


def _parse_block(source: str, start: int, word: str) -> list[tuple[Step, ...]]:
    """Parse one word of a pattern; ``start`` is its place in ``source``, for the message."""
    body, star, count = word.partition("*")
    repeat = 1
    if star:
        if not re.fullmatch(r"[0-9]+", count) or not 1 <= int(count[:9]) <= _MAX_REPEAT:
            place = start + len(body) + 1
            raise _error(source, place, f"{count!r} after '*'", f"write a number from 1 to {_MAX_REPEAT}, as in 's*3'")
        repeat = int(count)
    steps: list[Step] = []
    joint = ""
    for offset, char in enumerate(body):
        place = start + offset
        if char in LETTERS:
            if not joint:
                steps.append(Step((char,)))
            else:
                last = steps[-1]
                if len(last.letters) > 1 and last.share_heads != (joint == "&"):
                    raise _error(source, place - 1, "'+' and '&' in one step", "use one of them, or write two steps")
                steps[-1] = Step((*last.letters, char), joint == "&")
            joint = ""
        elif char in "+&":
            if joint or not steps:
                raise _error(source, place, f"{char!r} without a letter before it", "join two letters, as in 't+s'")
            joint = char
        else:
            raise _error(
                source, place, f"{char!r}", f"the letters are {' '.join(LETTERS)}; schemes: {', '.join(SCHEMES)}"
            )
    if joint:
        raise _error(
            source, start + len(body) - 1, f"{joint!r} without a letter after it", "join two letters, as in 't+s'"
        )
    if not steps:
        raise _error(source, start, "a repeat without a block", "put the block before '*', as in 's*3'")
    return [tuple(steps)] * repeat


def _error(source: str, place: int, what: str, fix: str) -> ValueError:
    return ValueError(
        f"pattern {source!r} is wrong at character {place + 1}: {what}; {fix}\n  {source}\n  {' ' * place}^"
    )
