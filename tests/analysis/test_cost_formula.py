"""Multiply-adds of a forward pass against a closed formula, worked out from what attention is and not from the code.

N tokens of D channels: a linear layer to E channels takes N*D*E multiply-adds. Attention over a group of L tokens
takes 2*L*L*D: L*L scores over all heads' channels, and as much for the weighted sums of values. A letter cuts the
patch tokens into groups of equal length; what joins every group is one copy of the prefix tokens.
"""

import itertools

import pytest
import timm
import torch

import timesformer_plus  # noqa: F401  registers the models
from timesformer_plus.analysis.cost import count_multiply_adds
from timesformer_plus.models.tokens import LETTERS

D, HIDDEN, CLASSES = 64, 256, 5
FRAMES, SIZE, PATCH = 4, (32, 16), 8  # T x H x W = 4 x 4 x 2 tokens: no two letters have groups of one shape
PATCHES = (FRAMES, SIZE[0] // PATCH, SIZE[1] // PATCH)

PREFIXES = {
    "no prefix": {"class_token": False, "global_pool": "avg"},
    "class token": {"class_token": True},
    "class token, 3 registers": {"class_token": True, "reg_tokens": 3},
    "2 registers": {"class_token": False, "reg_tokens": 2, "global_pool": "avg"},
}
JOINS = [
    *(f"{letter}s" for letter in LETTERS),
    "j+c",
    "h&w&s&c",
    "tl+g",
    "t&j",
    "s*3 j",
    "s*2 | t*2",
    "hw+s | ts c&j j h",
    "tc*2 | ts*2",
]


def group_length(letter, t, h, w):
    """Patch tokens that share a softmax, from what the letter means."""
    return {
        "t": t,  # one place, all moments
        "c": t,
        "h": h,  # one column of one frame
        "w": w,
        "s": h * w,  # one frame
        "j": t * h * w,
        "l": t * (h // 2) * (w // 2),  # one quarter of the picture, all moments
        "g": (t // 2) * (h // 2) * (w // 2),  # every second token along each side
    }[letter]


def attention(letters, grid, prefix, frames):
    """Projections and softmaxes of one attention whose heads the letters share evenly.

    ``prefix`` tokens come ``frames`` times. They stay out of ``t`` and ``c``, and out of the projections if nothing
    else is there.
    """
    t, h, w = grid
    patches = t * h * w
    joins = set(letters) - {"t", "c"}
    tokens = patches + (prefix * frames if joins else 0)
    total = tokens * D * 3 * D + tokens * D * D
    for letter in letters:
        length = group_length(letter, t, h, w)
        groups = patches // length
        total += groups * 2 * (length + (prefix if letter in joins else 0)) ** 2 * (D // len(letters))
    return total, tokens


def forward(pattern, prefix):
    """Of the whole model: embedding, blocks, head."""
    stages = [[repeated(block) for block in stage.split()] for stage in pattern.split("|")]
    stages = [[block for blocks in stage for block in blocks] for stage in stages]
    t, h, w = PATCHES
    total = t * h * w * (3 * PATCH * PATCH) * D
    frame_by_frame = True
    for number, stage in enumerate(stages):
        grid = (t, h, w) if number == 0 else (t, 1, 1)
        # as long as no letter lets a prefix token meet another frame or look ahead, each frame has its own
        frame_by_frame = frame_by_frame and not set("".join(stage)) & set("tjlg")
        frames = t if frame_by_frame else 1
        for block in stage:
            heads = []
            for step in steps(block):
                heads += [tuple(step.split("&"))] if "&" in step else [(letter,) for letter in step.split("+")]
            for letters in heads:
                cost, tokens = attention(letters, grid, prefix, frames)
                total += cost
                total += tokens * D * D  # the zero-initialised layer of an added attention ...
            plain = [tokens_of(letters, grid, prefix, frames) for letters in heads]
            spatial = [i for i, letters in enumerate(heads) if letters in (("s",), ("j",))]
            total -= plain[spatial[-1] if spatial else -1] * D * D  # ... which the image model's own has not
            total += (grid[0] * grid[1] * grid[2] + prefix * frames) * 2 * D * HIDDEN
    return total + D * CLASSES


def tokens_of(letters, grid, prefix, frames):
    return attention(letters, grid, prefix, frames)[1]


def repeated(block):
    text, _, times = block.partition("*")
    return [text] * int(times or 1)


def steps(block):
    """``"ts+h"`` -> ``["t", "s+h"]``."""
    found = [block[0]]
    for before, letter in itertools.pairwise(block):
        if letter in "+&" or before in "+&":
            found[-1] += letter
        else:
            found.append(letter)
    return found


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("letter", LETTERS)
def test_every_letter_under_every_number_of_prefix_tokens(letter, prefix):
    check(letter, prefix)


@pytest.mark.parametrize("prefix", ["no prefix", "class token, 3 registers"])
@pytest.mark.parametrize("pattern", JOINS)
def test_every_way_to_join_letters(pattern, prefix):
    check(pattern, prefix)


def check(pattern, prefix):
    options = dict(PREFIXES[prefix])
    if not set(pattern) & set("hwsjlg"):
        options["global_pool"] = "avg"  # a class token that never sees a patch cannot be read
    with torch.device("meta"):
        model = timm.create_model(
            "timesformer_test_patch8_32",
            pattern=pattern,
            num_frames=FRAMES,
            img_size=SIZE,
            num_heads=4,
            depth=sum(len(repeated(block)) for block in pattern.replace("|", " ").split()),
            num_classes=CLASSES,
            **options,
        )
    count = int(options["class_token"]) + options.get("reg_tokens", 0)
    assert model.num_prefix_tokens == count
    assert count_multiply_adds(model, (1, 3, FRAMES, *SIZE)) == forward(pattern, count)


def test_the_formula_tells_letters_and_prefixes_apart():
    # by hand: 32 patch tokens; joint: 12 D^2 N for the linear layers of a block and 2 N^2 D for its attention
    stem, head = 32 * 192 * 64, 64 * 5
    assert forward("j", 0) == stem + (12 * 64**2 * 32 + 2 * 32**2 * 64) + head
    # 4 frames of 8 patches, each with a class token of its own
    assert forward("s", 1) == stem + (12 * 64**2 * 36 + 4 * 2 * 9**2 * 64) + head
    assert len({forward(letter, 0) for letter in "jstw"}) == 4
    assert len({forward("ts", prefix) for prefix in (0, 1, 2, 4)}) == 4
