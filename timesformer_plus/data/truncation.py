"""Whether a file ends before its container says that it does: copies and downloads that broke off.

FFmpeg reads what is there and says nothing, and a frame count in the header is no help where there is none (Matroska,
fragmented mp4). But mp4, Matroska and AVI begin their large parts with a length.
"""

from __future__ import annotations

import io

# parts without which frames are missing; what comes after them may be anything, as the padding that some tools leave
_MOV_PARTS = (b"mdat", b"moov", b"moof")
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def missing_bytes(file: io.BufferedReader, size: int, container: str) -> int:
    """How many bytes a file lacks of what its container announces.

    Args:
        file: The file, opened; it is read at places of its own.
        size: Its bytes.
        container: FFmpeg's name of its demuxer.

    Returns:
        0 where nothing is missing, and where the container does not tell.

    Raises:
        OSError: The file cannot be read.
    """
    find_end = {"mov": _end_of_mov, "matroska": _end_of_matroska, "avi": _end_of_avi}.get(container)
    if find_end is None:
        return 0
    file.seek(0)
    return max(0, find_end(file, size) - size)


def _end_of_mov(file: io.BufferedReader, size: int) -> int:
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        # 0: up to the end of the file; other values below the header's own size: no box any more
        if length < 8 or len(head) < 8:
            return 0
        place += length
        if place > size:
            return place if kind in _MOV_PARTS else 0
    return place


def _end_of_matroska(file: io.BufferedReader, _: int) -> int:
    place = 0
    for wanted in (_EBML, _SEGMENT):
        file.seek(place)
        head = file.read(12)
        found, length, place = int.from_bytes(head[:4], "big"), *_vint(head, place)
        if found != wanted or length is None:
            return 0
        place += length
    return place


def _vint(head: bytes, place: int) -> tuple[int | None, int]:
    """The length that follows a four-byte id, ``None`` if it is left open, and where the content begins."""
    if len(head) < 5 or not head[4]:
        return None, place
    # as many leading zeros as bytes follow
    extra = 8 - head[4].bit_length()
    mask = (1 << 7 * (extra + 1)) - 1
    value = int.from_bytes(head[4 : 5 + extra], "big") & mask
    return None if value == mask else value, place + 5 + extra


def _end_of_avi(file: io.BufferedReader, _: int) -> int:
    # files above 1 GB go on with more such parts; of these the first must be whole at least
    return 8 + int.from_bytes(file.read(8)[4:8], "little")
