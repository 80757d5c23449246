"""What the README says runs."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg
from timm.models._registry import _model_pretrained_cfgs
from transformers import TimesformerConfig, TimesformerForVideoClassification

from timesformer_plus import LETTERS, SCHEMES, VideoTransformer, parse_pattern
from timesformer_plus.data import READERS
from timesformer_plus.data.motion import write_motion
from timesformer_plus.models import timesformer
from timesformer_plus.models.registry import Published, published, published_cfg

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_time_attention_in_a_network_of_ones_own() -> None:
    (source,) = [block for block in blocks("python") if "class TimeViT" in block]
    names: dict = {}
    exec(source, names)
    model = names["TimeViT"]("test_vit", num_frames=3).eval()
    video = torch.randn(2, 3, 3, 160, 160)
    frames = video.transpose(1, 2).flatten(0, 1)
    # at first it changes nothing
    torch.testing.assert_close(model(video), model.vit(frames).reshape(2, 3, -1).mean(1))
    with torch.no_grad():
        for p in model.times.parameters():
            p.normal_(std=0.5)
    assert not torch.allclose(model(video), model(video.flip(2)))


def test_training_in_plain_pytorch() -> None:
    (source,) = [block for block in blocks("python") if "for video, target in loader" in block]
    torch.manual_seed(0)
    target = torch.tensor([0, 1])
    video = torch.randn(2, 3, 8, 32, 32) + target[:, None, None, None, None]
    names: dict = {"loader": [(video, target)] * 20}
    # a smaller model, for time's sake
    exec(source.replace("timesformer_tiny_patch16_224", "timesformer_test_patch8_32"), names)
    assert sum(p.numel() for p in names["model"].parameters()) < 1e6
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(names["model"](video), target)
    assert loss < 0.1  # log 2 is what guessing costs


def test_models_of_the_first_example_exist() -> None:
    (source,) = [block for block in blocks("python") if block.count("create_model") == 3]
    lines = [line for line in source.splitlines() if line.startswith(("import", "model"))]
    assert len(lines) == 4
    with torch.device("meta"):
        exec("\n".join(lines), {})


def test_every_named_format_exists_and_every_format_is_named() -> None:
    section = README.split("## Data sets")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")][2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}
    assert named == set(READERS)


def test_tables_of_letters_schemes_and_models_are_complete() -> None:
    for letter, row in LETTERS.items():
        assert f"| `{letter}` | {row.name} |" in README
    for name, pattern in SCHEMES.items():
        assert f"`{name}`" in README
        assert f"`{pattern}`".replace("|", "\\|") in README
        parse_pattern(pattern)
    for name in timm.list_models(module="timesformer"):
        with torch.device("meta"):
            count = sum(p.numel() for p in timm.create_model(name).parameters()) / 1e6
        assert re.search(rf"`{name}` \| [0-9]+ x [0-9]+ \| {count:.1f}M", README), f"{name}: {count:.1f}M"


def test_paths_that_are_named_exist() -> None:
    named = set(re.findall(r"(?:tools|configs)/[\w/]+\.(?:py|yaml)", README))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


WEIGHTS = README.split("## Weights")[1].split("\n## ")[0]
TINY = "timesformer_test_patch8_32"


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TimesformerForVideoClassification:
    """What the examples name, in small, in the current folder: tags, a published file, a video, Something-Something."""
    monkeypatch.chdir(tmp_path)
    for tag, dataset, classes in (("fb_k400", "kinetics400", 400), ("fb_ssv2", "something_v2", 174)):
        sampling = "segments" if dataset == "something_v2" else "stride"
        checkpoint = Published(  # type: ignore[arg-type]
            dataset=dataset,
            num_classes=classes,
            img_size=32,
            short_side=32,
            sampling=sampling,
            stride=1,
            average="logits",
        )
        cfg = {**published_cfg(checkpoint), "tag": tag, "architecture": TINY}
        monkeypatch.setitem(timesformer.PUBLISHED, f"{TINY}.{tag}", checkpoint)
        monkeypatch.setitem(_model_pretrained_cfgs, f"{TINY}.{tag}", PretrainedCfg(**cfg))
    shape = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    for folder, classes in (("ssv2", 174), ("weights", 400)):
        peer = TimesformerForVideoClassification(TimesformerConfig(**shape, intermediate_size=256, num_labels=classes))
        with torch.no_grad():
            for parameter in peer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        peer.save_pretrained(tmp_path / folder)
    videos = write_motion("direction", tmp_path / "motion", train=8, val=8, test=8, progress=False) / "val"
    first = sorted(videos.glob("*.mp4"))[:2]
    (tmp_path / "clip.mp4").write_bytes(first[0].read_bytes())
    there = tmp_path / "ssv2" / "20bn-something-something-v2"
    there.mkdir()
    for number, video in enumerate(first):
        (there / f"{number}.webm").write_bytes(video.read_bytes())
    labels = ", ".join(f'"Doing {i}": "{i}"' for i in range(174))
    (tmp_path / "ssv2" / "labels.json").write_text(f"{{{labels}}}")
    (tmp_path / "ssv2" / "validation.json").write_text(
        '[{"id": "0", "template": "Doing 3"}, {"id": "1", "template": "Doing 170"}]'
    )
    return peer.eval()


def as_said(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Run a command of the README, in this process and on the small model; returns what it printed."""
    words = shlex.split(command.replace("timesformer_base_patch16_224", TINY), comments=True)
    assert words[0] == "python"
    assert (ROOT / words[1]).is_file()
    monkeypatch.setattr(sys, "argv", [Path(words[1]).stem, *words[2:], *more])
    code: object = 0
    try:
        importlib.import_module(f"timesformer_plus.engine.{Path(words[1]).stem}").main()
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert not code, said.err
    return said.out


def commands(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def test_inflation_in_small(tmp_path: Path) -> None:
    (source,) = [block for block in blocks("python") if "timesformer_plus.inflate" in block]
    image = timm.create_model("test_vit2")
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    # smaller models, from a file in the place of the hub
    copy = f"pretrained_cfg_overlay={{'file': '{tmp_path / 'image.safetensors'}'}}"
    for name in ("vit_base_patch14_reg4_dinov2.lvd142m", "vit_base_patch16_clip_224.openai"):
        assert timm.get_pretrained_cfg(name).hf_hub_id
        source = source.replace(name, "test_vit2.r160_in1k")
    first, second = source.split("model = timm")
    names: dict = {}
    exec(first.replace("img_size=224", "img_size=160").replace("num_classes=174", f"num_classes=174, {copy}"), names)
    model = names["model"]
    assert isinstance(model, VideoTransformer)
    assert (model.pattern, model.num_frames, model.num_classes) == ("ts", 8, 174)
    assert torch.equal(model.blocks[0].attn.qkv.weight, image.blocks[0].attn.qkv.weight)
    # a pattern of four blocks for twelve; that model has eight
    assert len(image.blocks) % 4 == 0
    exec(f"model = timm{second}".replace("pretrained=True", f"pretrained=True, {copy}"), names)
    assert names["model"].pattern == "s*3 j"
    assert torch.equal(names["model"].blocks[3].attn.qkv.weight, image.blocks[3].attn.qkv.weight)


def test_a_published_checkpoint_in_small(at_hand, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    (source,) = [block for block in blocks("python") if "pretrained_cfg_overlay" in block]
    by_name, _ = (line for line in source.splitlines() if line.startswith("model ="))
    names: dict = {}
    lines = source.replace(by_name + "\n", "").replace("timesformer_base_patch16_224", TINY)
    exec(lines, names)
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        said, expected = names["model"].eval()(clip), at_hand(clip.transpose(1, 2)).logits
    torch.testing.assert_close(said, expected, rtol=1e-5, atol=1e-5)
    # the file that is fetched is said where it is not
    with (
        pytest.raises(ValueError, match=r"facebook/timesformer-base-finetuned-k400.*model\.safetensors"),
        torch.device("meta"),
    ):
        exec(by_name, {"timm": timm})
    (block,) = [block for block in blocks("bash") if "--weights" in block]
    predicts, evaluates = commands(block)
    # five classes with their probabilities
    assert as_said(predicts, monkeypatch, capsys).count(" %") == 5
    scored = as_said(evaluates, monkeypatch, capsys, "--weights", "ssv2/model.safetensors")
    assert "Doing 170" in scored
    assert "paper_timesformer" in scored


def test_conversion_and_back_in_small(at_hand, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    (block,) = [block for block in blocks("bash") if "--to hf" in block]
    there, predicts, back = commands(block)
    assert "timesformer.layernorm.weight -> norm.weight" in as_said(there, monkeypatch, capsys)
    assert as_said(predicts, monkeypatch, capsys).count(" %") == 5
    as_said(back, monkeypatch, capsys)
    again = TimesformerForVideoClassification.from_pretrained("runs/k400-hf").eval()
    clip = torch.randn(2, 8, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(clip).logits, at_hand(clip).logits, rtol=1e-5, atol=1e-5)


def test_table_of_weights_is_what_is_registered() -> None:
    licences = {"CC BY-NC 4.0": "cc-by-nc-4.0", "Apache-2.0": "apache-2.0", "MIT": "mit"}
    listed = set()
    for row in re.findall(r"^\| `.*\|$", WEIGHTS, flags=re.MULTILINE):
        name, tags, _, licence, source = (cell.strip() for cell in row.strip("|").split("|"))
        where = re.search(rf"{re.escape(source)}\s+(github\.com/[\w/-]+)", WEIGHTS)
        assert where, source
        for tag, top1 in re.findall(r"`(\.\w+)`(?: ([\d.]+))?", tags):
            checkpoint = published(name.strip("`") + tag)
            assert checkpoint is not None, name + tag
            assert (checkpoint.license, checkpoint.top1) == (licences[licence], float(top1) if top1 else None), name
            assert checkpoint.source.startswith(where[1]) or not checkpoint.top1
            listed.add(name.strip("`") + tag)
    assert listed == {name for name in timm.list_models(pretrained=True) if published(name) is not None}
