"""Video files by decord, torchcodec and pytorchvideo: a class each, which refuses what its library gets wrong."""

from __future__ import annotations

import importlib
import io
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from timesformer_plus.data.containers import FrameIndex
from timesformer_plus.data.frame_reader import FrameReader, Frames, block_frames
from timesformer_plus.data.guard import Limits, Source

# a jump that saves fewer frames than this is not worth emptying a decoder for
WORTH_SEEKING = 8


class IndexedDecoder(FrameReader):
    """A video file whose frames were listed beforehand.

    Args:
        source: The file.
        index: Its frames.
        limits: How large a read may be.
        short_side: See ``open_video``.
    """

    def __init__(self, source: Source, index: FrameIndex, *, limits: Limits, short_side: int | None) -> None:
        self._source = source
        self._index = index
        super().__init__(source.path, len(index), index.fps, index.size, limits=limits, short_side=short_side)

    @property
    def times(self) -> Sequence[float]:
        """See ``Decoder.times``."""
        return self._index.times

    def _openable(self) -> str | io.BufferedReader:
        """What a library is to open: the name of a file, or a member of an archive as a file of its own."""
        if self._source.member is None:
            return str(self._source.path)
        file = self._source.open()
        # libraries keep it as long as they read from it, and leave it open
        weakref.finalize(self, file.close)
        return file


class DecordDecoder(IndexedDecoder):
    """Frames by decord.

    It seeks to frames, so files in which that misses are refused: AVI, MPEG-TS, edit lists that hide frames, open GOPs
    (which is what x265 writes unless told otherwise), and files of several videos, where it need not take the first. So
    are codecs that are younger than its FFmpeg, as AV1, pictures that change their size, which it would stretch, and
    members of tar shards. A damaged frame that FFmpeg manages to patch up comes patched up.
    """

    name = "decord"

    def __init__(self, source: Source, index: FrameIndex, *, limits: Limits, short_side: int | None) -> None:
        import decord
        from decord._ffi.base import DECORDLimitReachedError

        if refusal := self.refuses(source, index):
            raise source.error(f"{refusal}; use decoder='pyav'", "unsupported")
        super().__init__(source, index, limits=limits, short_side=short_side)
        self._errors = (RuntimeError, AssertionError, ValueError, decord.DECORDError, DECORDLimitReachedError)
        try:
            # the least fault_tol above 0: decord otherwise fills a damaged frame with the last good one, silently
            self._reader: Any = decord.VideoReader(str(source.path), num_threads=1, fault_tol=1e-9)
        except self._errors as error:
            reason = f"decord cannot open it ({first_line(error)}); try decoder='pyav'"
            raise source.error(reason, "damaged") from error
        if len(self._reader) != self.num_frames:
            reason = f"decord counts {len(self._reader)} frames, the file has {self.num_frames}; use decoder='pyav'"
            raise source.error(reason, "unsupported")

    @staticmethod
    def refuses(source: Source, index: FrameIndex) -> str:
        """Why decord must not read a file; empty if it may."""
        if source.member is not None:
            # decord 0.6 goes on reading bytes that it was given after they are freed: the same member is read in one
            # process and "invalid data" in the next
            return "decord reads whole files only, no members of a tar shard"
        if index.codec in _TOO_NEW_FOR_DECORD:
            return f"decord reads no {index.codec}"
        if index.size[1] in _DECORD_FAILS_AT:
            return f"decord cannot hand over pictures of this width, {index.size[1]} pixels"
        return f"decord would return wrong frames, {index.trouble}" if index.trouble else ""

    def _pictures(self, wanted: Sequence[int]) -> Iterator[Frames]:
        for block in self._blocks(wanted):
            try:
                batch = self._reader.get_batch(block)
            except self._errors as error:
                reason = f"decord cannot read frames {block} ({first_line(error)}); try decoder='pyav'"
                raise self._source.error(reason, "damaged") from error
            # decord's own array, or a tensor once pytorchvideo has switched decord's bridge for the whole process
            yield cast(Frames, batch.asnumpy() if hasattr(batch, "asnumpy") else batch.numpy())


# decord 0.6 brings FFmpeg 4.1
_TOO_NEW_FOR_DECORD = ("av1", "vvc")
# widths in pixels whose rows it pads, and then finds too long: all there are from 16 to 300
_DECORD_FAILS_AT = (16, 24, 48, 72)


class PyTorchVideoDecoder(IndexedDecoder):
    """Frames by pytorchvideo's ``EncodedVideo`` with its PyAV backend; refuses AVI and MPEG-TS.

    It reads spans of seconds, so an index is turned into the exact time of its frame first. Frames come as float32 and
    each span begins at a key frame; a Matroska file, whose streams do not say how long they are, is decoded whole when
    it is opened. Meant for parity with code that builds on pytorchvideo rather than for speed.
    """

    name = "pytorchvideo"

    def __init__(self, source: Source, index: FrameIndex, *, limits: Limits, short_side: int | None) -> None:
        from pytorchvideo.data.encoded_video_pyav import EncodedVideoPyAV

        if not index.seekable:
            reason = f"pytorchvideo would return wrong frames, {index.trouble}; use decoder='pyav'"
            raise source.error(reason, "unsupported")
        super().__init__(source, index, limits=limits, short_side=short_side)
        if index.container == "matroska":
            held = f"{len(index):,} frames of {index.size[0]}x{index.size[1]}, which pytorchvideo holds all at once"
            limits.check(source.path, "max_read_bytes", len(index) * math.prod(index.size) * 3, held)
        try:
            self._video: Any = EncodedVideoPyAV(self._openable(), source.path.name, decode_audio=False)
            context = self._video._container.streams.video[0].codec_context
            if not context.is_open:
                # it leaves the number to FFmpeg, which then patches damaged frames up differently every time
                context.thread_count = 1
        except (RuntimeError, OSError) as error:
            raise source.error(f"pytorchvideo cannot open it ({first_line(error)})", "damaged") from error

    def _pictures(self, wanted: Sequence[int]) -> Iterator[Frames]:
        # it holds whatever lies between two frames too, as float32
        most = max(1, block_frames(self._stored) // 4)
        span = [wanted[0]]
        for i in wanted[1:]:
            if i - span[0] >= most or i - span[-1] > WORTH_SEEKING:
                yield self._read_span(span)
                span = []
            span.append(i)
        yield self._read_span(span)

    def _read_span(self, wanted: list[int]) -> Frames:
        first, last = wanted[0], wanted[-1]
        times = self._index.times
        # its seconds count from what the header says, not from the first frame
        delay = (self._index.start - self._video._video_start_pts) * times.tick
        # the end of the span is exclusive: one tick after the last frame's time
        video = self._video.get_clip(times.exact(first) + delay, times.exact(last) + delay + times.tick)["video"]
        found = 0 if video is None else video.shape[1]
        if found != last - first + 1:
            reason = (
                f"pytorchvideo read {found} frames from {first} to {last}; the file is damaged, or try decoder='pyav'"
            )
            raise self._source.error(reason, "damaged")
        chosen = video[:, [i - first for i in wanted]].permute(1, 2, 3, 0).byte().numpy()
        return upright(chosen, self._index.turns)


class TorchCodecDecoder(IndexedDecoder):
    """Frames by torchcodec with an exact index, through the FFmpeg of the machine; refuses AVI, MPEG-TS and their like.

    Seeks, and reads what decord refuses as well: edit lists and open GOPs. Opening takes one more pass over the packets
    of the file, for torchcodec's own index. A damaged frame that FFmpeg manages to patch up comes patched up.
    """

    name = "torchcodec"

    def __init__(self, source: Source, index: FrameIndex, *, limits: Limits, short_side: int | None) -> None:
        if not index.seekable:
            reason = f"torchcodec would return wrong frames, {index.trouble}; use decoder='pyav'"
            raise source.error(reason, "unsupported")
        super().__init__(source, index, limits=limits, short_side=short_side)
        # what torchcodec raises depends on its layer: RuntimeError from FFmpeg, the others from its own checks
        self._errors = (RuntimeError, ValueError, IndexError)
        video_decoder = load_torchcodec()
        try:
            self._reader: Any = video_decoder(
                self._openable(),
                stream_index=index.stream,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device="cpu",  # else torch's default device
                seek_mode="exact",
            )
        except self._errors as error:
            reason = f"torchcodec cannot open it ({first_line(error)}); try decoder='pyav'"
            raise source.error(reason, "damaged") from error
        if len(self._reader) != self.num_frames:
            reason = f"torchcodec counts {len(self._reader)} frames, the file has {self.num_frames}; use decoder='pyav'"
            raise source.error(reason, "unsupported")

    def _pictures(self, wanted: Sequence[int]) -> Iterator[Frames]:
        for block in self._blocks(wanted):
            try:
                batch = self._reader.get_frames_at(block)
            except self._errors as error:
                reason = f"torchcodec cannot read frames {block} ({first_line(error)}); try decoder='pyav'"
                raise self._source.error(reason, "damaged") from error
            # past a frame that it cannot decode it goes on with the next that it can
            times = batch.pts_seconds.numpy() - self._reader.metadata.begin_stream_seconds
            expected = np.asarray(self._index.times)[block]
            if (abs(times - expected) > self._index.times.tick / 2).any():
                found = np.flatnonzero(abs(times - expected) > self._index.times.tick / 2)[0]
                reason = f"torchcodec returned another frame than {block[found]}; the file is damaged"
                raise self._source.error(reason, "damaged")
            yield cast(Frames, batch.data.numpy())


def load_torchcodec() -> Callable[..., Any]:
    """Import torchcodec's reader, and make sure that it found FFmpeg and turns frames upright.

    Raises:
        ImportError: It did not, or is not installed.
    """
    try:
        # import statements would fail the type check, with and without torchcodec: it marks none of its names public
        torchcodec: Any = importlib.import_module("torchcodec")
        # None where no FFmpeg was found; earlier releases raise on import
        if torchcodec.ffmpeg_major_version is None:
            raise RuntimeError("it could not load its libraries for any version of FFmpeg")
        if "rotation" not in torchcodec.decoders.VideoStreamMetadata.__dataclass_fields__:
            raise RuntimeError("it is older than 0.11 and leaves turned videos lying on their side")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ImportError(
            "decoder='torchcodec' cannot be loaded: beside `pip install torchcodec`, 0.11 or later and made for the "
            "torch that is installed, it needs the system's FFmpeg libraries, as `apt-get install ffmpeg`, `conda "
            "install ffmpeg` or `brew install ffmpeg` bring them; or take decoder='auto', which needs neither "
            f"({first_line(error)})"
        ) from error
    return cast(Callable[..., Any], torchcodec.decoders.VideoDecoder)


def upright(pictures: Frames, turns: int) -> Frames:
    """Turn (N, H, W, 3) counter-clockwise by quarters."""
    return np.ascontiguousarray(np.rot90(pictures, turns, (1, 2))) if turns else pictures


def first_line(error: BaseException) -> str:
    """What an error says, without the stack that decord and torchcodec add."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
