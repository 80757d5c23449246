"""Which class a label means: by its name, or by its number where that can mean one thing only."""

from pathlib import Path

import pytest

from timesformer_plus.data.catalogues import read_manifest
from timesformer_plus.data.vocabulary import Vocabulary, of_labels


def indices(vocabulary: Vocabulary, *labels: str) -> list[int]:
    return [vocabulary.index(label, "row 1") for label in labels]


def test_names_and_numbers():
    assert indices(Vocabulary(["walk", "run"], "a"), "run", "walk", "1", "0", "01") == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("names", [["1", "2", "3"], ["walk", "7"], ["2", "1", "0"], ["0", "1", "3"], ["00", "01"]])
def test_numbers_mean_names_only_where_classes_are_called_by_numbers(names):
    vocabulary = Vocabulary(names, "classes.txt")
    assert indices(vocabulary, *names) == list(range(len(names)))
    places = [str(i) for i in range(len(names)) if str(i) not in names]
    for label in [*places, "000", str(len(names) + 50)]:
        with pytest.raises(ValueError, match=rf"row 1: label '{label}' is not one of .*classes \([^)]*'\) of classes"):
            vocabulary.index(label, "row 1")


def test_numbers_that_are_their_own_places_may_be_written_in_any_way():
    assert indices(of_labels(Path("a"), ["000", "002"]), "000", "002", "2") == [0, 2, 2]


@pytest.mark.parametrize("name", ["train.csv", "train.txt"])
def test_classes_called_by_numbers_from_one(tmp_path, name):
    """The class in the second line is not also that of label 1."""
    (tmp_path / "classes.txt").write_text("1\n2\n3\n")
    for i in range(3):
        (tmp_path / f"{i}.mp4").touch()
    mark, header, format = (",", "path,label\n", "csv") if name == "train.csv" else (" ", "", "list")
    path = tmp_path / name
    path.write_text(f"{header}0.mp4{mark}1\n1.mp4{mark}3\n")
    assert [s.label for s in read_manifest(path, format=format).samples] == [0, 2]
    path.write_text(f"{header}0.mp4{mark}1\n1.mp4{mark}0\n")
    with pytest.raises(ValueError, match="label '0' is not one of the 3 classes"):
        read_manifest(path, format=format)


def test_numbers_of_another_list():
    own = Vocabulary(["jump", "walk", "run"], "classes.txt")
    given = Vocabulary(["walk", "run"], "`classes`", numbering=own)
    assert indices(given, "1", "2", "walk", "run") == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"label '0' is the class 'jump' of classes\.txt, which is not one of the 2"):
        given.index("0", "row 1")
    with pytest.raises(ValueError, match=r"label '3' is not one of the 3 classes .* of classes\.txt"):
        given.index("3", "row 1")
    with pytest.raises(ValueError, match=r"label 'jump' is not one of the 2 classes .* of `classes`"):
        given.index("jump", "row 1")


def test_a_class_called_by_a_number_in_the_other_list_is_meant_by_its_name():
    own = Vocabulary(["2", "1"], "classes.txt")
    assert indices(Vocabulary(["1", "2"], "`classes`", numbering=own), "2", "1") == [1, 0]
    with pytest.raises(ValueError, match="label '0' is not one of the 2 classes"):
        Vocabulary(["1", "2"], "`classes`", numbering=own).index("0", "row 1")
