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


def videos_of(direction, split, count):
    return [sample.path for sample in read_csv(direction / f"{split}.csv").samples[:count]]


def test_several_labels_of_charades(direction, tmp_path):
    """Every action of a video is a bit of its target, whenever it occurs."""
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding clothes\nc001 Closing a door\nc002 Running\n")
    marks = ["c000 0.10 0.20;c002 0.00 0.30", "c001 0.00 0.10", "", "c002 0.00 0.30;c002 0.10 0.20"]
    for split, count in (("train", 16), ("val", 8)):
        rows = ["id,subject,actions"]
        for i, path in enumerate(videos_of(direction, split, count)):
            (tmp_path / f"{split}{i}.mp4").write_bytes(path.read_bytes())
            rows.append(f"{split}{i},{split}{i},{marks[i % 4]}")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    data = {"format": "charades", "multi_label": True, "test": None}
    result = train(tiny_run(tmp_path / "run", tmp_path, epochs=1, data=data))
    names = ("c000 Holding clothes", "c001 Closing a door", "c002 Running")
    assert {f"accuracy/{name}" for name in names} <= set(result["val"])
    assert result["videos"]["val"]["found"] == 8


@pytest.mark.parametrize(("target", "classes"), [("verb", ["take", "put"]), ("noun", ["pan", "cup", "lid"])])
def test_parts_of_long_videos_of_epic_kitchens(direction, tmp_path, target, classes):
    """One video a person, of which each row names a part in time, a verb and a noun."""
    (tmp_path / "EPIC_100_verb_classes.csv").write_text("id,key\n0,take\n1,put\n")
    (tmp_path / "EPIC_100_noun_classes.csv").write_text("id,key\n0,pan\n1,cup\n2,lid\n")
    columns = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class,noun,noun_class"
    for person, (name, split, count) in enumerate((("train", "train", 4), ("validation", "val", 2)), 1):
        rows = [columns]
        for v, path in enumerate(videos_of(direction, split, count), 1):
            video = f"P0{person}_0{v}"
            place = tmp_path / f"P0{person}" / "videos" / f"{video}.MP4"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
            for part in range(4):
                times = f"00:00:00.{10 * part:02d},00:00:00.{10 * part + 15:02d}"
                rows.append(f"{video}_{part},P0{person},{video},{times},v,{part % 2},n,{part % 3}")
        (tmp_path / f"EPIC_100_{name}.csv").write_text("\n".join(rows) + "\n")
    data = {
        "format": "epic_kitchens",
        "target": target,
        "train": "EPIC_100_train.csv",
        "val": "EPIC_100_validation.csv",
        "test": None,
    }
    config = tiny_run(tmp_path / "run", tmp_path, epochs=1, data=data)
    result = train(config)
    assert list(result["val"]["per_class"]) == classes
    assert result["videos"]["train"]["found"] == 16
    # parts of .15 s are shorter than a clip of 8 frames: frames come again, and that is counted
    assert result["videos"]["val"]["short"] == 8
