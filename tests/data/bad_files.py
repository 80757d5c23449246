"""Files that are no good, one function each: what a download, a camera, a web crawl or an attacker leaves behind.

Every function writes one file, or what stands in its place. Some refer to a decoy, which nobody may open.
"""

from __future__ import annotations

import gzip
import os
import pickle
import random
import socket
import struct
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numbered_videos import copy_packets, numbered_frame, write_numbered
from PIL import Image

GROUPS = {"g": "10", "bf": "0", "x264-params": "scenecut=0"}
ANY = ("cut off", "damaged", "not a video", "unsupported", "too large", "empty")


class Place(NamedTuple):
    """Where a bad file is written.

    Attributes:
        folder: A folder for it alone.
        good: The folder of the whole files.
        decoy: A video that must not be read.
    """

    folder: Path
    good: Path
    decoy: Path


class Bad(NamedTuple):
    """A kind of bad file.

    Attributes:
        make: Writes it, and returns its path.
        kinds: The kinds of error it may end in.
        numbers: Numbers of the frames that may be read nevertheless; without any, it must not even open.
        patched: Frames that FFmpeg may patch up without a word: no decoder can tell these.
    """

    make: Callable[[Place], Path]
    kinds: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    patched: tuple[int, ...] = ()


BAD: dict[str, Bad] = {}


def bad(name, *kinds, numbers=(), patched=()):
    """Enter a function into the list."""

    def enter(make):
        assert name not in BAD
        BAD[name] = Bad(make, kinds, tuple(numbers), tuple(patched))
        return make

    return enter


def content_of(name, content, *kinds, file="bad.mp4"):
    bad(name, *kinds)(lambda at: written(at.folder / file, content))


def written(path, content):
    path.write_bytes(content)
    return path


def write_decoy(path: Path) -> Path:
    """A video of ten frames whose numbers begin at 200."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i in range(200, 210):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(i), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_good(folder: Path) -> None:
    """The whole files that the bad ones are made of; 40 frames where nothing else is said."""
    write_numbered(folder / "plain.mp4", options=GROUPS)
    write_numbered(folder / "first.mp4", options=GROUPS, container_options={"movflags": "faststart"})
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    write_numbered(folder / "fragments.mp4", options=GROUPS, container_options=fragments)
    write_numbered(folder / "plain.mkv", options=GROUPS)
    write_numbered(folder / "plain.avi", codec="mpeg4", options={"g": "10"})
    write_numbered(folder / "plain.ts", options=GROUPS)
    write_numbered(folder / "plain.flv", options=GROUPS)
    write_numbered(folder / "plain.wmv", codec="wmv2")
    write_numbered(folder / "small.ts", 10, size=(32, 48), options=GROUPS)
    write_numbered(folder / "intra.mkv", codec="mjpeg", pix_fmt="yuvj420p")
    noise = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    with av.open(str(folder / "noise.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "8", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for i, picture in enumerate(noise):
            picture[21:] = numbered_frame(i, 64, 64)[21:] // 2 + picture[21:] // 3
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


# no files

bad("missing", "missing")(lambda at: at.folder / "gone.mp4")
bad("name too long", "no access")(lambda at: at.folder / ("x" * 300 + ".mp4"))
bad("zero byte in the name", "no access", "missing")(lambda at: Path(f"{at.folder}/a\0b.mp4"))


@bad("file where a folder should be", "no access", "missing")
def _(at):
    return written(at.folder / "a", b"x") / "b.mp4"


@bad("folder", "not a file")
def _(at):
    (at.folder / "folder.mp4").mkdir()
    return at.folder / "folder.mp4"


@bad("pipe", "not a file")
def _(at):
    os.mkfifo(at.folder / "pipe.mp4")
    return at.folder / "pipe.mp4"


@bad("link to a pipe", "not a file")
def _(at):
    os.mkfifo(at.folder / "pipe")
    (at.folder / "link.mp4").symlink_to(at.folder / "pipe")
    return at.folder / "link.mp4"


@bad("socket", "not a file")
def _(at):
    here = os.getcwd()
    os.chdir(at.folder)  # names of sockets may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
    os.chdir(here)
    return at.folder / "socket.mp4"


@bad("link to a device", "not a file")
def _(at):
    (at.folder / "zero.mp4").symlink_to("/dev/zero")
    return at.folder / "zero.mp4"


@bad("link to nothing", "missing")
def _(at):
    (at.folder / "link.mp4").symlink_to(at.folder / "gone.mp4")
    return at.folder / "link.mp4"


@bad("link to itself", "no access")
def _(at):
    (at.folder / "link.mp4").symlink_to(at.folder / "link.mp4")
    return at.folder / "link.mp4"


# no videos

content_of("empty", b"", "empty")
content_of("one byte", b"\0", "not a video")
content_of("zeros", bytes(4096), "not a video")
content_of("random", random.Random(0).randbytes(4096), "not a video")
content_of("text", b"hello, this is no video\n", "not a video")
content_of("web page", b"<!DOCTYPE html><title>404</title>Not found", "not a video")
content_of("pointer of git lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "not a video")
content_of("subtitles", b"1\n00:00:00,000 --> 00:00:01,000\nHello\n", "not a video", file="bad.srt.mp4")
content_of("sound of mp3", b"ID3\x04\0\0\0\0\0\0" + b"\xff\xfb\x90\0" + bytes(413), "not a video")
content_of("pickle", pickle.dumps(print), "not a video")


@bad("playlist of ffmpeg", "not a video")
def _(at):
    return written(at.folder / "bad.mp4", f"ffconcat version 1.0\nfile '{at.decoy}'\n".encode())


@bad("playlist of a stream", "not a video")
def _(at):
    return written(at.folder / "bad.m3u8", f"#EXTM3U\n#EXTINF:1,\n{at.decoy}\n#EXT-X-ENDLIST\n".encode())


@bad("link to a playlist", "not a video")
def _(at):
    written(at.folder / "list", f"ffconcat version 1.0\nfile '{at.decoy}'\n".encode())
    (at.folder / "link.mp4").symlink_to(at.folder / "list")
    return at.folder / "link.mp4"


@bad("description of a session", "not a video")
def _(at):
    return written(at.folder / "bad.sdp", b"v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n")


@bad("manifest of dash", "not a video")
def _(at):
    text = f'<?xml version="1.0"?><MPD><Period><BaseURL>{at.decoy}</BaseURL></Period></MPD>'
    return written(at.folder / "bad.mpd", text.encode())


@bad("numbered pictures", "missing")
def _(at):
    Image.fromarray(numbered_frame(200)).save(at.folder / "0001.png")
    return at.folder / "%04d.png"


for _suffix in ("png", "gif", "jpg", "bmp", "webp", "tiff"):

    @bad(f"picture, {_suffix}", "not a video")
    def _(at, suffix=_suffix):
        Image.fromarray(numbered_frame(200)).save(at.folder / f"picture.{suffix}")
        return (at.folder / f"picture.{suffix}").rename(at.folder / "picture.mp4")


@bad("sound of wav", "not a video")
def _(at):
    with wave.open(str(at.folder / "sound.mp4"), "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    return at.folder / "sound.mp4"


@bad("archive of a video", "not a video")
def _(at):
    with zipfile.ZipFile(at.folder / "bad.mp4", "w") as archive:
        archive.write(at.good / "plain.mp4", "plain.mp4")
    return at.folder / "bad.mp4"


@bad("packed video", "not a video")
def _(at):
    return written(at.folder / "bad.mp4", gzip.compress((at.good / "plain.mp4").read_bytes()))


def sound_file(path, cover=False):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        if cover:
            picture = container.add_stream("mjpeg", rate=25)
            picture.height, picture.width, picture.pix_fmt = 96, 96, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(numbered_frame(200, 96, 96), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if cover:
            container.mux(picture.encode())
    return path


bad("sound in mp4", "not a video")(lambda at: sound_file(at.folder / "sound.mp4"))
bad("sound with a cover", "not a video")(lambda at: sound_file(at.folder / "sound.mp4", cover=True))


# beginnings

FTYP = b"\0\0\0\x18ftypisom\0\0\x02\0isommp42"
content_of("mp4 of a promise", FTYP + bytes(900), *ANY)
content_of("mp4 of a huge box", FTYP + b"\0\0\0\x01moov" + (2**62).to_bytes(8, "big") + bytes(64), *ANY)
content_of(
    "mp4 of nested boxes", FTYP + b"".join(struct.pack(">I4s", 8 * n, b"moov") for n in range(4000, 0, -1)), *ANY
)
content_of("matroska of a promise", b"\x1a\x45\xdf\xa3\x84\x42\x86\x81\x01" + bytes(64), *ANY)
content_of("avi of a promise", b"RIFF\x40\0\0\0AVI LIST\x20\0\0\0hdrl" + bytes(64), *ANY)
content_of("transport stream of noise", b"".join(b"G" + random.Random(i).randbytes(187) for i in range(40)), *ANY)
content_of("flv of a promise", b"FLV\x01\x01\0\0\0\x09\0\0\0\0" + bytes(64), *ANY)
content_of("wmv of a promise", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c" + bytes(256), *ANY)
content_of("mpg of noise", b"\0\0\x01\xba" + random.Random(1).randbytes(4096), *ANY)


@bad("index missing", "damaged")
def _(at):
    content = (at.good / "plain.mp4").read_bytes()  # the index comes last
    return written(at.folder / "bad.mp4", content[: content.index(b"moov") - 4])


@bad("no fragment after the header", *ANY)
def _(at):
    content = (at.good / "fragments.mp4").read_bytes()
    return written(at.folder / "bad.mp4", content[: content.index(b"moof") - 4])


for _file, _share in [
    ("first.mp4", 0.9),
    ("plain.mp4", 0.5),
    ("fragments.mp4", 0.6),
    ("plain.mkv", 0.6),
    ("plain.avi", 0.6),
    ("plain.mkv", 0.02),
]:

    @bad(f"cut off, {_file} at {_share}", "cut off", "damaged")
    def _(at, file=_file, share=_share):
        content = (at.good / file).read_bytes()
        return written(at.folder / file, content[: int(len(content) * share)])


for _file in ("plain.ts", "plain.flv"):
    # these do not say how long they are: what is there is read, each frame the right one
    @bad(f"cut off, {_file}", *ANY, numbers=range(40))
    def _(at, file=_file):
        content = (at.good / file).read_bytes()
        return written(at.folder / file, content[: int(len(content) * 0.6)])


# damage

# where the noise begins, and the frames from there to the end of their group
for _place, _patched in [(0.05, range(8)), (0.3, range(6, 16)), (0.6, range(14, 16)), (0.9, range(21, 24))]:

    @bad(f"noise in the pictures at {_place}", "damaged", numbers=range(24), patched=_patched)
    def _(at, place=_place):
        content = (at.good / "noise.mp4").read_bytes()
        start = content.index(b"mdat") + 8
        first = start + int((len(content) - start) * place)
        noise = random.Random(0).randbytes(200)
        return written(at.folder / "bad.mp4", content[:first] + noise + content[first + 200 :])


def overwritten(name, kind, offset, value, *kinds, numbers=(), file="first.mp4"):
    """Overwrite something at an offset after the name of a box."""

    @bad(name, *kinds, numbers=numbers)
    def _(at):
        content = bytearray((at.good / file).read_bytes())
        place = content.index(kind) + 4 + offset
        content[place : place + len(value)] = value
        return written(at.folder / "bad.mp4", bytes(content))


HUGE, LARGE = b"\x7f\xff\xff\xff", b"\0\x0f\xff\xff"
overwritten("sizes of frames are noise", b"stsz", 12, random.Random(0).randbytes(160), *ANY)
overwritten("places of frames are beyond the end", b"stco", 8, HUGE, *ANY)
overwritten("a million frames announced", b"stsz", 8, LARGE, *ANY, numbers=range(40))
overwritten("no frames announced", b"stsz", 8, bytes(4), *ANY, numbers=range(40))
overwritten("frames of no duration", b"stts", 12, bytes(4), *ANY, numbers=range(40))
overwritten("frames of 38 hours", b"stts", 12, HUGE, *ANY, numbers=range(40))
overwritten("no unit of time", b"mdhd", 12, bytes(4), *ANY, numbers=range(40))
overwritten("a duration of 38 hours", b"mdhd", 16, HUGE, *ANY, numbers=range(40))
overwritten("unknown codec", b"stsd", 12, b"zzzz", "unsupported", "damaged")
overwritten("another codec", b"stsd", 12, b"hvc1", *ANY)
overwritten("parameters of the codec are noise", b"avcC", 8, random.Random(0).randbytes(16), *ANY, numbers=range(40))
overwritten("32,000 pixels wide by the header", b"stsd", 40, b"\x7d\0\x7d\0", *ANY, numbers=range(40))
overwritten("edit list beyond the end", b"elst", 12, b"\x01\xff\xff\xff", *ANY)
overwritten("edit list of nothing", b"elst", 8, bytes(4), *ANY, numbers=range(40))


@bad("index of noise", *ANY)
def _(at):
    content = bytearray((at.good / "first.mp4").read_bytes())
    start, end = content.index(b"stbl"), content.index(b"mdat") - 4
    content[start:end] = random.Random(0).randbytes(end - start)
    return written(at.folder / "bad.mp4", bytes(content))


# other files


def refer_to(content: bytes, reference: bytes) -> bytes:
    """Replace the reference to the data, and lengthen all boxes around it; the data comes before them."""
    place = content.index(b"dref") + 12
    changed = bytearray(content[:place] + reference + content[place + 12 :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = changed.index(kind) - 4
        changed[at : at + 4] = struct.pack(">I", int.from_bytes(changed[at : at + 4], "big") + len(reference) - 12)
    return bytes(changed)


def address_of(path: Path) -> bytes:
    address = f"file://{path}".encode() + b"\0"
    return struct.pack(">I4sI", 12 + len(address), b"url ", 0) + address


def alias_of(path: Path) -> bytes:
    """The record by which old Macintosh systems found a file again, with the file's absolute path."""
    name = path.name.encode()
    text = str(path).replace("/", ":").encode()
    size = len(text)
    text += bytes(size % 2)
    record = bytes(10) + bytes([0]) + bytes(27) + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    record += bytes(4 + 16) + struct.pack(">HH", 2, size) + text + b"\xff\xff\0\0"
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


# an address is passed over, and the file's own data read
@bad("data at an address", *ANY, numbers=range(40))
def _(at):
    return written(at.folder / "bad.mov", refer_to((at.good / "plain.mp4").read_bytes(), address_of(at.decoy)))


@bad("data in another file", *ANY)
def _(at):
    return written(at.folder / "bad.mov", refer_to((at.good / "plain.mp4").read_bytes(), alias_of(at.decoy)))


@bad("another movie", *ANY)
def _(at):
    address = f"file://{at.decoy}".encode() + b"\0"
    box = struct.pack(">I4sI4sI", 20 + len(address), b"rdrf", 0, b"url ", len(address)) + address
    for kind in (b"rmda", b"rmra", b"moov"):
        box = struct.pack(">I4s", 8 + len(box), kind) + box
    return written(at.folder / "bad.mov", FTYP + box)


# too much


@bad("frames of 8k", "too large")
def _(at):
    return flat_video(at.folder / "bad.mp4", (4320, 8192), 2)


def flat_video(path, size, count):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "250"})
        stream.height, stream.width, stream.pix_fmt = size[0], size[1], "yuv420p"
        frame = av.VideoFrame(size[1], size[0], "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        for i in range(count):
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@bad("file of 20 GB", "too large")
def _(at):
    path = written(at.folder / "bad.mp4", FTYP)
    os.truncate(path, 20 * 2**30)
    return path


@bad("a gap of four days", "too large")
def _(at):
    def late(i, packet):
        packet.pts += (i >= 20) * 345_600_000
        packet.dts += (i >= 20) * 345_600_000
        return packet

    return copy_packets(at.good / "intra.mkv", at.folder / "bad.mkv", change=late)


def joined(path, first, second, count):
    """Frames of one video and then those of another, as they are, in one stream; 40 ms each."""
    with av.open(str(first)) as opened, av.open(str(second)) as other, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(opened.streams.video[0])
        packets = [packet for packet in opened.demux(video=0) if packet.size][:count]
        packets += [packet for packet in other.demux(video=0) if packet.size]
        for i, packet in enumerate(packets):
            packet.stream = stream
            packet.pts = packet.dts = i * 40
            packet.time_base = stream.time_base
            written.mux(packet)
    return path


@bad("pictures shrink", "unsupported", "damaged", numbers=range(20))
def _(at):
    return joined(at.folder / "bad.mkv", at.good / "plain.ts", at.good / "small.ts", 20)


@bad("pictures grow to 8k", "unsupported", "damaged", "too large", numbers=range(20))
def _(at):
    large = copy_packets(flat_video(at.folder / "large.mp4", (4320, 8192), 2), at.folder / "large.ts")
    return joined(at.folder / "bad.mkv", at.good / "plain.ts", large, 20)


# streams


@bad("encrypted", "unsupported")
def _(at):
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "1f" * 16, "encryption_kid": "2e" * 16}
    return write_numbered(at.folder / "bad.mp4", container_options=options)


@bad("begins between key frames", *ANY, numbers=range(10, 40))
def _(at):
    return copy_packets(at.good / "plain.mp4", at.folder / "bad.mp4", keep=lambda i: i >= 5)


@bad("no key frame", *ANY)
def _(at):
    return copy_packets(at.good / "plain.mp4", at.folder / "bad.mp4", keep=lambda i: i % 10)


@bad("frames of the same time", *ANY, numbers=range(40))
def _(at):
    def doubled(i, packet):
        packet.pts = packet.dts = i // 2 * 80
        return packet

    return copy_packets(at.good / "intra.mkv", at.folder / "bad.mkv", change=doubled)


@bad("frames lost", *ANY, numbers=[i for i in range(40) if i not in (7, 8, 30)])
def _(at):
    return copy_packets(at.good / "intra.mkv", at.folder / "bad.mkv", keep=lambda i: i not in (7, 8, 30))


@bad("one frame that is no frame", "damaged", numbers=range(40))
def _(at):
    def spoilt(i, packet):
        if i != 20:
            return packet
        noise = av.Packet(random.Random(0).randbytes(packet.size))
        noise.pts, noise.dts, noise.time_base = packet.pts, packet.dts, packet.time_base
        noise.is_keyframe = packet.is_keyframe
        return noise

    return copy_packets(at.good / "plain.mkv", at.folder / "bad.mkv", change=spoilt)
