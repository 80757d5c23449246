"""Runs on what is not a CSV file: tar shards, a folder a class, folders of images, parts of videos."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import tiny_run

from timesformer_plus.data.decoders import open_video
from timesformer_plus.data.manifests import read_csv
from timesformer_plus.engine.train import train


def write_shards(direction, folder, split, per_shard=3):
    """Pack a split as WebDataset does: each video beside the name of its class."""
    manifest = read_csv(direction / f"{split}.csv", classes=(direction / "classes.txt").read_text().split())
    for first in range(0, len(manifest.samples), per_shard):
        with tarfile.open(folder / f"{split}-{first // per_shard:03d}.tar", "w") as tar:
            for i, sample in enumerate(manifest.samples[first : first + per_shard], first):
                members = {f"{i:04d}.mp4": sample.path.read_bytes(), f"{i:04d}.cls": str(sample.label).encode()}
                for name, content in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return f"{split}-{{000..{(len(manifest.samples) - 1) // per_shard:03d}}}.tar"


@pytest.mark.parametrize("workers", [0, 2])
def test_from_shards_the_same_weights_as_from_files(direction, finished_run, tmp_path, workers):
    """The order of the manifest, the frames, the labels: all as if each video were a file."""
    patterns = {split: write_shards(direction, tmp_path, split) for split in ("train", "val", "test")}
    config = tiny_run(tmp_path / "run", tmp_path, data={**patterns, "num_workers": workers})
    result = train(config)
    folder, expected = finished_run
    assert result["test"]["loss"] == expected["test"]["loss"]
    weights, reference = (load_file(run / "last" / "model.safetensors") for run in (config.output, folder))
    assert all((weights[name] == reference[name]).all() for name in reference)


def test_shards_a_few_at_a_time(direction, tmp_path):
    patterns = {split: write_shards(direction, tmp_path, split) for split in ("train", "val", "test")}
    result = train(tiny_run(tmp_path / "run", tmp_path, data={**patterns, "shards_at_once": 2}))
    assert result["steps"] == 4


def write_folders(direction, folder, write):
    """SPLIT/CLASS/VIDEO, where ``write`` puts the video."""
    for split in ("train", "val", "test"):
        manifest = read_csv(direction / f"{split}.csv", classes=(direction / "classes.txt").read_text().split())
        for sample in manifest.samples:
            place = folder / split / manifest.classes[sample.label] / sample.path.stem
            place.parent.mkdir(parents=True, exist_ok=True)
            write(sample.path, place)


def as_video(source: Path, place: Path) -> None:
    place.with_suffix(".mp4").write_bytes(source.read_bytes())


def as_images(source: Path, place: Path) -> None:
    video = open_video(source)
    place.mkdir()
    for i, frame in enumerate(video.read(range(video.num_frames)), 1):
        Image.fromarray(frame).save(place / f"img_{i:05d}.png")


def as_array(source: Path, place: Path) -> None:
    video = open_video(source)
    np.save(place.with_suffix(".npy"), video.read(range(video.num_frames)))


def test_files_images_and_arrays_train_the_same_weights(direction, tmp_path):
    weights = []
    for write in (as_video, as_images, as_array):
        root = tmp_path / write.__name__
        write_folders(direction, root, write)
        config = tiny_run(root / "run", root, data={"train": "train", "val": "val", "test": "test"})
        train(config)
        weights.append(load_file(config.output / "last" / "model.safetensors"))
    for other in weights[1:]:
        assert all((other[name] == weights[0][name]).all() for name in weights[0])
