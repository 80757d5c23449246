"""What every decoder promises, and what the choice of one does; which encodings they read is in test_encodings."""

import importlib.util
import pickle
import random
import tarfile
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from installed_decoders import DECODERS, INSTALLED
from numbered_videos import number_of, numbered_frame, write_numbered
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from timesformer_plus.data import containers, decoders, frame_reader
from timesformer_plus.data.containers import FrameTimes, Limits, identify, index_frames
from timesformer_plus.data.decoders import DecodeError, describe_auto, open_video, resolve_decoder

GROUPS = {"g": "10", "bf": "2", "x264-params": "scenecut=0"}


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """Forty numbered frames of 48x64, H.264, 25 a second."""
    return write_numbered(tmp_path_factory.mktemp("video") / "plain.mp4", options=GROUPS)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(asked=st.lists(st.integers(0, 39), min_size=1, max_size=9))
@pytest.mark.parametrize("decoder", DECODERS)
def test_any_list_of_indices(decoder, asked, plain):
    frames = open_video(plain, decoder).read(asked)
    assert [number_of(frame) for frame in frames] == asked


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_decoder_says_what_it_is(decoder, plain):
    video = open_video(plain, decoder)
    assert (video.name, video.num_frames, video.fps, video.size) == (decoder, 40, 25, (48, 64))
    assert list(video.times) == pytest.approx([i / 25 for i in range(40)])


@pytest.fixture
def two_videos(tmp_path):
    """A small video, numbers from 0, and behind it a large one, numbers from 100."""
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for scale, stream in enumerate(streams, start=1):
            stream.height, stream.width, stream.pix_fmt = 48 * scale, 64 * scale, "yuv420p"
        for i in range(10):
            for first, stream in zip((0, 100), streams, strict=True):
                picture = numbered_frame(first + i, stream.height, stream.width)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_first_of_several_videos_is_read(decoder, two_videos):
    if decoder == "decord":
        with pytest.raises(DecodeError, match=r"would return wrong frames, of its 2 videos.*use decoder='pyav'"):
            open_video(two_videos, decoder)
        return
    video = open_video(two_videos, decoder)
    assert video.size == (48, 64)
    assert [number_of(frame) for frame in video.read([0, 7])] == [0, 7]


def write_with_cover(path):
    """Ten numbered frames, and a larger picture of the number 200."""
    with av.open(str(path), "w") as container:
        stream, cover = container.add_stream("libx264", rate=25), container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        cover.height, cover.width, cover.pix_fmt = 96, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(numbered_frame(200, 96, 96), format="rgb24")
        container.mux(cover.encode(picture))
        for i in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(i), format="rgb24")))
        container.mux(stream.encode())
        container.mux(cover.encode())
    return path


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_cover_is_not_another_video(decoder, tmp_path):
    path = write_with_cover(tmp_path / "cover.mp4")
    assert [number_of(frame) for frame in open_video(path, decoder).read([9, 0])] == [9, 0]


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_cover_that_comes_first_is_not_the_video(decoder, tmp_path):
    path = write_with_cover(tmp_path / "cover.mp4")
    content = path.read_bytes()
    begin = content.index(b"moov") - 4
    header, track, data = (content.index(kind, begin) - 4 for kind in (b"mvhd", b"trak", b"udta"))
    assert header < track < data
    # what tells of the cover put before what tells of the video; all keep their lengths
    (tmp_path / "first.mp4").write_bytes(content[:track] + content[data:] + content[track:data])
    with av.open(str(tmp_path / "first.mp4")) as container:
        assert [stream.codec_context.name for stream in container.streams.video] == ["mjpeg", "h264"]
    if decoder == "pyav":
        assert [number_of(frame) for frame in open_video(tmp_path / "first.mp4", decoder).read([9, 0])] == [9, 0]
    else:
        with pytest.raises(DecodeError, match="a cover picture comes before its video; use decoder='pyav'"):
            open_video(tmp_path / "first.mp4", decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("indices", [[40], [-1], [0, 41], []])
def test_indices_outside_are_refused(decoder, indices, plain):
    video = open_video(plain, decoder)
    with pytest.raises(IndexError, match="allowed are 0 to 39"):
        video.read(indices)


@pytest.fixture
def noisy(tmp_path):
    """A file large enough to be damaged in the middle: noise does not compress."""
    path = tmp_path / "noisy.mp4"
    pictures = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "8", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_off_file_is_refused(decoder, share, noisy):
    content = noisy.read_bytes()
    noisy.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError, match=r"noisy.mp4: is cut off: [\d,]+ of [\d,]+ bytes are missing"):
        open_video(noisy, decoder)


def overwrite(path, place):
    """Put noise over 200 bytes of the coded pictures, behind an index that stays intact; ``place`` in 0..1."""
    content = path.read_bytes()
    start = content.index(b"mdat") + 8
    at = start + int((len(content) - start) * place)
    path.write_bytes(content[:at] + random.Random(0).randbytes(200) + content[at + 200 :])


@pytest.mark.parametrize("decoder", DECODERS)
def test_damage_that_stops_the_decoder_is_an_error(decoder, noisy):
    overwrite(noisy, 0.3)
    with pytest.raises(DecodeError, match=r"noisy.mp4: "):
        open_video(noisy, decoder).read(range(24))


def test_damage_that_ffmpeg_covers_up_never_shows_a_neighbour(noisy):
    """One picture is patched up by FFmpeg: PyAV tells, the others cannot know; every other picture is its own."""
    good = open_video(noisy, "pyav").read(range(24))
    overwrite(noisy, 0.6)
    with pytest.raises(DecodeError, match="frame 14 of 24 is damaged"):
        open_video(noisy, "pyav").read(range(24))
    for decoder in set(INSTALLED) - {"pyav"}:
        frames = open_video(noisy, decoder).read(range(24))
        assert [i for i in range(24) if not np.array_equal(frames[i], good[i])] == [14]


LEFTOVERS = {
    "zeros behind an mp4": ("a.mp4", lambda content: content + bytes(100)),
    "words behind an mp4": ("a.mp4", lambda content: content + b"written by a tool that signs its files"),
    "a free box that is cut off": ("a.mp4", lambda content: content + b"\0\0\1\0free" + bytes(10)),
    "zeros behind a matroska file": ("a.mkv", lambda content: content + bytes(100)),
    "a length left open, as when it was sent live": ("a.mkv", lambda content: open_ended(content)),
    "zeros behind an avi": ("a.avi", lambda content: content + bytes(100)),
}


def open_ended(content):
    place = content.index(b"\x18\x53\x80\x67") + 4
    return content[:place] + b"\x01" + b"\xff" * 7 + content[place + 8 :]


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_is_not_cut_off(name, tmp_path):
    file, change = LEFTOVERS[name]
    path = write_numbered(tmp_path / file, codec="mpeg4", options={"g": "10"})
    path.write_bytes(change(path.read_bytes()))
    assert [number_of(frame) for frame in open_video(path, "auto").read(range(40))] == list(range(40))


@pytest.mark.parametrize("decoder", DECODERS)
def test_sound_is_passed_over(decoder, tmp_path):
    """It begins before the pictures, and goes on after them."""
    path = tmp_path / "loud.mp4"
    with av.open(str(path), "w") as container:
        sound, stream = container.add_stream("aac", rate=8000), container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 32_000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        for i in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(i), format="rgb24")))
        container.mux(stream.encode())
        container.mux(sound.encode())
    video = open_video(path, decoder)
    assert [number_of(frame) for frame in video.read([19, 0, 7])] == [19, 0, 7]
    assert video.times[0] == 0
    assert index_frames(path).seconds == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_index_that_is_cut_off_is_refused(decoder, plain, tmp_path):
    path = tmp_path / "half.mp4"
    content = plain.read_bytes()  # the index comes last
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError, match=r"half.mp4: is cut off"):
        open_video(path, decoder)


def test_decode_error_survives_the_way_back_from_a_worker():
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "is damaged", "damaged")))
    assert str(error) == "a.mp4: is damaged"
    assert (error.reason, error.kind) == ("is damaged", "damaged")
    # torch raises it again with the worker's traceback as the only argument
    assert str(DecodeError("Caught DecodeError ...")) == "Caught DecodeError ..."


@pytest.fixture
def archive(plain, tmp_path):
    """A tar shard that holds three videos, the second one turned back to front, and where each lies."""
    other = write_numbered(tmp_path / "other.mkv", 12, hide=0, options=GROUPS)
    path = tmp_path / "shard-000.tar"
    with tarfile.open(path, "w") as tar:
        for i, file in enumerate((plain, other, plain)):
            tar.add(file, f"{i}{file.suffix}")
    with tarfile.open(path) as tar:
        return path, [(member.offset_data, member.size) for member in tar]


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_member_of_an_archive_is_read_in_place(decoder, archive, plain):
    path, members = archive
    if decoder == "decord":
        with pytest.raises(DecodeError, match=r"decord reads whole files only.*use decoder='pyav'"):
            open_video(path, decoder, member=members[0])
        return
    videos = [open_video(path, decoder, member=member) for member in members]
    assert [video.num_frames for video in videos] == [40, 12, 40]
    assert [number_of(frame) for frame in videos[1].read([11, 0, 5])] == [11, 0, 5]
    whole = open_video(plain, decoder).read(range(40))
    assert np.array_equal(videos[0].read(range(40)), whole)
    assert np.array_equal(videos[2].read(range(40)), whole)
    assert list(videos[2].times) == list(open_video(plain, decoder).times)


def test_what_a_member_of_an_archive_cannot_be(archive):
    path, [first, *_] = archive
    with pytest.raises(DecodeError, match="too few for a member") as caught:
        open_video(path, member=(first[0], 10**9))
    assert caught.value.kind == "cut off"
    with pytest.raises(DecodeError, match="the member at byte 3 is no video"):
        open_video(path, member=(3, first[1]))
    # it ends where it ends, though the archive goes on
    with pytest.raises(DecodeError, match=rf"the member at byte {first[0]} is cut off"):
        open_video(path, member=(first[0], first[1] // 2))
    with pytest.raises(DecodeError, match="is empty"):
        open_video(path, member=(first[0], 0))


@pytest.mark.parametrize("decoder", DECODERS)
def test_smaller_frames_are_the_same_for_every_decoder(decoder, plain):
    """One resizer, whatever decoded them: torchvision's, applied to the frames as they are stored."""
    whole = torch.from_numpy(open_video(plain, "pyav").read([3, 30])).permute(0, 3, 1, 2)
    expected = resize(whole, [24, 32], InterpolationMode.BILINEAR, antialias=True).permute(0, 2, 3, 1).numpy()
    video = open_video(plain, decoder, short_side=24)
    assert video.size == (24, 32)
    assert np.array_equal(video.read([3, 30]), expected)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((48, 64), 30, (30, 40)), ((64, 48), 31, (41, 31)), ((48, 64), 48, (48, 64)), ((48, 64), 500, (48, 64))],
)
def test_frames_keep_their_shape_and_are_never_enlarged(size, short_side, expected, tmp_path):
    video = open_video(write_numbered(tmp_path / "a.mp4", 2, size=size), short_side=short_side)
    assert video.size == expected
    assert video.read([1]).shape == (1, *expected, 3)


def test_much_is_decoded_in_blocks(plain, monkeypatch):
    whole = {decoder: open_video(plain, decoder).read(range(40)) for decoder in INSTALLED}
    monkeypatch.setattr(frame_reader, "_BLOCK_BYTES", 7 * 48 * 64 * 3)
    for decoder, frames in whole.items():
        assert np.array_equal(open_video(plain, decoder).read(range(40)), frames)
        assert len(open_video(plain, decoder, short_side=8).read(range(40))) == 40


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_file_bytes": 1000}, r"bytes, above data.limits.max_file_bytes=1,000; raise that limit"),
        ({"max_pixels": 48 * 64 - 1}, "frames of 48x64 pixels, above data.limits.max_pixels=3,071"),
        ({"max_seconds": 1.5}, "2 seconds, above data.limits.max_seconds=1.5"),
        ({"max_frames": 39}, "40 frames, above data.limits.max_frames=39"),
    ],
)
def test_a_video_beyond_a_limit_is_refused(decoder, limits, message, plain):
    for _ in range(2):  # the second time with the index at hand, made under other limits
        with pytest.raises(DecodeError, match=message) as caught:
            open_video(plain, decoder, limits=Limits(**limits))
        assert caught.value.kind == "too large"
        assert open_video(plain, decoder).num_frames == 40


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_read_beyond_the_limit_is_refused(decoder, plain):
    video = open_video(plain, decoder, limits=Limits(max_read_bytes=10 * 48 * 64 * 3))
    assert len(video.read(range(10))) == 10
    with pytest.raises(DecodeError, match=r"11 frames of 48x64, above data.limits.max_read_bytes=92,160"):
        video.read(range(11))
    small = open_video(plain, decoder, short_side=24, limits=Limits(max_read_bytes=10 * 48 * 64 * 3))
    assert len(small.read(range(40))) == 40


@pytest.mark.parametrize("name", ["max_file_bytes", "max_pixels", "max_seconds", "max_frames", "max_read_bytes"])
def test_a_limit_is_above_zero(name):
    with pytest.raises(ValueError, match=rf"limits.{name}=0: must be above 0"):
        Limits(**{name: 0})


@pytest.mark.parametrize(("wrong", "message"), [({"short_side": 0}, "short_side=0"), ({"fps": -1.0}, "fps=-1.0")])
def test_options_without_a_meaning(wrong, message, plain):
    with pytest.raises(ValueError, match=message):
        open_video(plain, **wrong)


def test_the_list_of_frames_is_made_once_a_file(plain, tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(plain.read_bytes())
    made = []
    read = containers._read_index
    monkeypatch.setattr(containers, "_read_index", lambda *arguments: made.append(1) or read(*arguments))
    monkeypatch.setattr(containers, "_INDICES", type(containers._INDICES)(max_frames=100))
    assert index_frames(path) is index_frames(path)
    assert len(made) == 1
    # another file of the same name
    write_numbered(path, 7)
    assert len(index_frames(path)) == 7
    assert len(made) == 2
    # bounded by the frames remembered, and never less than the last
    index_frames(plain)
    assert [len(index) for index in containers._INDICES.values()] == [40, 7, 40]
    index_frames(write_numbered(tmp_path / "b.mp4", 30))
    assert [len(index) for index in containers._INDICES.values()] == [7, 40, 30]
    # what was asked for last is dropped last
    index_frames(path)
    index_frames(write_numbered(tmp_path / "c.mp4", 60))
    assert [len(index) for index in containers._INDICES.values()] == [30, 7, 60]
    index_frames(write_numbered(tmp_path / "d.mp4", 200))
    assert [len(index) for index in containers._INDICES.values()] == [200]


def test_what_an_index_tells(plain):
    index = index_frames(plain)
    assert (index.container, index.codec, index.size, index.announced) == ("mov", "h264", (48, 64), 40)
    assert (index.fps, index.seconds, index.trouble) == (25, pytest.approx(1.6), "")
    assert identify(plain) == "mov"
    # what it takes up for a video of an hour: eight bytes a frame, and a few for every key frame
    assert index.times.ticks.nbytes == 40 * 8
    assert index.keys.shape == (4,)


def test_times_are_numbers_like_any():
    times = FrameTimes(np.arange(0, 5000, 1001), Fraction(1, 24000))
    assert len(times) == 5
    assert times[1] == 1001 / 24000
    assert times.exact(2) == Fraction(2002, 24000)
    assert list(times[1:3]) == [times[1], times[2]]
    assert np.array_equal(np.asarray(times), [times[i] for i in range(5)])
    assert np.asarray(times, np.float32).dtype == np.float32
    assert repr(times) == "FrameTimes(5 frames, ticks of 1/24000 s)"
    assert 1001 / 24000 in times
    with pytest.raises(IndexError):
        times[5]


def test_a_link_to_a_file_is_one(plain, tmp_path):
    link = tmp_path / "link.mp4"
    link.symlink_to(plain)
    assert open_video(link, "pyav").num_frames == 40


@pytest.mark.parametrize("name", ["concat:a.mp4", "http:x.mp4", "-i.mp4", "a b%03d.mp4", "ä;$(x).mp4"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_names_are_names(name, decoder, plain, tmp_path, monkeypatch):
    """Nothing in the name of a file is an address, a pattern or an option, even where it is relative."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(plain.read_bytes())
    assert [number_of(frame) for frame in open_video(name, decoder).read([7])] == [7]


@pytest.fixture
def missing(monkeypatch):
    """Make modules look not installed."""
    find = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest)
        )

    return hide


@pytest.mark.parametrize(
    ("decoder", "hidden", "message"),
    [
        ("decord", ["decord"], "needs decord, not installed here; run `pip install decord`"),
        ("pyav", ["av"], "needs av, not installed here; run `pip install av`"),
        ("pytorchvideo", ["pytorchvideo"], "needs pytorchvideo, not installed here"),
        ("pytorchvideo", ["pytorchvideo", "av"], "needs pytorchvideo and av.*`pip install pytorchvideo av`"),
        ("torchcodec", ["torchcodec"], "needs torchcodec, not installed here; run `pip install torchcodec`"),
        ("auto", ["av"], "decoder='auto' needs av, not installed here; run `pip install av`$"),
    ],
)
def test_missing_decoder(decoder, hidden, message, missing, plain):
    missing(*hidden)
    with pytest.raises(ImportError, match=message):
        open_video(plain, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_are_upright(degrees, decoder, tmp_path):
    """A phone stores the picture lying down, and how to turn it; frames come as players show them."""
    upright = write_numbered(tmp_path / "upright.mp4", 5, size=(64, 96))
    content = bytearray(upright.read_bytes())
    place, one = content.index(b"tkhd") + 44, 1 << 16
    rows = {90: (0, one, 0, -one), 180: (-one, 0, 0, 0, -one), 270: (0, -one, 0, one)}[degrees]
    matrix = [*rows, *[0] * (8 - len(rows)), 1 << 30]
    content[place : place + 36] = b"".join((value & 0xFFFFFFFF).to_bytes(4, "big") for value in matrix)
    (tmp_path / "turned.mp4").write_bytes(content)
    video = open_video(tmp_path / "turned.mp4", decoder)
    assert video.size == ((64, 96) if degrees == 180 else (96, 64))
    back = np.rot90(video.read([0, 4]), degrees // 90, (1, 2))
    assert np.array_equal(back, open_video(upright, decoder).read([0, 4]))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("width", [16, 24, 32, 40, 48, 56, 72, 80])
def test_narrow_pictures_are_read_or_refused(width, decoder, tmp_path):
    path = write_numbered(tmp_path / "narrow.mp4", 3, size=(48, width))
    if decoder == "decord" and width in (16, 24, 48, 72):
        with pytest.raises(DecodeError, match=f"pictures of this width, {width} pixels; use decoder='pyav'"):
            open_video(path, decoder)
        return
    assert [number_of(frame) for frame in open_video(path, decoder).read([2, 1])] == [2, 1]


def test_auto_is_pyav(plain):
    assert open_video(plain, "auto").name == open_video(plain).name == "pyav"
    assert resolve_decoder("auto") == "auto"
    assert describe_auto() == "auto: PyAV reads every video"


def test_auto_never_falls_back_on_another_decoder(plain, monkeypatch):
    """What cannot be read by the decoder that a file's kind calls for is an error, in every worker the same."""

    def fail(*_, **__):
        raise DecodeError("a.mp4", "the library failed", "damaged")

    monkeypatch.setattr(decoders, "_DECODERS", dict.fromkeys(decoders._DECODERS, fail))
    with pytest.raises(DecodeError, match="the library failed"):
        open_video(plain)


@pytest.fixture
def no_ffmpeg(monkeypatch):
    """Make torchcodec look installed, but unable to load FFmpeg: ``raises`` as before 0.17, otherwise as since."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())

    def fail(raises):
        def load(name):
            assert name == "torchcodec"
            if raises:
                raise RuntimeError("Could not load libtorchcodec. Likely causes:\n and so on")
            return SimpleNamespace(ffmpeg_major_version=None)

        monkeypatch.setattr(importlib, "import_module", load)

    return fail


@pytest.mark.parametrize("raises", [True, False])
def test_torchcodec_without_ffmpeg_says_what_to_install(raises, no_ffmpeg):
    no_ffmpeg(raises)
    with pytest.raises(ImportError, match=r"`pip install torchcodec`.*needs the system's FFmpeg libraries") as caught:
        resolve_decoder("torchcodec")
    assert "could not load" in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_a_torchcodec_that_does_not_turn_videos_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    old = SimpleNamespace(VideoStreamMetadata=SimpleNamespace(__dataclass_fields__={"width": None}))
    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(ffmpeg_major_version=6, decoders=old))
    with pytest.raises(ImportError, match=r"older than 0\.11 and leaves turned videos lying"):
        resolve_decoder("torchcodec")


def test_unknown_decoder(plain):
    with pytest.raises(ValueError, match="decoder='opencv' is unknown; allowed are 'auto', 'decord', 'pyav'"):
        open_video(plain, "opencv")


def test_the_numbers_can_be_read():
    """The test's own tool: each of the 256 numbers survives, and differs from its neighbour."""
    assert [number_of(numbered_frame(n)) for n in range(256)] == list(range(256))
