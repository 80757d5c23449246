"""Sheets to look at: labelled rows of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from timesformer_plus.data.decoders import open_video

GAP = 4
LABEL_WIDTH = 150
HEADER_HEIGHT = 22
# small frames are enlarged by a whole factor to about this side, in pixels, so that every pixel stays a square
CELL = 96
CAPTION_HEIGHT = 17
LINE_HEIGHT = 18
ELLIPSIS = "…"

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class SheetRow:
    """One row of a sheet.

    Attributes:
        pictures: One a column, RGB, each (H, W, 3) of any size.
        label: What stands at the left of them; it is broken into lines where it is too long, and has its own.
        captions: What stands below each picture, if anything.
        heading: A line above the row, across the sheet, that begins a group of rows; what is too long is cut off.
    """

    pictures: Sequence[Picture]
    label: str = ""
    captions: Sequence[str] = ()
    heading: str = ""


def draw_sheet(
    rows: Sequence[SheetRow],
    *,
    columns: Sequence[str] = (),
    title: str = "",
    cell: int = CELL,
    label_width: int = LABEL_WIDTH,
) -> Image.Image:
    """Draw rows of pictures, each of which keeps its shape.

    Args:
        rows: From top to bottom.
        columns: What stands above each column; without it there is no such line.
        title: What stands at the top, broken into lines.
        cell: About the side of a picture, in pixels: smaller ones are enlarged by a whole factor, larger ones reduced.
        label_width: Room for the labels at the left, in pixels.

    Returns:
        The sheet, RGB.
    """
    shown = [[_fit(picture, cell) for picture in row.pictures] for row in rows]
    width = max((picture.width for pictures in shown for picture in pictures), default=cell)
    count = max([len(columns), *map(len, shown)])
    sheet_width = label_width + count * (width + GAP)
    lines = _wrapped(title, _font(14), sheet_width - 2 * GAP, most=8)
    top = LINE_HEIGHT * len(lines) + (2 * GAP if lines else 0)
    header = top + (HEADER_HEIGHT if columns else 0)
    heights = [
        (HEADER_HEIGHT + GAP if row.heading else 0)
        + max(picture.height for picture in pictures)
        + (CAPTION_HEIGHT if row.captions else 0)
        + GAP
        for row, pictures in zip(rows, shown, strict=True)
    ]
    sheet = Image.new("RGB", (sheet_width, header + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((GAP, GAP), "\n".join(lines), fill="black", font=_font(14), spacing=LINE_HEIGHT - 14)
    for column, name in enumerate(columns):
        middle = label_width + column * (width + GAP) + width // 2
        draw.text((middle, top + HEADER_HEIGHT // 2), _cut(name, _font(14), width + GAP), "black", _font(14), "mm")
    for row, pictures, height in zip(rows, shown, heights, strict=True):
        _draw_row(sheet, row, pictures, (label_width, header), width)
        header += height
    return sheet


def _draw_row(
    sheet: Image.Image, row: SheetRow, pictures: Sequence[Image.Image], corner: tuple[int, int], width: int
) -> None:
    draw = ImageDraw.Draw(sheet)
    left, top = corner
    if row.heading:
        draw.line((0, top, sheet.width, top), fill="gray")
        text = _cut(row.heading, _font(14), sheet.width - 2 * GAP)
        draw.text((GAP, top + HEADER_HEIGHT // 2), text, "black", _font(14), "lm")
        top += HEADER_HEIGHT + GAP
    height = max(picture.height for picture in pictures)
    words = "\n".join(_wrapped(row.label, _font(14), left - 14, most=max(1, height // LINE_HEIGHT)))
    draw.multiline_text((left - 10, top + height // 2), words, "black", _font(14), "rm", align="right")
    for column, picture in enumerate(pictures):
        # in the middle of its cell, if it is not as wide or as high as the others
        place = left + column * (width + GAP) + (width - picture.width) // 2
        sheet.paste(picture, (place, top + (height - picture.height) // 2))
    for column, caption in enumerate(row.captions):
        middle = left + column * (width + GAP) + width // 2
        text = _cut(caption, _font(11), width + GAP)
        draw.text((middle, top + height + CAPTION_HEIGHT // 2 - 1), text, "dimgray", _font(11), "mm")


def draw_clips(clips: Sequence[tuple[str, Path]], output: Path) -> None:
    """Draw whole clips, one a row, as a PNG, read back from their files.

    Args:
        clips: (label, video file) of each row; all of the same size and number of frames.
        output: The PNG file.
    """
    videos = [open_video(path, "pyav") for _, path in clips]
    frames = range(videos[0].num_frames)
    rows = [
        SheetRow(list(video.read(frames)), label.replace(";", "\n+ "))
        for (label, _), video in zip(clips, videos, strict=True)
    ]
    draw_sheet(rows, columns=[f"frame {i}" for i in frames], cell=max(CELL, *videos[0].size)).save(output)


def _fit(picture: Picture, cell: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    factor = cell / max(image.size)
    if factor >= 1:
        return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float, *, most: int) -> list[str]:
    """Lines no wider than ``width``, broken at spaces, inside a word only where that is wider; at most ``most``."""
    lines: list[str] = []
    for part in text.split("\n") if text else []:
        line = ""
        for word in part.split(" "):
            tried = f"{line} {word}" if line else word
            if font.getlength(tried) <= width:
                line = tried
                continue
            if line:
                lines.append(line)
            line = word
            while font.getlength(line) > width and len(line) > 1:
                end = next(i for i in range(len(line) - 1, 0, -1) if i == 1 or font.getlength(line[:i]) <= width)
                lines.append(line[:end])
                line = line[end:]
        lines.append(line)
    if len(lines) > most:
        lines[most - 1] = _cut(lines[most - 1] + ELLIPSIS, font, width)
    return lines[:most]


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """As much of a line as fits, in one line."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + ELLIPSIS) > width:
        text = text[:-1]
    return text + ELLIPSIS
