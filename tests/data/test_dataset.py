"""The data set: clips depend on their key and nothing else."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from installed_decoders import DECODERS
from numbered_videos import BITS, write_numbered
from torch.utils.data import DataLoader

from timesformer_plus.data import Clip, ClipReader, EvalTransform, TrainTransform, VideoDataset, read_csv
from timesformer_plus.data.dataset import MAX_SUBSTITUTES
from timesformer_plus.data.decoders import DecodeError

LENGTHS = (30, 12, 7, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four numbered videos of different lengths, the third shorter than the clips below."""
    path = tmp_path_factory.mktemp("videos")
    for i, length in enumerate(LENGTHS):
        write_numbered(path / f"{i}.mp4", length, options={"g": "6"})
    (path / "train.csv").write_text("path,label\n0.mp4,walk\n1.mp4,run\n2.mp4,run\n3.mp4,walk\n")
    (path / "bits.csv").write_text("path,label\n0.mp4,run;walk\n1.mp4,run\n2.mp4,\n3.mp4,walk\n")
    return path


@pytest.fixture(scope="module")
def manifest(folder):
    return read_csv(folder / "train.csv")


def numbers(clip: Clip) -> list[int]:
    """The numbers that the frames of an uncropped clip carry."""
    frames = clip.video[0, :, 20:44]
    centres = [(2 * bit + 1) * frames.shape[-1] // (2 * BITS) for bit in range(BITS)]
    bits = frames[..., centres].float().mean(dim=1) > 127
    return [int(sum(int(on) << (BITS - 1 - bit) for bit, on in enumerate(row))) for row in bits]


READER_OPTIONS = {"num_frames", "stride", "sampling", "target_fps", "short", "num_clips", "decoder", "cache_mb"}


def make(manifest, *, training=False, transform=None, **arguments):
    given = (READER_OPTIONS | {"cache_dir"}) & arguments.keys()
    reading = {"num_frames": 4, "stride": 3} | {name: arguments.pop(name) for name in given}
    reader = ClipReader(training=training, **reading)
    return VideoDataset(manifest, reader, transform or EvalTransform((48, 64)), **arguments)


def augmented(manifest, **arguments):
    return make(manifest, **({"training": True, "transform": TrainTransform(24, hflip=0.5), "seed": 3} | arguments))


def test_a_clip(manifest):
    clip = make(manifest)[(0, 3, 0)]
    assert clip.video.shape == (3, 4, 48, 64)
    assert clip.video.dtype == torch.uint8
    assert clip.target.dtype == torch.int64
    assert clip.target.shape == ()
    assert (clip.target.item(), clip.index, clip.view, clip.wanted) == (1, 3, 0, 3)
    assert (clip.problem, clip.reason, clip.short) == ("", "", False)
    assert numbers(clip) == [5, 8, 11, 14]


def test_views_are_clips_in_time_by_crops_in_space(manifest):
    dataset = make(manifest, num_clips=2, num_crops=3, transform=EvalTransform(48))
    assert dataset.num_views == 6
    assert len(dataset) == 4
    views = [dataset[(0, 0, v)].video for v in range(6)]
    wide = make(manifest, num_clips=2)
    for clip, crop in itertools.product(range(2), range(3)):
        whole = wide[(0, 0, clip)]
        assert numbers(whole)[0] == (0, 20)[clip]
        left = (0, 8, 16)[crop]
        assert torch.equal(views[3 * clip + crop], whole.video[..., left : left + 48])


def test_crops_of_a_clip_are_cut_from_frames_that_are_read_once(manifest, monkeypatch):
    def watched():
        dataset = make(manifest, num_clips=2, num_crops=3, transform=EvalTransform(48))
        read, opened = dataset.reader.read, []
        monkeypatch.setattr(
            dataset.reader, "read", lambda sample, **given: opened.append(sample.id) or read(sample, **given)
        )
        return dataset, opened

    dataset, opened = watched()
    forwards = {(i, v): dataset[(0, i, v)].video for i in range(2) for v in range(6)}
    assert opened == ["0.mp4"] * 2 + ["1.mp4"] * 2
    # in another order they are read again, and are the same
    dataset, opened = watched()
    for i, v in itertools.product(range(2), (5, 0, 4, 1, 3, 2)):
        assert torch.equal(dataset[(0, i, v)].video, forwards[i, v])
    assert len(opened) == 12


@pytest.mark.parametrize(("short", "expected"), [("repeat", [0, 3, 6, 6]), ("loop", [0, 3, 6, 2])])
def test_short_videos(manifest, short, expected):
    clip = make(manifest, short=short)[(0, 2, 0)]
    assert numbers(clip) == expected
    assert clip.short
    assert not make(manifest, short=short)[(0, 3, 0)].short


def test_short_videos_can_be_refused(manifest):
    with pytest.raises(DecodeError, match=r"2\.mp4: the video has 7 frames.*reaches over 10"):
        make(manifest, short="error")[(0, 2, 0)]
    # and then count as unreadable in training
    clip = make(manifest, short="error", training=True, on_error="substitute")[(0, 2, 0)]
    assert clip.wanted == 2 != clip.index
    assert clip.problem == "unfit part"


def test_by_seconds(manifest):
    """25 frames a second: 12.5 a second are every other frame."""
    clip = make(manifest, sampling="seconds", target_fps=12.5)[(0, 3, 0)]
    assert np.diff(numbers(clip)).tolist() == [2, 2, 2]


def test_a_labelled_part_of_a_video(folder):
    """Frames 10 to 19 of 30 are on screen from 0.4 to 0.8 s."""
    (folder / "parts.csv").write_text("path,label,start,end\n0.mp4,walk,0.4,0.8\n")
    manifest = read_csv(folder / "parts.csv")
    assert numbers(make(manifest)[(0, 0, 0)]) == [10, 13, 16, 19]
    starts = {numbers(make(manifest, stride=1, training=True)[(e, 0, 0)])[0] for e in range(60)}
    assert starts == set(range(10, 17))
    by_seconds = make(manifest, sampling="seconds", target_fps=25)[(0, 0, 0)]
    assert set(numbers(by_seconds)) < set(range(10, 20))
    (folder / "parts.csv").write_text("path,label,start,end\n0.mp4,walk,4,8\n")
    with pytest.raises(DecodeError, match=r"the video ends at 1\.200 s; correct the part"):
        make(read_csv(folder / "parts.csv"))[(0, 0, 0)]


def test_training_starts_anywhere_but_evaluation_never_moves(manifest):
    training, testing = make(manifest, training=True), make(manifest)
    starts = {numbers(training[(epoch, 3, 0)])[0] for epoch in range(80)}
    assert starts == set(range(11))  # 20 frames, span 10
    assert {numbers(testing[(epoch, 3, 0)])[0] for epoch in range(3)} == {5}


def test_segments(manifest):
    assert numbers(make(manifest, sampling="segments")[(0, 3, 0)]) == [2, 7, 12, 17]
    drawn = [numbers(make(manifest, sampling="segments", training=True)[(e, 3, 0)]) for e in range(5)]
    assert len({tuple(row) for row in drawn}) > 1
    assert all(5 * i <= number < 5 * i + 5 for row in drawn for i, number in enumerate(row))


def test_the_key_decides_everything(manifest):
    keys = [(epoch, index, 0) for epoch in range(2) for index in range(4)]
    forwards = {key: augmented(manifest)[key].video for key in keys}
    dataset = augmented(manifest)
    for key in reversed(keys):
        torch.rand(5)  # whatever else draws from the global generator
        assert torch.equal(dataset[key].video, forwards[key])


def test_epoch_seed_index_and_view_all_matter(manifest):
    dataset = augmented(manifest, num_clips=2)
    base = dataset[(0, 0, 0)].video
    assert not torch.equal(base, dataset[(1, 0, 0)].video)
    assert not torch.equal(base, dataset[(0, 0, 1)].video)
    assert not torch.equal(base, augmented(manifest, num_clips=2, seed=4)[(0, 0, 0)].video)
    places = {tuple(numbers(make(manifest, training=True)[(e, i, 0)])) for e in range(3) for i in (0, 0)}
    assert len(places) == 3


def test_loading_leaves_the_global_generators_alone(manifest):
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    augmented(manifest)[(0, 0, 0)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(manifest, workers, tmp_path):
    keys = [(epoch, index, 0) for epoch in range(2) for index in (2, 0, 3, 1)]
    alone = [augmented(manifest)[key] for key in keys]
    dataset = augmented(manifest, cache_mb=1, cache_dir=tmp_path)
    loader = DataLoader(dataset, batch_size=2, sampler=keys, num_workers=workers, persistent_workers=True)
    for _ in range(2):
        batches = list(loader)
        assert isinstance(batches[0], Clip)
        assert torch.equal(torch.cat([b.video for b in batches]), torch.stack([c.video for c in alone]))
        assert torch.equal(torch.cat([b.target for b in batches]), torch.stack([c.target for c in alone]))
        assert torch.cat([b.index for b in batches]).tolist() == [c.index for c in alone]


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_are_interchangeable(manifest, decoder):
    reference, other = augmented(manifest, decoder="pyav"), augmented(manifest, decoder=decoder)
    assert other.reader.decoder == decoder
    for index in range(4):
        assert torch.equal(reference[(0, index, 0)].video, other[(0, index, 0)].video)


def test_multi_label_targets(folder):
    dataset = make(read_csv(folder / "bits.csv", multi_label=True))
    assert dataset.manifest.classes == ("run", "walk")
    targets = torch.stack([dataset[(0, i, 0)].target for i in range(4)])
    assert targets.dtype == torch.float32
    assert targets.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_video_is_named(tmp_path, workers):
    write_numbered(tmp_path / "good.mp4", 8)
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    (tmp_path / "train.csv").write_text("path,label\ngood.mp4,0\nbad.mp4,0\n")
    dataset = make(read_csv(tmp_path / "train.csv"))
    loader = DataLoader(dataset, sampler=[(0, 0, 0), (0, 1, 0)], num_workers=workers)
    with pytest.raises(DecodeError, match=r"bad\.mp4"):
        list(loader)


@pytest.fixture(scope="module")
def some_bad(tmp_path_factory):
    """Ten videos, of which 0, 3 and 6 are none; each with a class of its own."""
    folder = tmp_path_factory.mktemp("some_bad")
    for i in range(10):
        write_numbered(folder / f"{i}.mp4", 12)
    for i in (0, 3, 6):
        (folder / f"{i}.mp4").write_bytes(b"this is no video" * 40)
    (folder / "train.csv").write_text("path,label\n" + "".join(f"{i}.mp4,{i}\n" for i in range(10)))
    return read_csv(folder / "train.csv")


def test_a_substitute_is_a_function_of_the_key_and_has_its_own_label(some_bad):
    dataset = make(some_bad, training=True, on_error="substitute", seed=1)
    shown = {}
    for epoch, wanted in itertools.product(range(6), range(10)):
        clip = dataset[(epoch, wanted, 0)]
        assert (clip.index == wanted) == (wanted not in (0, 3, 6))
        assert clip.index not in (0, 3, 6)
        assert clip.target.item() == clip.index
        assert clip.wanted == wanted
        assert (clip.problem == "not a video") == (clip.index != wanted)
        assert (f"{wanted}.mp4" in clip.reason) == (clip.index != wanted)
        shown[epoch, wanted] = clip
    assert len({shown[epoch, 0].index for epoch in range(6)}) > 1
    again = make(some_bad, training=True, on_error="substitute", seed=1)
    for (epoch, wanted), clip in reversed(shown.items()):
        assert again[(epoch, wanted, 0)].index == clip.index
        assert torch.equal(again[(epoch, wanted, 0)].video, clip.video)


def test_a_substitute_does_not_depend_on_where_the_reading_failed(some_bad, monkeypatch):
    """Before a random number is drawn, or after: what stands in is the same."""
    dataset = make(some_bad, training=True, on_error="substitute", seed=1)
    expected = [dataset[(epoch, 0, 0)].index for epoch in range(8)]
    read = dataset.reader.read

    def late(sample, *, generator, clip):
        if sample.id == "0.mp4":
            torch.rand(3, generator=generator)
        return read(sample, generator=generator, clip=clip)

    monkeypatch.setattr(dataset.reader, "read", late)
    assert [dataset[(epoch, 0, 0)].index for epoch in range(8)] == expected


@pytest.mark.parametrize("on_error", ["raise", "substitute"])
def test_a_second_attempt_saves_a_video(some_bad, monkeypatch, on_error):
    """A disk that fails every other time: the clip is that of a healthy one, and nothing is counted."""
    healthy = make(some_bad, training=True)[(0, 1, 0)]
    dataset = make(some_bad, training=True, on_error=on_error)
    read, attempts = dataset.reader.read, []

    def flaky(sample, **arguments):
        attempts.append(sample.id)
        frames = read(sample, **arguments)
        if len(attempts) % 2:
            raise DecodeError(sample.path, "the network disk is away", kind="unreadable")
        return frames

    monkeypatch.setattr(dataset.reader, "read", flaky)
    clip = dataset[(0, 1, 0)]
    assert attempts == ["1.mp4"] * 2
    assert clip.problem == ""
    assert torch.equal(clip.video, healthy.video)


def test_what_is_known_to_be_unreadable_is_not_tried(manifest, monkeypatch):
    known = dataclasses.replace(manifest, unreadable={"1.mp4": "hangs: took 60 s"})
    dataset, opened = make(known), []
    read = dataset.reader.read
    monkeypatch.setattr(dataset.reader, "read", lambda s, **how: opened.append(s.id) or read(s, **how))
    with pytest.raises(DecodeError, match=r"1\.mp4: hangs: took 60 s"):
        dataset[(0, 1, 0)]
    assert dataset[(0, 2, 0)].index == 2
    assert opened == ["2.mp4"]


def test_views_of_a_failed_video_fail_at_once_until_it_is_begun_again(manifest, monkeypatch):
    dataset, opened = make(manifest, num_clips=2, num_crops=2), []
    read, broken = dataset.reader.read, {"1.mp4"}

    def once(sample, **how):
        opened.append(sample.id)
        if sample.id in broken:
            raise DecodeError(sample.path, "is cut off", "damaged")
        return read(sample, **how)

    monkeypatch.setattr(dataset.reader, "read", once)
    said = []
    for view in range(4):
        with pytest.raises(DecodeError, match="is cut off") as caught:
            dataset[(0, 1, view)]
        said.append(caught.value)
    assert opened == ["1.mp4"] * 2
    assert all(error is said[0] for error in said)
    # another evaluation finds the disk well again
    broken.clear()
    assert [dataset[(0, 1, view)].view for view in range(4)] == [0, 1, 2, 3]
    # in training every draw is tried
    broken.add("1.mp4")
    training = make(manifest, training=True)
    monkeypatch.setattr(training.reader, "read", once)
    opened.clear()
    for view in range(2):
        with pytest.raises(DecodeError):
            training[(0, 1, view)]
    assert len(opened) == 4


def test_where_nothing_can_be_read_the_first_is_named(tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_bytes(b"this is no video" * 40)
    (tmp_path / "train.csv").write_text("path,label\n0.mp4,0\n1.mp4,0\n2.mp4,0\n")
    dataset = make(read_csv(tmp_path / "train.csv"), training=True, on_error="substitute")
    attempts = []
    read = dataset.reader.read
    monkeypatch.setattr(dataset.reader, "read", lambda *a, **k: attempts.append(1) or read(*a, **k))
    with pytest.raises(DecodeError, match=r"1\.mp4"):
        dataset[(0, 1, 0)]
    assert len(attempts) == 2 + MAX_SUBSTITUTES


def test_mirrored_clips_exchange_their_labels(folder):
    (folder / "sides.csv").write_text("path,label\n0.mp4,left\n1.mp4,right\n3.mp4,up\n")
    mirror = TrainTransform((48, 64), scale=None, hflip=1.0)
    manifest = read_csv(folder / "sides.csv", classes=["left", "right", "up"])
    dataset = make(manifest, transform=mirror, flip_pairs=[(0, 1)])
    assert [dataset[(0, i, 0)].target.item() for i in range(3)] == [1, 0, 2]
    assert torch.equal(dataset[(0, 0, 0)].video.flip(-1), make(manifest)[(0, 0, 0)].video)
    assert [make(manifest, flip_pairs=[(0, 1)])[(0, i, 0)].target.item() for i in range(3)] == [0, 1, 2]
    several = make(read_csv(folder / "bits.csv", multi_label=True), transform=mirror, flip_pairs=[(0, 1)])
    assert [several[(0, i, 0)].target.tolist() for i in range(4)] == [[1, 1], [0, 1], [0, 0], [1, 0]]


def test_a_plain_number_is_no_key(manifest):
    with pytest.raises(TypeError, match=r"looked up by \(epoch, index, view\)"):
        make(manifest)[0]


@pytest.mark.parametrize("key", [(0, 4, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1), (-1, 0, 0)])
def test_keys_outside(manifest, key):
    with pytest.raises(IndexError, match="4 videos with 1 views"):
        make(manifest)[key]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames=0"),
        ({"stride": 0}, "stride=0"),
        ({"num_clips": 0}, "num_clips=0"),
        ({"num_crops": 0}, "num_crops=0"),
        ({"sampling": "dense"}, "sampling='dense' is unknown"),
        ({"seed": -1}, "seed=-1"),
        ({"cache_mb": -1}, "cache_mb=-1"),
        ({"cache_mb": 1}, "cache_dir=None: name the folder of decoded videos"),
        ({"cache_dir": "here"}, "cache_mb=0 with cache_dir='here'"),
        ({"short": "wrap"}, "short='wrap' is unknown; allowed are 'repeat', 'loop', 'error'"),
        ({"target_fps": 5}, "sampling='seconds' needs"),
        ({"sampling": "seconds"}, "sampling='seconds' needs"),
        ({"on_error": "skip"}, "on_error='skip' is unknown; allowed are 'raise', 'substitute'"),
        ({"flip_pairs": [(0, 2)]}, r"flip pair \(0, 2\)"),
        ({"flip_pairs": [(0, 0)]}, r"flip pair \(0, 0\)"),
        ({"flip_pairs": [(0, 1), (1, 0)]}, r"flip pair \(1, 0\)"),
        ({"decoder": "opencv"}, "decoder='opencv' is unknown"),
    ],
)
def test_nonsense_is_refused(manifest, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(manifest, **arguments)
