"""The README's way from a folder of videos to a trained model, followed to the letter."""

import json
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import timm

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def write_video(path: Path, step: int, seed: int) -> None:
    """A white square on noise that moves to the right (``step`` > 0) or to the left."""
    chance = np.random.default_rng(seed)
    background = chance.integers(0, 90, (72, 128, 3), dtype=np.uint8)
    top = int(chance.integers(0, 48))
    left = int(chance.integers(0, 20)) if step > 0 else 104 - int(chance.integers(0, 20))
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        for i in range(20):
            picture = background.copy()
            picture[top : top + 24, left + i * step : left + i * step + 24] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout in which someone has put a folder of videos: two classes of ten."""
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for i in range(10):
        write_video(tmp_path / "my_videos" / "to the right" / f"clip {i}.mp4", 4, i)
        write_video(tmp_path / "my_videos" / "to the left" / f"clip {i}.mp4", -4, 100 + i)
    return tmp_path


def commands(heading: str, number: int = 0) -> list[str]:
    """The lines of a shell block below a heading, without their comments."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    block = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)[number]
    return [line.partition("#")[0].strip() for line in block.splitlines() if line.strip()]


def run(command: str, folder: Path) -> str:
    words = command.replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(words, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_from_a_folder_to_a_model_and_a_score_that_is_confirmed(project: Path) -> None:
    write_video(project / "clip.mp4", 4, 99)
    lines = commands("Your own videos")
    assert len(lines) == 3
    made, scanned, trained = (run(line, project) for line in lines)
    assert "to the left" in made
    assert "20" in scanned
    assert "train: 14 expected, 14 found, 0 missing" in trained
    (result,) = project.glob("runs/*/result.json")
    assert json.loads(result.read_text())["status"] == "finished"
    model = timm.create_model(f"local-dir:{result.parent / 'best'}", pretrained=True)
    assert model.pretrained_cfg["label_names"] == ["to the left", "to the right"]
    scored, again, predicted = (run(line, project) for line in commands("Your own videos", 1)[:3])
    score = json.loads((project / "score.json").read_text())
    assert score["top1"] == json.loads(result.read_text())["test"]["top1"]
    assert "top1" in scored
    assert "top1" in again
    assert "to the left" in predicted
