"""pytorchvideo's lists, dictionaries and data sets, with its real classes on real files."""

import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from numbered_videos import number_of, write_numbered
from pytorchvideo.data.clip_sampling import (
    ConstantClipsPerVideoSampler,
    RandomClipSampler,
    RandomMultiClipSampler,
    UniformClipSampler,
)
from pytorchvideo.data.labeled_video_dataset import LabeledVideoDataset
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch.utils.data import DataLoader, SequentialSampler

from timesformer_plus.data import Clip, EvalTransform, Manifest, Sample, TrainTransform
from timesformer_plus.data.interop import DictTransform, from_labeled_video_paths, to_clip, to_labeled_video_paths
from timesformer_plus.data.manifests import Member

FPS = 25
LENGTHS = (30, 50, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three numbered videos, one folder a class as LabeledVideoPaths reads it."""
    path = tmp_path_factory.mktemp("classes")
    for i, length in enumerate(LENGTHS):
        (path / "ab"[i % 2]).mkdir(exist_ok=True)
        write_numbered(path / "ab"[i % 2] / f"{i}.mp4", length, rate=FPS)
    return path


@pytest.fixture(scope="module")
def manifest(folder) -> Manifest:
    samples = tuple(Sample(f"{i}", folder / "ab"[i % 2] / f"{i}.mp4", i % 2) for i in range(3))
    return Manifest(samples, ("a", "b"), multi_label=False)


def dataset(paths, sampler, transform) -> LabeledVideoDataset:
    return LabeledVideoDataset(paths, sampler, SequentialSampler, transform, decode_audio=False)


def numbers(video: torch.Tensor) -> list[int]:
    """The numbers that the frames of a clip (C, T, H, W) carry."""
    return [number_of(frame.numpy()) for frame in video.permute(1, 2, 3, 0)]


def test_lists_go_both_ways(manifest):
    paths = to_labeled_video_paths(manifest)
    assert paths == [(str(sample.path), {"label": sample.label}) for sample in manifest.samples]
    back = from_labeled_video_paths(paths, classes=manifest.classes)
    assert back == replace(manifest, samples=tuple(replace(s, id=str(s.path)) for s in manifest.samples))
    assert to_labeled_video_paths(back) == paths
    assert from_labeled_video_paths(paths).classes == ("0", "1")


def test_pytorchvideos_own_list_is_read(folder):
    paths = LabeledVideoPaths.from_path(str(folder))
    manifest = from_labeled_video_paths(paths, classes=("a", "b"))
    assert [(sample.path.name, sample.label) for sample in manifest.samples] == [
        ("0.mp4", 0),
        ("2.mp4", 0),
        ("1.mp4", 1),
    ]
    with_tags = [(str(folder), {"label": 1, "meta_tags": ["outdoors"]})]
    assert from_labeled_video_paths(with_tags).samples[0].label == 1


def test_missing_files_are_counted(folder):
    present = str(folder / "a" / "0.mp4")
    manifest = from_labeled_video_paths([("nowhere.mp4", {"label": 0}), (present, {"label": 4})])
    assert manifest.missing == ("nowhere.mp4",)
    assert [sample.id for sample in manifest.samples] == [present]
    assert len(manifest.classes) == 5


@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [
        ([], None, "list of labelled paths is empty"),
        ([("a.mp4", None)], None, "label None is no class index"),
        ([("a.mp4", {"label": -1})], None, "label -1 is no class index"),
        ([("a.mp4", {"label": [0, 2]})], None, r"label \[0, 2\] is no class index"),
        ([("a.mp4", {"label": True})], None, "label True is no class index"),
        ([("a.mp4", {"label": "run"})], None, "label 'run' is no class index"),
        ([("a.mp4", {"label": 2})], ("walk", "run"), "label 2 is none of the 2 classes"),
        ([("a.mp4", {"label": 0})], ("walk", "walk"), "listed twice"),
        ([("a.mp4", {"label": 0})] * 2, None, "stands in the list twice"),
        ([("a.mp4", {"label": 10**6})], None, "without class names"),
    ],
)
def test_lists_that_are_refused(rows, classes, message):
    with pytest.raises(ValueError, match=message):
        from_labeled_video_paths(rows, classes=classes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 1.5}, "part of a video from 1.5 s to None s"),
        ({"end": 3.0}, "part of a video from 0.0 s to 3.0 s"),
        ({"member": Member("0.mp4", 512, 1000)}, "inside a tar shard"),
        ({"path": Path("clip.npy")}, "an array of frames"),
    ],
)
def test_manifests_that_lists_cannot_hold(manifest, change, message):
    samples = (manifest.samples[0], replace(manifest.samples[1], **change))
    with pytest.raises(ValueError, match=rf"1: .*{message}"):
        to_labeled_video_paths(replace(manifest, samples=samples))


def test_several_labels_are_refused():
    manifest = Manifest((Sample("0", Path("0.mp4"), (0, 1)),), ("a", "b"), multi_label=True)
    with pytest.raises(ValueError, match="one class index"):
        to_labeled_video_paths(manifest)


def test_a_labeled_video_dataset_with_our_transform(manifest):
    """Two clips of 8 frames a video, thinned to 4, three crops each: the right frames in the right crops."""
    sampler = ConstantClipsPerVideoSampler(Fraction(8, FPS), 2, 3)
    transform = DictTransform(EvalTransform(48), num_frames=4, num_crops=3)
    clips = [to_clip(sample) for sample in dataset(to_labeled_video_paths(manifest), sampler, transform)]
    assert all(isinstance(clip, Clip) for clip in clips)
    assert [(clip.index, clip.view) for clip in clips] == [(i, view) for i in range(3) for view in range(6)]
    wide = DictTransform(EvalTransform((48, 64)), num_frames=4)
    whole = dataset(to_labeled_video_paths(manifest), ConstantClipsPerVideoSampler(Fraction(8, FPS), 2), wide)
    whole = [sample["video"] for sample in whole]
    for clip in clips:
        assert clip.video.shape == (3, 4, 48, 48)
        assert clip.video.dtype == torch.uint8
        assert clip.target.dtype == torch.int64
        assert clip.target.item() == manifest.samples[clip.index].label
        assert (clip.wanted, clip.problem, clip.short) == (clip.index, "", False)
        place, crop = divmod(clip.view, 3)
        left = (0, 8, 16)[crop]
        assert torch.equal(clip.video, whole[2 * clip.index + place][..., left : left + 48])
    # pytorchvideo's second clip starts half way to the last possible start, between two frames where that is odd
    for index, length in enumerate(LENGTHS):
        assert numbers(whole[2 * index]) == [0, 2, 5, 7]
        assert numbers(whole[2 * index + 1]) == [(length - 8) // 2 + i for i in (0, 2, 5, 7)]


def test_training_through_a_loader(manifest):
    """Collation, a worker process and pytorchvideo's random clips; frames stay in order and at their distance."""
    transform = DictTransform(TrainTransform((48, 64), scale=None), num_frames=4)
    samples = dataset(to_labeled_video_paths(manifest), RandomClipSampler(Fraction(10, FPS)), transform)
    (batch,) = DataLoader(samples, batch_size=3, num_workers=1)
    assert batch["video"].shape == (3, 3, 4, 48, 64)
    assert batch["video"].dtype == torch.uint8
    assert batch["label"].tolist() == [0, 1, 0]
    for video, length in zip(batch["video"], LENGTHS, strict=True):
        first, *others = numbers(video)
        assert others == [first + 3, first + 6, first + 9]
        assert first + 9 < length


def test_clips_end_to_end(manifest):
    samples = list(
        dataset(
            to_labeled_video_paths(manifest),
            UniformClipSampler(Fraction(10, FPS)),
            DictTransform(EvalTransform((48, 64))),
        )
    )
    assert [(s["video_index"], s["clip_index"], s["view"]) for s in samples] == [
        (i, clip, clip) for i, length in enumerate(LENGTHS) for clip in range(length // 10)
    ]
    for sample in samples:
        assert numbers(sample["video"]) == [10 * sample["clip_index"] + i for i in range(10)]


def test_pytorchvideo_passes_over_what_it_cannot_read(manifest, tmp_path):
    """The trap that the module names: its data set is a video short and says nothing. Indices stay the list's."""
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    paths = to_labeled_video_paths(manifest)
    paths[1] = (str(tmp_path / "bad.mp4"), {"label": 1})
    sampler = ConstantClipsPerVideoSampler(Fraction(8, FPS), 1)
    samples = dataset(paths, sampler, DictTransform(EvalTransform(48)))
    assert [to_clip(sample).index for sample in samples] == [0, 2]


def sample_of(video, **others):
    return {
        "video": video,
        "video_name": "a.mp4",
        "video_index": 7,
        "clip_index": 2,
        "aug_index": 0,
        "label": 3,
    } | others


def test_dictionaries_keep_the_rest_and_tell_what_happened():
    video = torch.randint(0, 256, (3, 5, 16, 16), dtype=torch.uint8)
    before = video.clone()
    transform = DictTransform(TrainTransform(16, scale=None, hflip=1), num_frames=7)
    transform = pickle.loads(pickle.dumps(transform))
    sample = sample_of(video.float(), audio=torch.ones(4))
    changed = transform(sample)
    assert sample["video"].dtype == torch.float32
    assert torch.equal(video, before)
    assert {**changed, "video": None, "audio": None} == {
        **sample,
        "video": None,
        "audio": None,
        "view": 2,
        "short": True,
        "flipped": True,
    }
    assert torch.equal(changed["video"], video[:, [0, 1, 1, 2, 3, 3, 4]].flip(-1))
    assert torch.equal(changed["video"], transform(sample_of(video))["video"])
    clip = to_clip(changed)
    assert (clip.target.item(), clip.index, clip.view, clip.wanted, clip.short) == (3, 7, 2, 7, True)


@pytest.mark.parametrize("total", range(1, 12))
@pytest.mark.parametrize("num_frames", range(2, 9))
def test_thinning_is_pytorchvideos_to_the_nearest_frame(total, num_frames):
    """UniformTemporalSubsample rounds ``linspace(0, total - 1, num_frames)`` down."""
    video = torch.arange(total, dtype=torch.uint8).view(1, -1, 1, 1).expand(3, -1, 8, 8)
    found = DictTransform(EvalTransform(8), num_frames=num_frames)(sample_of(video))["video"][0, :, 0, 0]
    exact = [Fraction(i * (total - 1), num_frames - 1) for i in range(num_frames)]
    assert all(abs(i - place) <= Fraction(1, 2) for i, place in zip(found.tolist(), exact, strict=True))
    assert found.tolist() == [total - 1 - i for i in reversed(found.tolist())] or num_frames % 2


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (sample_of(torch.rand(3, 2, 8, 8)), "scaled or normalised already"),
        (sample_of(torch.full((3, 2, 8, 8), float("nan"))), "scaled or normalised already"),
        (sample_of(torch.full((3, 2, 8, 8), 256.0)), "scaled or normalised already"),
        (sample_of(torch.zeros(2, 3, 8, 8)), r"a tensor \(3, T, H, W\), not torch.float32 \(2, 3, 8, 8\)"),
        (sample_of([torch.zeros(3, 2, 8, 8)]), "not list"),
        ({"label": 0}, "not NoneType"),
        (sample_of(torch.zeros(3, 2, 8, 8), aug_index=3), "aug_index=3, but num_crops=3"),
    ],
)
def test_other_dictionaries_are_refused(sample, message):
    with pytest.raises(ValueError, match=message):
        DictTransform(EvalTransform(8), num_crops=3)(sample)


def test_several_clips_at_once_are_refused(manifest):
    samples = dataset(
        to_labeled_video_paths(manifest),
        RandomMultiClipSampler(Fraction(4, FPS), 2),
        DictTransform(EvalTransform(8)),
    )
    with pytest.raises(ValueError, match="RandomMultiClipSampler"):
        next(samples)


@pytest.mark.parametrize("sample", [sample_of(torch.zeros(3, 2, 8, 8)), {"label": 0}])
def test_only_transformed_samples_become_clips(sample):
    with pytest.raises(ValueError, match="was not transformed"):
        to_clip(sample)


@pytest.mark.parametrize("arguments", [{"num_frames": 0}, {"num_crops": 0}])
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        DictTransform(EvalTransform(8), **arguments)
