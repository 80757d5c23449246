"""The check of one video: all that can be found out about it, and whether training can read it.

It runs in a sandbox, so it notes every fact as soon as it has it: what is known before a crash is kept.
"""

from __future__ import annotations

import errno
import hashlib
import io
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from timesformer_plus.data.containers import FrameIndex, index_source, main_video, open_container
from timesformer_plus.data.decoders import DecoderName, open_video
from timesformer_plus.data.guard import DecodeError, Limits, Source, admit

Note = Callable[[dict[str, Any]], None]
_PIECE = 1 << 20


def check_video(
    note: Note, path: str, member: tuple[int, int] | None, decoder: DecoderName, limits: Mapping[str, Any]
) -> bool:
    """Check a video: let it in, hash it, index it, decode every frame of it, and read it as training would.

    Frames are decoded one at a time and dropped, so memory does not grow with the video.

    Args:
        note: Told columns of ``ScanRow``, as they become known, and ``stage``, what is done next. A bad video has
            ``kind`` and ``reason`` among them.
        path: The video file, folder of frames or ``.npy`` file.
        member: Offset and length of the bytes in ``path``, for a member of a tar archive.
        decoder: What training reads with.
        limits: Fields of ``Limits``.

    Returns:
        Whether it is good.

    Raises:
        MemoryError: A library could not have the memory that it asked for.
    """
    caps = Limits(**limits)
    part = tuple(member) if member else None
    try:
        if is_still(Path(path)):
            _check_still(note, Path(path), decoder, caps)
        else:
            _check_file(note, admit(path, member=part, limits=caps), decoder, caps)  # type: ignore[arg-type]  # two
        note({"verdict": "ok"})
        return True
    except DecodeError as error:
        if _wants_memory(error):
            raise MemoryError from error
        # FFmpeg's own words end in the path, which stands in the table already, shorter
        reason = error.reason.replace(f": '{Path(path).absolute()}'", "")
        note({"kind": error.kind, "reason": " ".join(reason.split())})
    except OSError as error:  # the disk, in the middle of the file
        note({"kind": "no access", "reason": f"cannot be read ({error.strerror})"})
    return False


def is_still(path: Path) -> bool:
    """Whether a path is that of a video that is no video file: a folder of frames, or an ``.npy`` file."""
    return path.suffix.lower() == ".npy" or path.is_dir()


def fingerprint(path: Path, member: tuple[int, int] | None = None) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds, by which a changed video is known; zeros for none.

    For a folder the sum over its files, and the latest time.
    """
    try:
        found = path.stat()
        if not stat.S_ISDIR(found.st_mode):
            return found.st_size if member is None else member[1], found.st_mtime_ns
        files = [file.stat() for file in path.iterdir()]
    except (OSError, ValueError):
        return 0, 0
    return sum(file.st_size for file in files), max(file.st_mtime_ns for file in [found, *files])


def _check_file(note: Note, source: Source, decoder: DecoderName, limits: Limits) -> None:
    note({"stage": "reading its bytes"})
    with source.open() as file:
        note({"sha256": _hash(file)})
    note({"stage": "listing its frames"})
    index = index_source(source, limits)
    height, width = index.size
    note(
        {
            "codec": index.codec,
            "container": index.container,
            "height": height,
            "width": width,
            "frames_header": index.announced,
            "fps": round(index.fps, 6),
            "seconds": round(index.seconds, 6),
            "stage": "decoding it from start to end",
        }
    )
    count = 0
    try:
        for _ in _decoded(source, index, limits):
            count += 1
    finally:
        note({"frames_decoded": count})
    if count != len(index):
        reason = f"{count} frames can be decoded, the file lists {len(index)}; copy it again, or convert it"
        raise source.error(reason, "damaged")
    _read_as_training(note, source.path, source.member, decoder, limits, count)


def _decoded(source: Source, index: FrameIndex, limits: Limits) -> Iterator[None]:
    """Decode a file's frames, one at a time."""
    with open_container(source, index.container, limits) as opened:
        for i, frame in enumerate(opened.decode(main_video(source, opened))):
            if frame.is_corrupt:
                raise source.error(f"frame {i} of {len(index)} is damaged; copy the file again", "damaged")
            size = (frame.width, frame.height) if index.turns % 2 else (frame.height, frame.width)
            if size != index.size:
                reason = f"frame {i} is {size[0]}x{size[1]} pixels, the first is {index.size[0]}x{index.size[1]}"
                raise source.error(f"{reason}; cut the video where it changes", "unsupported")
            yield


def _read_as_training(
    note: Note, path: Path, member: tuple[int, int] | None, decoder: DecoderName, limits: Limits, count: int
) -> None:
    """Open a video with the decoder that training uses, and read its first, middle and last frame."""
    note({"stage": f"opening it with decoder={decoder!r}"})
    video = open_video(path, decoder, member=member, limits=limits)
    note({"decoder": video.name, "stage": f"reading it with {video.name}"})
    if video.num_frames != count:
        raise DecodeError(path, f"{video.name} counts {video.num_frames} frames, {count} can be decoded", "damaged")
    video.read(sorted({0, count // 2, count - 1}))


def _check_still(note: Note, path: Path, decoder: DecoderName, limits: Limits) -> None:
    note({"stage": "reading its frames"})
    video = open_video(path, decoder, limits=limits)
    note({"decoder": video.name, "container": video.name, "height": video.size[0], "width": video.size[1]})
    count = 0
    try:
        for i in range(video.num_frames):
            video.read([i])
            count += 1
    finally:
        note({"frames_decoded": count, "stage": "reading its bytes"})
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path.iterdir()):
            if file.is_file():
                with file.open("rb") as opened:
                    digest.update(f"{len(file.name)} {file.name} {_hash(opened)}\n".encode("utf-8", "surrogateescape"))
        note({"sha256": digest.hexdigest()})
    else:
        with path.open("rb") as opened:
            note({"sha256": _hash(opened)})


def _hash(file: io.BufferedReader) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _wants_memory(error: BaseException | None) -> bool:
    """Whether an error is what became of a refused request for memory."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        error = error.__cause__ or error.__context__
    return False
