"""Real encodings: frame i is the i-th frame of one sequential decode for every decoder, or the file is refused."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from installed_decoders import DECODERS, INSTALLED, NAMES
from numbered_videos import copy_packets, number_of, numbered_frame, sequential_numbers, write_numbered

from timesformer_plus.data import decoder_table
from timesformer_plus.data.containers import index_frames
from timesformer_plus.data.decoders import DecodeError, PyAVDecoder, open_video
from timesformer_plus.data.encodings import ENCODINGS, write_encoding

BY_TIME = ("pyav", "pytorchvideo", "torchcodec")
# who reads which encoding; the others have to refuse it. Those not named here are read by all four
READERS = {
    "H.264, open groups": BY_TIME,
    "H.264, intra refresh": ("pyav",),
    "H.264, edit list": BY_TIME,
    "H.264, flv": ("pyav",),
    "H.264, transport stream": ("pyav",),
    "H.264, avi": ("pyav",),
    "HEVC, open groups": ("pyav", "torchcodec"),
    "AV1, mp4": BY_TIME,
    "AV1, 10 bits, webm": BY_TIME,
    "MPEG-4, B-frames, mkv": BY_TIME,
    "MPEG-4, avi": ("pyav",),
    "MPEG-2, program stream": ("pyav",),
    "Motion JPEG, avi": ("pyav",),
    "WMV 8, wmv": ("pyav",),
}
ENCODED = pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
# more than 8 bits: each FFmpeg has another way of rounding to 8, which shows at edges of colour
DEEP = {"H.264, 10 bits", "HEVC, 10 bits, mkv", "AV1, 10 bits, webm", "ProRes 4444, alpha, mov"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write each file once: encoding -> path."""
    paths = {}

    def write(encoding):
        if encoding.name not in paths:
            paths[encoding.name] = write_encoding(tmp_path_factory.mktemp("video") / encoding.file, encoding)
        return paths[encoding.name]

    return write


def readers(encoding):
    return READERS.get(encoding.name, NAMES)


def test_the_table_names_real_encodings():
    assert READERS.keys() <= {encoding.name for encoding in ENCODINGS}
    assert len({encoding.name for encoding in ENCODINGS}) == len({e.file for e in ENCODINGS}) == len(ENCODINGS)


@pytest.mark.parametrize("decoder", DECODERS)
@ENCODED
def test_every_decoder_shows_the_right_frames_or_refuses(encoding, decoder, written):
    path = written(encoding)
    verdict = decoder_table.try_sample(path, encoding, decoder)
    assert verdict.wrong == ()
    assert (verdict.decoder == decoder) == (decoder in readers(encoding)), verdict.reason
    if verdict.decoder:
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        video = open_video(path, decoder)
        height, width = encoding.size
        assert video.size == ((width, height) if encoding.turned else (height, width))
        assert video.num_frames == len(frames) == encoding.count - encoding.hide
        assert video.fps == pytest.approx(float(encoding.rate), rel=0.03)
        if frames[0].time is not None and path.suffix != ".avi":
            assert np.allclose(video.times, [frame.time - frames[0].time for frame in frames], atol=2e-3)
        # last, first, an index that comes again, backwards: the order asked for is the order given
        asked = [video.num_frames - 1, 0, video.num_frames // 2, 0]
        read = video.read(asked)
        assert read.dtype == np.uint8
        assert read.shape == (4, *video.size, 3)
        assert np.array_equal(read[::-1], video.read(asked[::-1]))


@ENCODED
def test_auto_reads_every_encoding(encoding, written):
    verdict = decoder_table.try_sample(written(encoding), encoding, "auto")
    assert verdict.wrong == ()
    assert verdict.decoder in readers(encoding), verdict.reason


@ENCODED
def test_the_truth_itself_is_what_was_written(encoding, written):
    path = written(encoding)
    if not encoding.turned:
        assert sequential_numbers(path) == list(range(encoding.hide, encoding.count))


@ENCODED
def test_decoders_agree_to_the_pixel(encoding, written):
    asked = [0] if encoding.count < 20 else [3, 17]
    usable = [name for name in INSTALLED if name in readers(encoding)]
    first, *others = (open_video(written(encoding), name).read(asked).astype(int) for name in usable)
    for other in others:
        if encoding.name in DEEP:
            assert abs(first - other).mean() < 1
        else:
            assert np.array_equal(first, other)


def test_the_table_prints_files_of_ones_own(written, tmp_path, capsys):
    plain, flash = (next(e for e in ENCODINGS if e.file == name) for name in ("plain.mp4", "h264.flv"))
    (tmp_path / "text.mp4").write_text("no video at all")
    decoder_table.main([str(written(plain)), str(written(flash)), str(tmp_path / "text.mp4")])
    head, first, second, third, *_ = capsys.readouterr().out.splitlines()
    usable = [name for name in (*NAMES, "auto") if name in INSTALLED or name == "auto"]
    assert head.split() == ["file", *usable]
    cells = dict(zip(usable, first.split()[1:], strict=True))
    assert all(cells[name] == name for name in INSTALLED)
    cells = dict(zip(usable, second.split()[1:], strict=True))
    assert cells == {name: "pyav" if name in ("pyav", "auto") else "-" for name in usable}
    assert set(third.split()[1:]) == {"-"}


def test_a_decoder_that_returns_neighbours_would_be_found_out(written, monkeypatch):
    plain = ENCODINGS[0]
    read = PyAVDecoder.read
    monkeypatch.setattr(PyAVDecoder, "read", lambda self, indices: read(self, [max(0, i - 1) for i in indices]))
    assert decoder_table.try_sample(written(plain), plain, "pyav").wrong == tuple(range(1, 40))


RED, GREEN, BLUE, GREY = (230, 20, 30), (20, 200, 40), (30, 20, 220), (90, 90, 90)


def write_colours(path, *, pix_fmt="yuv420p", colorspace=None, color_range=None, codec="libx264", options=None):
    """Three frames of four large patches of colour, with the matrix and range that the header then names."""
    picture = np.empty((64, 64, 3), np.uint8)
    picture[:32, :32], picture[:32, 32:], picture[32:, :32], picture[32:, 32:] = RED, GREEN, BLUE, GREY
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"qp": "8"} if options is None else options)
        stream.height, stream.width, stream.pix_fmt = 64, 64, pix_fmt
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if color_range is not None:
            stream.codec_context.color_range = color_range
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=colorspace, dst_color_range=color_range
            )
            frame.pts = i
            if colorspace is not None:
                frame.colorspace = colorspace
            if color_range is not None:
                frame.color_range = color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


BT709, BT601, LIMITED, FULL = 1, 5, 1, 2
X265 = {"codec": "libx265", "options": {"x265-params": "log-level=none:qp=8"}}
COLOURS = {
    "no word of it": {},
    "BT.709": {"colorspace": BT709, "color_range": LIMITED},
    "BT.601": {"colorspace": BT601, "color_range": LIMITED},
    "BT.709, full range": {"colorspace": BT709, "color_range": FULL},
    "BT.601, full range": {"colorspace": BT601, "color_range": FULL},
    "10 bits": {"pix_fmt": "yuv420p10le"},
    "10 bits, BT.709, HEVC": {"pix_fmt": "yuv420p10le", "colorspace": BT709, "color_range": LIMITED, **X265},
    "4:2:2": {"pix_fmt": "yuv422p"},
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("colours", COLOURS)
def test_colours_are_those_of_the_source(colours, decoder, tmp_path):
    path = write_colours(tmp_path / "colours.mp4", **COLOURS[colours])
    picture = open_video(path, decoder).read([1])[0].astype(int)
    patches = picture[16, 16], picture[16, 48], picture[48, 16], picture[48, 48]
    for found, expected in zip(patches, (RED, GREEN, BLUE, GREY), strict=True):
        assert abs(found - expected).max() <= 4


def test_transparency_is_dropped_not_mixed(written):
    """The alpha samples are transparent from end to end; their numbers show all the same."""
    for file in ("alpha.webm", "prores.mov", "qtrle.mov"):
        encoding = next(e for e in ENCODINGS if e.file == file)
        frames = open_video(written(encoding), "pyav").read([5])
        assert abs(frames[0].astype(int) - numbered_frame(5)).max() < 60
        assert number_of(frames[0]) == 5


@pytest.mark.parametrize("decoder", DECODERS)
def test_interlaced_colours_differ_a_little(decoder, tmp_path):
    """Known difference: PyAV's newer FFmpeg converts the colours of the two fields apart, the others of the frame."""
    path = tmp_path / "fields.mp4"
    write_numbered(path, 20, options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
    with av.open(str(path)) as container:
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = open_video(path, decoder).read(range(20))
    assert [number_of(frame) for frame in frames] == list(range(20))
    assert abs(frames.astype(int) - np.stack(truth)).mean() < 8


LONG = {
    "B-frames": ("a.mp4", {}),
    "matroska": ("a.mkv", {}),
    "open groups": ("a.mp4", {"options": {"g": "24", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}}),
    "open groups, matroska": ("a.mkv", {"options": {"g": "24", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}}),
    "open groups, HEVC": ("a.mp4", {"codec": "libx265", "options": {"x265-params": "keyint=24:log-level=none"}}),
    "variable rate": ("a.mp4", {"times": [40 * i + 11 * (i % 3) for i in range(240)]}),
    "edit list": ("a.mp4", {"hide": 30}),
    "fragments": ("a.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "VP9": ("a.webm", {"codec": "libvpx-vp9", "options": {"g": "24", "deadline": "realtime", "cpu-used": "8"}}),
    "AV1": ("a.mp4", {"codec": "libsvtav1", "size": (64, 64), "options": {"g": "24", "preset": "12"}}),
    "intra refresh": ("a.mp4", {"options": {"g": "24", "bf": "0", "x264-params": "scenecut=0:intra-refresh=1"}}),
}


@pytest.mark.parametrize("name", LONG)
def test_pyav_seeks_to_the_frames_of_a_sequential_decode(name, tmp_path, monkeypatch):
    file, how = LONG[name]
    groups = {"options": {"g": "24", "bf": "3", "x264-params": "scenecut=0"}}
    path = write_numbered(tmp_path / file, 240, **(groups | how))
    with av.open(str(path)) as container:
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    video = open_video(path, "pyav")
    assert video.num_frames == len(truth)
    looked_at = []
    matched = PyAVDecoder._matched

    def counting(self, frames, wanted):
        return matched(self, (looked_at.append(1) or frame for frame in frames), wanted)

    monkeypatch.setattr(PyAVDecoder, "_matched", counting)
    for i in np.random.default_rng(0).permutation(len(truth))[:40]:
        assert np.array_equal(video.read([i])[0], truth[i])
    if name not in ("intra refresh", "fragments"):
        # from the start it would be half the video a frame, with seeking half a group and what the decoder holds back
        assert len(looked_at) < 40 * 40
    for asked in ([5, 6, 7, 100, 101, 180], [len(truth) - 1, 3, 120, 3], range(0, len(truth), 9)):
        frames = video.read(asked)
        assert all(np.array_equal(frame, truth[i]) for frame, i in zip(frames, asked, strict=True))


def test_frames_that_vp8_hides_are_no_frames(tmp_path):
    """Its alternate references are decoded and never shown: here two packets are marked as such by hand."""
    options = {"g": "10", "deadline": "realtime", "cpu-used": "8"}
    plain = write_numbered(tmp_path / "plain.webm", codec="libvpx", options=options)

    def hide(i, packet):
        if i not in (5, 23):
            return packet
        content = bytes(packet)
        hidden = av.Packet(bytes([content[0] & ~0x10]) + content[1:])
        hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
        hidden.is_keyframe = packet.is_keyframe
        return hidden

    path = copy_packets(plain, tmp_path / "hidden.webm", change=hide)
    numbers = [i for i in range(40) if i not in (5, 23)]
    assert sequential_numbers(path) == numbers
    index = index_frames(path)
    assert (len(index), index.seekable, index.trouble) == (38, False, "its codec hides frames")
    assert [number_of(frame) for frame in open_video(path, "auto").read(range(38))] == numbers
    for decoder in set(INSTALLED) - {"pyav"}:
        with pytest.raises(DecodeError, match="its codec hides frames; use decoder='pyav'"):
            open_video(path, decoder)


@pytest.mark.parametrize("file", ["middle.mp4", "middle.mkv"])
def test_what_comes_before_the_first_whole_picture_is_no_frame(file, tmp_path):
    options = {"g": "12", "bf": "0", "x264-params": "scenecut=0"}
    plain = write_numbered(tmp_path / "plain.mp4", options=options)
    path = copy_packets(plain, tmp_path / file, keep=lambda i: i >= 5)
    assert sequential_numbers(path) == list(range(12, 40))
    video = open_video(path, "auto")
    assert video.name == "pyav"
    assert [number_of(frame) for frame in video.read(range(28))] == list(range(12, 40))
    for decoder in set(INSTALLED) - {"pyav"}:
        with pytest.raises(DecodeError, match="it begins in the middle of a group of pictures; use decoder='pyav'"):
            open_video(path, decoder)


def test_a_frame_rate_is_exact(tmp_path):
    path = write_numbered(tmp_path / "a.mp4", 25, times=[40 * i for i in range(25)])
    index = index_frames(path)
    assert index.times.exact(24) == Fraction(96, 100)
    assert list(index.times[3:5]) == [0.12, 0.16]
    assert np.asarray(index.times).tolist() == list(index.times)
    assert index.seconds == pytest.approx(1.0, abs=0.05)
