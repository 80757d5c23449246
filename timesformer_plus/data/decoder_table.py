"""Print which decoder of this machine reads which file: ``python -m timesformer_plus.data.decoder_table [FILE ...]``.

Without files, samples of common encodings are written to a folder that is removed afterwards, and every frame is held
against a decode from start to end. With files, these are opened, and their first, middle and last frame read.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from timesformer_plus.data.decoders import DecodeError, DecoderName, describe_auto, is_usable, open_video
from timesformer_plus.data.encodings import ENCODINGS, Encoding, number_of, sequential_numbers, write_encoding


class Verdict(NamedTuple):
    """What a decoder makes of a file.

    Attributes:
        decoder: The decoder that read it, which ``auto`` chooses; empty where it was refused.
        wrong: Frames that were not the right ones.
        reason: Why it was refused.
    """

    decoder: str
    wrong: tuple[int, ...] = ()
    reason: str = ""


def usable_decoders() -> list[DecoderName]:
    """The decoders that can be loaded on this machine; ``auto`` last."""
    names: tuple[DecoderName, ...] = get_args(DecoderName)
    return sorted(filter(is_usable, names), key=lambda name: (name == "auto", name))


def try_file(path: Path, decoder: DecoderName) -> Verdict:
    """Read three frames of any file."""
    try:
        video = open_video(path, decoder)
        video.read(sorted({0, video.num_frames // 2, video.num_frames - 1}))
    except DecodeError as error:
        return Verdict("", reason=error.reason)
    return Verdict(video.name)


def try_sample(path: Path, encoding: Encoding, decoder: DecoderName) -> Verdict:
    """Read every frame of a sample at once and some alone, far apart, and look at their numbers.

    Args:
        path: Where it was written.
        encoding: How it was written.
        decoder: Name of the decoder.
    """
    truth = sequential_numbers(path)
    try:
        video = open_video(path, decoder)
        # no sample has a multiple of 7 frames: every frame comes once
        order = [7 * i % video.num_frames for i in range(video.num_frames)]
        alone = order[:8]
        frames = [*video.read(order), *(video.read([i])[0] for i in alone)]
    except DecodeError as error:
        return Verdict("", reason=error.reason)
    numbers = [number_of(np.rot90(frame) if encoding.turned else frame) for frame in frames]
    expected = dict(enumerate(truth))
    wrong = {i for i, number in zip([*order, *alone], numbers, strict=True) if expected.get(i) != number}
    # frames that the file has, but the decoder does not
    wrong.update(range(video.num_frames, len(truth)))
    return Verdict(video.name, tuple(sorted(wrong)))


def main(arguments: Sequence[str]) -> None:
    """Print the table.

    Args:
        arguments: Names of files; samples are written if there are none.
    """
    from rich.console import Console
    from rich.table import Table

    # the AV1 encoder tells at length how it is set
    os.environ.setdefault("SVT_LOG", "1")
    decoders = usable_decoders()
    table = Table("file" if arguments else "encoding", *decoders, box=None, pad_edge=False)
    reasons = []
    for name, verdicts in _rows(arguments, decoders):
        table.add_row(name, *map(_cell, verdicts))
        reasons += [f"{name}: {verdict.reason}" for verdict in verdicts[-1:] if verdict.reason]
    # as wide as the names need, also where it goes to a file
    console = Console(highlight=False, width=max(Console().width, 110))
    console.print(table, markup=False)
    console.print("", describe_auto(), *reasons, sep="\n", markup=False, soft_wrap=True)


def _rows(arguments: Sequence[str], decoders: Sequence[DecoderName]) -> Iterator[tuple[str, list[Verdict]]]:
    for argument in arguments:
        yield argument, [try_file(Path(argument), decoder) for decoder in decoders]
    if arguments:
        return
    with tempfile.TemporaryDirectory() as folder:
        for encoding in ENCODINGS:
            path = write_encoding(Path(folder) / encoding.file, encoding)
            yield encoding.name, [try_sample(path, encoding, decoder) for decoder in decoders]


def _cell(verdict: Verdict) -> str:
    if verdict.wrong:
        return f"{len(verdict.wrong)} WRONG"
    return verdict.decoder or "-"


if __name__ == "__main__":
    main(sys.argv[1:])
