"""Video files by PyAV, which seeks by time: as exact as a decode from the start, and quick far into a long video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from timesformer_plus.data.backends import IndexedDecoder, upright
from timesformer_plus.data.containers import open_container
from timesformer_plus.data.frame_reader import Frames
from timesformer_plus.data.guard import DecodeError

if TYPE_CHECKING:
    import av
    import av.container

# a jump that saves fewer frames than this is not worth emptying the decoder for
_WORTH_SEEKING = 8


class PyAVDecoder(IndexedDecoder):
    """Frames by PyAV: exact wherever FFmpeg is, and the only one that reads every container.

    Frames are told by their presentation times, so that a neighbour is never taken for the one wanted. Where the
    container has an index (mov, mp4, matroska, webm), reading begins at the key frame at or before a frame wanted, and
    should that lead anywhere else, from the start. Other containers are always decoded from the start, and counted.
    """

    name = "pyav"

    def _pictures(self, wanted: Sequence[int]) -> Iterator[Frames]:
        return self._converted(self._by_count(wanted))

    def _converted(self, frames: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[Frames]:
        for i, frame in frames:
            if frame.is_corrupt:
                raise self._source.error(f"frame {i} of {self.num_frames} is damaged; copy the file again", "damaged")
            yield upright(cast(Frames, frame.to_ndarray(format="rgb24"))[None], self._index.turns)

    def _by_count(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        left = set(wanted)
        with open_container(self._source, self._index.container, self._limits) as opened:
            for i, frame in enumerate(opened.decode(video=0)):
                if i in left:
                    left.remove(i)
                    yield i, frame
                if not left:
                    return
        raise self._lost(min(left))

    def _lost(self, i: int) -> DecodeError:
        reason = f"frame {i} of {self.num_frames} could not be decoded; copy the file again"
        return self._source.error(reason, "damaged")
