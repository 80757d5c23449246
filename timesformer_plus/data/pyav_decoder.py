"""Video files by PyAV, which seeks by time: as exact as a decode from the start, and quick far into a long video."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, cast

import numpy as np

from timesformer_plus.data.backends import WORTH_SEEKING, IndexedDecoder, upright
from timesformer_plus.data.containers import FrameIndex
from timesformer_plus.data.frame_reader import Frames
from timesformer_plus.data.guard import DecodeError
from timesformer_plus.data.packets import main_video, open_container, packets_of

if TYPE_CHECKING:
    import av
    import av.container


# files that could not be read in the quick way, which is not tried on them again
_SLOW: weakref.WeakSet[FrameIndex] = weakref.WeakSet()


class PyAVDecoder(IndexedDecoder):
    """Frames by PyAV: exact wherever FFmpeg is, the only one that reads every container, and the fastest.

    Where the container has an index (mov, mp4, matroska, webm), reading begins at the key frame at or before a frame
    wanted, and a frame is told by its exact time, so that a neighbour is never taken for it. At first a file is read
    the quick way: opened without a look at its first frames, and of H.264 without decoding frames that are not wanted
    and that no other refers to, which takes nothing from the others. Should a frame not be found so, the frames left
    are looked for without these, and then from the start. Other containers are always decoded from the start, and their
    frames counted.
    """

    name = "pyav"

    def _pictures(self, wanted: Sequence[int]) -> Iterator[Frames]:
        from av.video.reformatter import VideoReformatter

        # one for the whole read: it keeps its tables from frame to frame
        reformatter = VideoReformatter()
        found = self._by_time(wanted) if len(self._index.keys) else self._by_count(wanted)
        for _, frame in found:
            picture = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            yield upright(cast(Frames, picture)[None], self._index.turns)

    @contextmanager
    def _all_frames(self) -> Iterator[Iterator[av.VideoFrame]]:
        with (
            open_container(self._source, self._index.container, self._limits) as opened,
            packets_of(opened, main_video(self._source, opened)) as packets,
        ):
            yield _decoded(packets)

    def _by_count(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        left = set(wanted)
        with self._all_frames() as frames:
            for i, frame in enumerate(frames):
                if i in left:
                    self._check_whole(i, frame)
                    left.remove(i)
                    yield i, frame
                if not left:
                    return
        raise self._lost(min(left))

    def _by_time(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        left = deque(wanted)
        for quick in (False,) if self._index in _SLOW else (True, False):
            with open_container(self._source, self._index.container, self._limits, probe=not quick) as opened:
                for key, run in self._runs(list(left)):
                    for i, frame in self._after_seeking(opened, key, run, quick=quick):
                        left.popleft()
                        yield i, frame
                    if left and left[0] <= run[-1]:
                        break
            if not left:
                return
            _SLOW.add(self._index)
        with self._all_frames() as frames:
            for i, frame in self._matched(frames, list(left)):
                self._check_whole(i, frame)
                left.popleft()
                yield i, frame
        if left:
            raise self._lost(left[0])

    def _runs(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Cut ascending frame numbers where it is worth seeking: the row of the key frame to begin at, the numbers."""
        ticks, start = self._index.times.ticks, self._index.start
        key_times = self._index.keys
        # numbers of the key frames, and for every frame wanted the row of the last key frame up to it
        numbers = np.searchsorted(ticks, key_times - start)
        rows = np.searchsorted(key_times, ticks[list(wanted)] + start, side="right") - 1
        row = max(0, int(rows[0]))
        first, run = (row if numbers[row] >= WORTH_SEEKING else 0), [wanted[0]]
        for i, row in zip(wanted[1:], rows[1:].tolist(), strict=True):
            if numbers[row] > run[-1] + WORTH_SEEKING:
                yield first, run
                first, run = row, []
            run.append(i)
        yield first, run

    def _after_seeking(
        self, opened: av.container.InputContainer, key: int, run: list[int], *, quick: bool
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames of a run, up to the first that is not found whole."""
        import av

        stream = main_video(self._source, opened)
        key_time = int(self._index.keys[key])
        # the frame itself is sought, not its key frame: in some mp4 files that would lead to the one before
        wanted_time = int(self._index.times.ticks[run[0]]) + self._index.start
        try:
            if key:
                opened.seek(wanted_time, stream=stream, backward=True, any_frame=False)
            with packets_of(opened, stream) as packets:
                landed = next(packets)
                if key and not (landed.is_keyframe and landed.pts is not None and landed.pts <= key_time):
                    return
                coming = chain([landed], packets)
                skips = quick and self._index.codec in _TELLS_REFERENCES
                frames = self._needed(coming, stream, run) if skips else _decoded(coming)
                for i, frame in self._matched(frames, run):
                    # the second field of a picture may be a packet with a time of its own, which nobody has asked for
                    if frame.is_corrupt or (skips and frame.interlaced_frame):
                        return
                    yield i, frame
        except (av.FFmpegError, StopIteration):
            return

    def _needed(
        self, packets: Iterator[av.Packet[av.VideoStream]], stream: av.VideoStream, wanted: list[int]
    ) -> Iterator[av.VideoFrame]:
        """The frames wanted, and of the others those that are decoded because some frame refers to them."""
        times = set((self._index.times.ticks[wanted] + self._index.start).tolist())
        context = stream.codec_context
        for packet in packets:
            # with a single thread the decoder is done with a packet before it is given the next one
            context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in times else "NONREF"
            yield from packet.decode()

    def _matched(self, frames: Iterator[av.VideoFrame], wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Those frames whose times are the ones of the frames wanted, which ascend; ends at one that does not come."""
        times = (self._index.times.ticks[wanted] + self._index.start).tolist()
        place = 0
        for frame in frames:
            # frames come in the order of their times: past the one wanted, it will not come any more
            if frame.pts is None or frame.pts > times[place]:
                return
            if frame.pts == times[place]:
                yield wanted[place], frame
                place += 1
                if place == len(wanted):
                    return

    def _check_whole(self, i: int, frame: av.VideoFrame) -> None:
        if frame.is_corrupt:
            raise self._source.error(f"frame {i} of {self.num_frames} is damaged; copy the file again", "damaged")

    def _lost(self, i: int) -> DecodeError:
        reason = f"frame {i} of {self.num_frames} could not be decoded; copy the file again"
        return self._source.error(reason, "damaged")


# Codecs of which FFmpeg knows the frames that none refers to. HEVC only says which ones none of the same layer does.
_TELLS_REFERENCES = ("h264",)


def _decoded(packets: Iterator[av.Packet[av.VideoStream]]) -> Iterator[av.VideoFrame]:
    return (frame for packet in packets for frame in packet.decode())
