"""Sheets: pictures keep their shape and pixels, and words stay where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from timesformer_plus.data.sheets import SheetRow, draw_sheet


def picture(height, width, color=(10, 200, 30)):
    return np.full((height, width, 3), color, np.uint8)


def area(sheet, color=(10, 200, 30)):
    """(top, left, height, width) of all pixels about that colour."""
    near = (np.abs(np.asarray(sheet).astype(int) - color) < 3).all(-1)
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


@pytest.mark.parametrize(
    ("size", "shown"),
    [((32, 32), (96, 96)), ((30, 40), (60, 80)), ((96, 96), (96, 96)), ((100, 200), (48, 96)), ((400, 10), (96, 2))],
)
def test_pictures_keep_their_shape(size, shown):
    sheet = draw_sheet([SheetRow([picture(*size)])])
    assert area(sheet)[2:] == shown
    assert sheet.size == (150 + shown[1] + 4, shown[0] + 4)


def test_enlarged_pixels_are_squares():
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    sheet = np.asarray(draw_sheet([SheetRow([noise])]))
    for row in range(3):
        for column in range(3):
            assert np.array_equal(sheet[row:72:3, 150 + column : 246 : 3], noise)


def test_pictures_of_several_shapes_stand_in_the_middle_of_equal_cells():
    sheet = draw_sheet(
        [SheetRow([picture(96, 96, (0, 0, 0)), picture(96, 48)]), SheetRow([picture(48, 96, (0, 0, 0))])]
    )
    assert sheet.size == (150 + 2 * 100, 100 + 52)
    assert area(sheet) == (0, 150 + 100 + 24, 96, 48)


@pytest.mark.parametrize("label", ["w" * 300, "many words " * 40, "a\nb\n" * 20, "a\tb\x00c", "naïve 東京 🎬"])
def test_labels_stay_in_their_column_and_row(label):
    pictures = [picture(32, 32)] * 2
    rows = [SheetRow(pictures), SheetRow(pictures, label), SheetRow(pictures)]
    sheet, bare = np.asarray(draw_sheet(rows)), np.asarray(draw_sheet([SheetRow(pictures)] * 3))
    changed = (sheet != bare).any(-1)
    rows_changed, columns_changed = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert rows_changed[0] >= 100
    assert rows_changed[-1] < 200
    assert columns_changed[-1] < 146


@pytest.mark.parametrize("kind", ["columns", "captions", "heading"])
def test_long_lines_are_cut(kind):
    text = "far too long for its place, " * 20
    row = SheetRow(
        [picture(32, 32)] * 2, **{} if kind == "columns" else {kind: [text] * 2 if kind == "captions" else text}
    )
    sheet = draw_sheet([row], columns=[text] * 2 if kind == "columns" else ())
    words = {"columns": 22, "captions": 17, "heading": 22 + 4}[kind]
    assert sheet.size == (350, 100 + words)
    dark = (np.asarray(sheet) < 160).all(-1)
    # something is written, and captions leave the pictures' cells alone
    assert dark.any()
    if kind != "heading":
        assert not dark[:, :140].any()


def test_a_long_title_takes_several_lines():
    row = SheetRow([picture(32, 32)])
    one, many = draw_sheet([row], title="a word"), draw_sheet([row], title="a word " * 20)
    assert one.height == 18 + 8 + 100
    assert many.height > 2 * 18 + 8 + 100
    assert many.width == one.width


def test_sheets_are_the_same_every_time():
    rows = [SheetRow([picture(20, 30)] * 3, "label", ["a", "b", "c"], "heading")]
    first, second = (np.asarray(draw_sheet(rows, columns="xyz", title="title")) for _ in range(2))
    assert np.array_equal(first, second)
