"""What the coded bytes of a key frame say: whether decoding can begin there, and whether the picture changes its size.

Containers mark more key frames than decoding can begin at: H.264 and HEVC know points from which the picture only
builds up, slice by slice (intra refresh, as live encoders write). A decoder that seeks to one shows what has not been
built yet, and does not say so.
"""

from __future__ import annotations

from collections.abc import Iterator

# types of units in H.264 (ITU-T H.264, table 7-1) and HEVC (ITU-T H.265, table 7-1)
_H264_SLICES, _H264_IDR, _H264_SEI, _H264_SPS = range(1, 5), 5, 6, 7
_HEVC_SLICES, _HEVC_RANDOM_ACCESS, _HEVC_SPS = range(16), range(16, 24), 33
_RECOVERY_POINT = 6
# a picture's first slice comes after a handful of parameter sets and messages
_MAX_UNITS = 32


def is_clean_start(codec: str, packet: memoryview, length_bytes: int) -> bool:
    """Whether the pictures from a key frame on can be decoded without any picture before it.

    Args:
        codec: FFmpeg's name of the codec. All but ``h264`` and ``hevc`` mean what they mark.
        packet: The coded frame.
        length_bytes: See ``unit_length_bytes``.

    Returns:
        False where it only begins to build up a picture.
    """
    if codec == "h264":
        return _is_clean_h264(packet, length_bytes)
    if codec == "hevc":
        for unit in _units(packet, length_bytes):
            kind = unit[0] >> 1 & 0x3F
            if kind in _HEVC_RANDOM_ACCESS:
                return True
            if kind in _HEVC_SLICES:
                return False
    return True


def picture_parameters(codec: str, packet: memoryview, length_bytes: int) -> bytes:
    """The bytes of a key frame that tell the size of the pictures: others in a later key frame mean another size.

    Args:
        codec: FFmpeg's name of the codec.
        packet: The coded frame.
        length_bytes: See ``unit_length_bytes``.

    Returns:
        Nothing where the packet, or the codec as far as it is known here, does not tell.
    """
    if codec == "h264":
        return b"".join(bytes(unit) for unit in _units(packet, length_bytes) if unit[0] & 0x1F == _H264_SPS)
    if codec == "hevc":
        return b"".join(bytes(unit) for unit in _units(packet, length_bytes) if unit[0] >> 1 & 0x3F == _HEVC_SPS)
    if codec == "vp8":
        return bytes(packet[6:10])
    if codec == "vp9" and len(packet) > 8:
        # half a byte of colours, the sizes, half a byte of something else (profile 0; in others a bit or three later)
        return bytes(packet[4:8]) + bytes([packet[8] & 0xF0])
    return b""


def unit_length_bytes(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length that stands before each unit of an H.264 or HEVC packet; 0 where start codes part them."""
    if not extradata or extradata[0] != 1:
        return 0
    place = {"h264": 4, "hevc": 21}.get(codec, len(extradata))
    return (extradata[place] & 3) + 1 if place < len(extradata) else 0


def _is_clean_h264(packet: memoryview, length_bytes: int) -> bool:
    whole = False
    for unit in _units(packet, length_bytes):
        kind = unit[0] & 0x1F
        if kind == _H264_IDR:
            return True
        if kind in _H264_SLICES:
            return whole
        if kind == _H264_SEI:
            whole = whole or _recovers_at_once(unit)
    return True


def _recovers_at_once(sei: memoryview) -> bool:
    """Whether messages hold a recovery point whose count of frames is 0, which is coded as a single 1."""
    place = 1
    while place + 2 < len(sei):
        kind = sei[place]
        size = 0
        place += 1
        while place < len(sei) and sei[place] == 0xFF:
            size += 0xFF
            place += 1
        if place + 1 >= len(sei):
            return False
        size += sei[place]
        place += 1
        if kind == _RECOVERY_POINT:
            return bool(sei[place] & 0x80)
        place += size
    return False


def _units(packet: memoryview, length_bytes: int) -> Iterator[memoryview]:
    """The first units of a packet, without what parts them; none of them empty."""
    place = 0
    for _ in range(_MAX_UNITS):
        if length_bytes:
            size = int.from_bytes(packet[place : place + length_bytes], "big")
            begin, end = place + length_bytes, place + length_bytes + size
            place = end
        else:
            # only the beginning is searched: slices are long, and the first of them ends the search
            head = bytes(packet[place : place + 4096])
            code = head.find(b"\0\0\1")
            if code < 0:
                return
            begin = place + code + 3
            following = head.find(b"\0\0\1", code + 3)
            end = len(packet) if following < 0 else place + following
            place = end
        if begin >= min(end, len(packet)):
            return
        yield packet[begin:end]
