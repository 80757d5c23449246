"""Marks side by side and names beside them, in pixels worked by hand."""

import itertools

import pytest

from timesformer_plus.analysis.page_labels import Box, box_of, place_names, spread

FRAME = Box(0, 0, 300, 100)


def test_the_first_mark_of_a_place_stays_and_the_others_stand_beside_it():
    assert spread([10, 50, 10, 10, 49.8], 6) == [10, 50, 16, 4, pytest.approx(55.8)]
    assert spread([1, 2, 3], 6) == [1, 2, 3]
    assert spread([], 6) == []


def test_box_of_a_name_begins_beside_its_mark():
    assert box_of("abcd", (100, 50), "middle right") == Box(108, 43.5, 138, 56.5)
    assert box_of("abcd", (100, 50), "top center") == Box(85, 29, 115, 42)
    assert box_of("abcd", (100, 50), "bottom left") == Box(62, 58, 92, 71)


def test_a_name_goes_to_the_right_and_out_of_the_way_of_the_next_mark():
    assert place_names(["abcd"], [(100, 50)], FRAME) == ["middle right"]
    assert place_names(["abcd", "ef"], [(100, 50), (120, 50)], FRAME) == ["middle left", "middle right"]


def test_a_name_leaves_the_frame_nowhere():
    assert place_names(["abcd"], [(295, 50)], FRAME) == ["middle left"]
    assert place_names(["abcd"], [(5, 50)], Box(0, 40, 30, 60)) == [""]


def test_who_is_first_has_the_first_choice():
    marks = [(100, 50), (100, 58)]
    assert place_names(["abcd", "efgh"], marks, FRAME)[0] == "middle right"
    assert place_names(["abcd", "efgh"], marks, FRAME, first=[1])[1] == "middle right"


def test_a_line_is_crossed_only_where_there_is_nothing_better():
    mark, right_of_it = [(100, 50)], Box(110, 0, 112, 100)
    assert place_names(["abcd"], mark, FRAME, lines=[right_of_it]) == ["middle left"]
    assert place_names(["abcd"], mark, Box(98, 0, 300, 100), lines=[right_of_it]) == ["middle right"]


def test_no_name_lies_on_another_name_or_mark():
    marks = [(100 + 7 * place, 40 + 11 * (place * 5 % 7) % 40) for place in range(15)]
    names = [f"name {place}" for place in range(15)]
    sides = place_names(names, marks, FRAME)
    boxes = [box_of(name, mark, side) for name, mark, side in zip(names, marks, sides, strict=True) if side]
    assert 4 < len(boxes) < 15
    assert not any(a.meets(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.left < x < box.right and box.top < y < box.bottom for box in boxes for x, y in marks)
