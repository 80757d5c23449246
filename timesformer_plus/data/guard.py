"""What is let in: regular files that begin like a known container, of a size that a machine can bear.

FFmpeg opens what it likes: left to guess, it follows a text file named ``.mp4`` to other files, waits for ever on a
pipe, and decodes pictures of any size. So every file is looked at here first, and nothing else is ever opened.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path


class DecodeError(RuntimeError):
    """A video could not be opened, or a frame of it could not be read.

    Args:
        path: The file.
        reason: What is wrong with it, and what to try. Without one, ``path`` is the whole text: torch raises an error
            of a loader's worker again in the main process, with its traceback as the only argument.
        kind: The kind of trouble in a word or two, to be counted by: ``missing``; ``not a file`` (a pipe, a device, a
            folder without frames); ``no access``; ``empty``; ``not a video`` (does not begin like a container, or holds
            no video); ``cut off``; ``damaged``; ``too large`` (beyond a limit); ``unsupported`` (a sound file that this
            decoder, or any, cannot read exactly); ``unfit part`` (too short for its clip, or nothing in the labelled
            part).
    """

    def __init__(self, path: str | Path, reason: str = "", kind: str = "unknown") -> None:
        super().__init__(str(path), reason, kind)
        self.path = Path(path) if reason else None
        self.reason = reason
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.reason else str(self.args[0])


@dataclass(frozen=True)
class Limits:
    """How large a video may be. A file beyond a limit is refused with a ``DecodeError`` that names the limit.

    Attributes:
        max_file_bytes: Bytes of the file.
        max_pixels: Pixels of a frame, height times width; what its header says is checked before anything is decoded.
        max_seconds: Duration in seconds.
        max_frames: Frames of the video.
        max_read_bytes: Bytes of the frames that one ``read`` returns: frames * height * width * 3.

    Raises:
        ValueError: A limit that is not above zero.
    """

    max_file_bytes: int = 16 * 2**30
    max_pixels: int = 4096 * 4096
    max_seconds: float = 6 * 3600
    max_frames: int = 1_000_000
    max_read_bytes: int = 2**30

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"limits.{field.name}={getattr(self, field.name)}: must be above 0")

    def check(self, path: Path, name: str, value: float, what: str) -> None:
        """Refuse a value beyond a limit.

        Args:
            path: The file, for the text.
            name: Which limit.
            value: What the file has.
            what: What that is, for the text: ``"a frame of 8192x4320 pixels"``.

        Raises:
            DecodeError: The value is larger than the limit.
        """
        limit = getattr(self, name)
        if value > limit:
            reason = f"is too large: {what}, above data.limits.{name}={limit:,}; raise that limit, or leave it out"
            raise DecodeError(path, reason, "too large")

    def check_video(self, path: Path, *, size: tuple[int, int], frames: int, seconds: float) -> None:
        """Refuse a video beyond a limit; what its header does not say is 0.

        Args:
            path: The file, for the text.
            size: (height, width) of a frame, in pixels.
            frames: How many there are.
            seconds: How long it is.

        Raises:
            DecodeError: It is larger than a limit.
        """
        self.check(path, "max_pixels", size[0] * size[1], f"frames of {size[0]}x{size[1]} pixels")
        self.check(path, "max_frames", frames, f"{frames:,} frames")
        self.check(path, "max_seconds", seconds, f"{seconds:,.0f} seconds")


@dataclass(frozen=True)
class Source:
    """A file that was let in, or the part of a file that a tar archive's member takes up.

    Attributes:
        path: The file, absolute, so that nothing takes its name for an address.
        member: Place of the first byte and number of bytes in ``path``, for a member of an archive.
        size: Bytes of the file, or of the member.
        mtime_ns: When the file was changed last, in nanoseconds.
        inode: Number of the file in its file system: another one moved to this place has another.
    """

    path: Path
    member: tuple[int, int] | None
    size: int
    mtime_ns: int
    inode: int = 0

    def error(self, reason: str, kind: str) -> DecodeError:
        """A ``DecodeError`` that names the file, and the member by its place."""
        where = f"the member at byte {self.member[0]} " if self.member else ""
        return DecodeError(self.path, where + reason, kind)

    def open(self) -> io.BufferedReader:
        """Open it for reading; a member is all that its reader can see of the archive.

        Raises:
            DecodeError: It cannot be opened, or is no regular file any more.
        """
        try:
            # what was a file a moment ago may be a pipe now: opened so, that does not wait for a writer
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
            file = os.fdopen(descriptor, "rb", buffering=0)
        except OSError as error:
            raise self.error(f"cannot be read ({error.strerror})", "no access") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            raise self.error("is not a regular file any more", "not a file")
        return io.BufferedReader(file if self.member is None else _Window(file, *self.member))


class _Window(io.RawIOBase):
    """The bytes of a file from ``offset`` on, ``length`` of them, as a file of their own."""

    def __init__(self, file: io.FileIO, offset: int, length: int) -> None:
        super().__init__()
        self._file, self._offset, self._length, self._place = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands over
        count = max(0, min(len(buffer), self._length - self._place))
        self._file.seek(self._offset + self._place)
        read = self._file.readinto(buffer[:count])
        self._place += read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()


def admit(path: str | Path, *, member: tuple[int, int] | None = None, limits: Limits | None = None) -> Source:
    """Let a file in, or refuse it; it is looked up, not opened.

    Args:
        path: The file; a link to a regular file is one.
        member: Offset and length in bytes of the part to read, for a member of a tar archive.
        limits: The limits; the usual ones if not given.

    Returns:
        The file as the system describes it.

    Raises:
        DecodeError: There is none, it is no regular file, empty, too large, or ends before the member does.
    """
    path = Path(path)
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise DecodeError(path, "there is no such file; check the path, or the manifest's root", "missing") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise DecodeError(path, f"cannot be read ({getattr(error, 'strerror', error)})", "no access") from error
    # a FIFO would block whoever opens it for ever
    if not stat.S_ISREG(found.st_mode):
        raise DecodeError(path, "is not a regular file; give the path of a video file", "not a file")
    if member is not None and (min(member) < 0 or sum(member) > found.st_size):
        reason = f"has {found.st_size} bytes, too few for a member of {member[1]} at byte {member[0]}; copy it again"
        raise DecodeError(path, reason, "cut off")
    size = found.st_size if member is None else member[1]
    if not size:
        raise DecodeError(path, "the file is empty; copy it again", "empty")
    (limits or Limits()).check(path, "max_file_bytes", size, f"{size:,} bytes")
    return Source(path.absolute(), member, size, found.st_mtime_ns, found.st_ino)


def identify(path: str | Path, *, member: tuple[int, int] | None = None) -> str:
    """Tell the container of a file from its first bytes.

    Args:
        path: The file.
        member: Offset and length in bytes of the part to look at, for a member of a tar archive.

    Returns:
        FFmpeg's name of the demuxer: ``mov`` (mp4, m4v, 3gp too), ``matroska`` (webm too), ``avi``, ``mpegts``,
        ``mpeg``, ``flv`` or ``asf``.

    Raises:
        DecodeError: Not a regular file, empty, or not the beginning of a video container.
    """
    source = admit(path, member=member)
    try:
        with source.open() as file:
            return identify_opened(source, file)
    except OSError as error:
        raise source.error(f"cannot be read ({error.strerror})", "no access") from error


def identify_opened(source: Source, file: io.BufferedReader) -> str:
    """``identify`` for a file that was let in and opened already, and is at its beginning.

    Raises:
        OSError: It cannot be read.
        DecodeError: See there.
    """
    head = file.read(512)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if len(head) > 376 and all(head[i] == 0x47 for i in (0, 188, 376)):
        return "mpegts"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    known = "mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv"
    raise source.error(f"is no video: it begins with {head[:12]!r}; known are {known}", "not a video")


_MAGIC = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"\x00\x00\x01\xba": "mpeg",
    b"FLV\x01": "flv",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
}
