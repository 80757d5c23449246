"""The real tool in a process of its own, and the other tools on what it wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import timesformer_plus  # noqa: F401  registers the models with timm
from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.convert import convert
from timesformer_plus.engine.predict import predict

ROOT = Path(__file__).parent.parent
NAMES = ["run", "jump", "sit"]


def tool(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    config = TimesformerConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )
    model = TimesformerForVideoClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_the_tool_writes_what_the_others_use(theirs: Path, tmp_path: Path) -> None:
    from transformers import TimesformerForVideoClassification

    ours = tmp_path / "ours"
    done = tool("convert", theirs, ours, "--clips.sampling", "stride", "--clips.stride", "2", "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert "timesformer.layernorm.weight -> norm.weight" in done.stdout

    # predicted as transformers does it by hand: frames 2 apart, scaled and normalised
    frames = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "video.npy", frames)
    answer = dict(predict(ours, tmp_path / "video.npy", topk=3, image_fps=10))
    clip = torch.from_numpy(frames[::2].copy()).permute(0, 3, 1, 2)[None] / 255
    model = TimesformerForVideoClassification.from_pretrained(theirs).eval()
    with torch.no_grad():
        expected = model((clip - 0.45) / 0.225).logits[0].softmax(dim=0)
    assert answer == pytest.approx(dict(zip(NAMES, expected.tolist(), strict=True)), abs=1e-5)
    assert load_checkpoint(ours).recipe.stride == 2

    named = tool("predict", tmp_path / "video.npy", "--model", ours, "--image_fps", "10")
    assert named.returncode == 0, named.stderr
    assert all(name in named.stdout for name in NAMES)
    listed = timm.create_model(f"local-dir:{ours}", pretrained=True)
    assert listed.num_classes == 3


def test_the_command_of_a_refusal_works_as_it_is_printed(tmp_path: Path) -> None:
    model = timm.create_model("timesformer_test_patch8_32", depth=1)
    file = tmp_path / "file with blanks.pth"
    torch.save({"model": model.state_dict(), "path": tmp_path}, file)
    refused = tool("convert", file, tmp_path / "ours", "--model", "timesformer_test_patch8_32")
    assert refused.returncode == 1
    assert refused.stdout == ""
    command = refused.stderr.partition("python -m ")[2].partition(". Here --tensors_only true")[0]
    printed = subprocess.run(
        f"{sys.executable} -m {command}", shell=True, capture_output=True, text=True, check=False, timeout=300
    )
    assert printed.returncode == 0, printed.stderr
    (tensors,) = set(tmp_path.iterdir()) - {file}
    for source, output, only in ((tensors, "of_tensors", False), (file, "directly", True)):
        convert(source, tmp_path / output, model="timesformer_test_patch8_32", args={"depth": 1}, tensors_only=only)
    written = [(tmp_path / output / "model.safetensors").read_bytes() for output in ("of_tensors", "directly")]
    assert written[0] == written[1]
