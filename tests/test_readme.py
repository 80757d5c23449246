"""What the README says runs."""

import re
from pathlib import Path

import timm
import torch

from timesformer_plus import LETTERS, SCHEMES, parse_pattern
from timesformer_plus.data import READERS

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
