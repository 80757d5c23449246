"""A sheet to look at: one clip a row, one frame a column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from timesformer_plus.data.decoders import open_video

GAP = 4
LABEL_WIDTH = 150
HEADER_HEIGHT = 22
# small frames are enlarged by a whole factor to about this side, in pixels, so that every pixel stays a square
CELL = 96


def preview_sheet(clips: Sequence[tuple[str, Path]], output: Path) -> None:
    """Draw clips as a PNG, read back from their files.

    Args:
        clips: (label, video file) of each row; all of the same size and number of frames.
        output: The PNG file.
    """
    videos = [open_video(path, "pyav") for _, path in clips]
    height, width = videos[0].size
    factor = max(1, CELL // max(height, width))
    height, width = height * factor, width * factor
    columns = videos[0].num_frames
    sheet = Image.new(
        "RGB", (LABEL_WIDTH + columns * (width + GAP), HEADER_HEIGHT + len(clips) * (height + GAP)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for column in range(columns):
        middle = LABEL_WIDTH + column * (width + GAP) + width // 2
        draw.text((middle, HEADER_HEIGHT // 2), f"frame {column}", fill="black", font=font, anchor="mm")
    for row, ((label, _), video) in enumerate(zip(clips, videos, strict=True)):
        top = HEADER_HEIGHT + row * (height + GAP)
        words = label.replace(";", "\n+ ")
        draw.multiline_text(
            (LABEL_WIDTH - 10, top + height // 2), words, fill="black", font=font, anchor="rm", align="right"
        )
        for column, frame in enumerate(video.read(range(columns))):
            picture = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (LABEL_WIDTH + column * (width + GAP), top))
    sheet.save(output)
