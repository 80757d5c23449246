"""Multiply-adds against a formula worked out for every letter, and against the figures that others publish."""

import pytest
import timm
import torch
from torch import nn

import timesformer_plus  # noqa: F401  registers the models
from timesformer_plus.analysis import measured_cost
from timesformer_plus.analysis.cost import (
    clip_shape,
    count_multiply_adds,
    measure_cost,
    measure_speed,
)

# The very small model: 8 frames of 32 px, patches of 8 px: T x H x W = 8 x 4 x 4 tokens and a class token; 64 channels.
T, H, W, D, CLASSES = 8, 4, 4, 64, 8
GROUPS = {"t": H * W, "c": H * W, "h": T * W, "w": T * H, "s": T, "j": 1, "l": 2 * 2, "g": 2 * 2 * 2}
WITHOUT_PREFIX = "tc"
FRAME_LOCAL = "shwc"  # a pattern of only these has a class token a frame


def build(pattern, **options):
    with torch.device("meta"):
        return timm.create_model("timesformer_test_patch8_32", pattern=pattern, num_classes=CLASSES, **options)


def attention(letters, *, patches, prefix, frames, primary, groups=GROUPS):
    """Multiply-adds of one attention; its heads are shared by ``letters``."""
    joins = any(letter not in WITHOUT_PREFIX for letter in letters)
    seen = patches + (prefix if joins else 0)
    linear = seen * D * (3 * D + D + (0 if primary else D))  # queries, keys, values; projection; `fc`
    softmax = 0
    for letter in letters:
        copies = 0 if letter in WITHOUT_PREFIX else prefix // frames
        length = patches // groups[letter] + copies
        softmax += groups[letter] * 2 * length**2 * D // len(letters)  # scores; weighted sum of values
    return linear + softmax


def block(steps, *, patches=T * H * W, prefix=1, frames=1, groups=GROUPS):
    """Multiply-adds of a block: its attentions, the primary one last in ``steps``, and its MLP."""
    shape = {"patches": patches, "prefix": prefix, "frames": frames, "groups": groups}
    attentions = sum(attention(s, **shape, primary=i == len(steps) - 1) for i, s in enumerate(steps))
    return attentions + (patches + prefix) * 2 * D * 4 * D


def whole(blocks):
    return T * H * W * (3 * 8 * 8) * D + blocks + D * CLASSES


@pytest.mark.parametrize("letter", "tchwsjlg")
def test_every_letter_alone(letter):
    frames = T if letter in FRAME_LOCAL else 1
    expected = whole(4 * block([letter], prefix=frames, frames=frames))
    # `t` and `c` never show the class token a patch, so that such a model has to pool patches
    model = build(letter, global_pool="avg") if letter in WITHOUT_PREFIX else build(letter)
    assert count_multiply_adds(model, (1, 3, 8, 32, 32)) == expected


@pytest.mark.parametrize("letter", "tchwsjlg")
def test_every_letter_before_space(letter):
    frames = T if letter in FRAME_LOCAL else 1
    expected = whole(4 * block([letter, "s"], prefix=frames, frames=frames))
    assert count_multiply_adds(build(f"{letter}s"), (1, 3, 8, 32, 32)) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("t+s", 4 * block(["t", "s"])),
        ("t&s", 4 * block(["ts"])),
        ("h&w", 4 * block(["hw"], prefix=T, frames=T)),
        ("twh", 4 * block(["t", "w", "h"])),
        ("s*3 j", 3 * block(["s"]) + block(["j"])),
        # behind the bar a frame is one token: 8 of them and the class token
        (
            "s*2 | j*2",
            2 * block(["s"], prefix=T, frames=T) + 2 * block(["j"], patches=T, groups={"j": 1}),
        ),
    ],
)
def test_every_operator_of_the_grammar(pattern, expected):
    assert count_multiply_adds(build(pattern), (1, 3, 8, 32, 32)) == whole(expected)


def test_registers_and_batch_count():
    model = build("j", reg_tokens=4)
    assert count_multiply_adds(model, (3, 3, 8, 32, 32)) == 3 * whole(4 * block(["j"], prefix=5))


@pytest.mark.parametrize(("pattern", "gflops", "millions"), [("s", 141, 85.9), ("ts", 196, 121.4), ("j", 180, 85.9)])
def test_published_figures_of_vit_b(pattern, gflops, millions):
    # mmaction2 reports these GFLOPs for its TimeSformer on 8 x 224 px; the paper's table 1 these parameters
    with torch.device("meta"):
        model = timm.create_model("timesformer_base_patch16_224", pattern=pattern, num_classes=174)
    measured = measure_cost(model)
    assert measured.gflops == pytest.approx(gflops, abs=0.5)
    assert measured.params / 1e6 == pytest.approx(millions, abs=0.05)


def test_fused_attention_is_not_missed():
    # on the CPU the counter alone does not know the fused operator
    model = timm.create_model("timesformer_test_patch8_32", pattern="j", num_classes=CLASSES)
    fused = count_multiply_adds(model, (1, 3, 8, 32, 32))
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            assert module.fused_attn
            module.fused_attn = False
    assert count_multiply_adds(model, (1, 3, 8, 32, 32)) == fused == whole(4 * block(["j"]))


def test_counting_leaves_the_model_as_it_was():
    model = timm.create_model("timesformer_test_patch8_32", pattern="ts", num_classes=CLASSES)
    model.train()
    model.blocks[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_cost(model)
    assert model.training
    assert model.blocks[1].attn.training
    assert not model.blocks[0].attn.training
    assert all(value.device.type == "cpu" and torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_clip_shape_follows_the_model():
    assert clip_shape(build("s")) == (3, 8, 32, 32)
    assert clip_shape(build("s", num_frames=4, img_size=(16, 40), in_chans=1)) == (1, 4, 16, 40)
    assert clip_shape(build("s", input_format="NTCHW")) == (8, 3, 32, 32)
    with pytest.raises(ValueError, match="Linear does not tell its clip shape"):
        clip_shape(nn.Linear(2, 2))


class Clock(nn.Module):
    """Takes as long as it is told, and notes who ran when."""

    def __init__(self, name, seconds, ran, now):
        super().__init__()
        self.name, self.seconds, self.ran, self.now = name, list(seconds), ran, now

    def forward(self, x):
        self.ran.append((self.name, (self.training, torch.is_grad_enabled(), torch.get_num_threads())))
        self.now[0] += self.seconds.pop(0)
        return x


def test_speed_takes_turns_and_the_median(monkeypatch):
    ran, now = [], [0.0]
    monkeypatch.setattr(measured_cost.time, "perf_counter", lambda: now[0])
    models = {"a": Clock("a", [9, 0.5, 100, 0.25], ran, now), "b": Clock("b", [9, 2, 2, 1], ran, now)}
    models["a"].train()
    speeds = measure_speed(models, clip=(1, 1, 1, 1), batch_size=4, repeats=3, warmup=1, threads=1)
    assert [name for name, _ in ran] == ["a", "b"] * 4
    assert {how for _, how in ran} == {(False, False, 1)}
    assert speeds["a"].clips_per_second == 4 / 0.5
    assert speeds["b"].clips_per_second == 4 / 2
    assert (speeds["a"].batch_size, speeds["a"].repeats, speeds["a"].threads) == (4, 3, 1)
    assert speeds["a"].device
    assert models["a"].training


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"repeats": 0}, {"warmup": -1}])
def test_speed_refuses_nonsense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        measure_speed({}, **options)
