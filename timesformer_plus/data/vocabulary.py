"""The names of the classes, and which of them a label means."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from timesformer_plus.data.annotations import beside, first_beside, json_file, text_lines

CLASSES_FILE = "classes.txt"
# Numbers without names make a class for every number up to the largest: an id given as label must not make millions.
MAX_UNNAMED_CLASSES = 100_000


class Vocabulary:
    """Class names in the order of their indices.

    Args:
        names: The names; they must differ.
        source: Where they come from, for errors.
        numbering: The classes that the labels' numbers count, where these are listed in another order: a number is
            the name that it has there.

    Raises:
        ValueError: No name, or one twice.
    """

    def __init__(self, names: Iterable[str], source: str, *, numbering: Vocabulary | None = None) -> None:
        self.names = tuple(names)
        self.source = source
        self.numbering = numbering
        self._indices = {name: i for i, name in enumerate(self.names)}
        if not self.names:
            raise ValueError(f"{source}: no class name; write one a line in {CLASSES_FILE}, or label the videos")
        if len(self._indices) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"{source}: class {twice!r} is listed twice; class names must differ")
        # with classes called 1, 2, 3 a label 1 may be meant as a name or as a place; with 0, 1, 2 both are the same
        self._counts = not any(map(is_number, self.names)) or self.names == tuple(map(str, range(len(self.names))))

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.names)

    def index(self, label: str, where: str) -> int:
        """The class that a label means: by its name, else by its number.

        Numbers mean names only, where any class is called by one that is not its place.

        Raises:
            ValueError: It is neither; the text starts with ``where`` and names the nearest classes.
        """
        if self.numbering is not None and is_number(label):
            name = self.numbering.names[self.numbering.index(label, where)]
            if name not in self._indices:
                raise ValueError(
                    f"{where}: label {label!r} is the class {name!r} of {self.numbering.source}, which is not one of "
                    f"the {len(self.names)} of {self.source}; remove the row, or add the class there"
                )
            return self._indices[name]
        if label in self._indices:
            return self._indices[label]
        if self._counts and is_number(label) and int(label) < len(self.names):
            return int(label)
        near = difflib.get_close_matches(label, self.names, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}? Correct it" if near else "correct it"
        some = ", ".join(map(repr, self.names[:8])) + (", ..." if len(self.names) > 8 else "")
        numbers = f", or a number from 0 to {len(self.names) - 1}" if self._counts else ""
        raise ValueError(
            f"{where}: label {label!r} is not one of the {len(self.names)} classes ({some}{numbers}) of {self.source}; "
            f"{hint}, or add it there"
        )

    def marks(self, indices: Iterable[int]) -> tuple[int, ...]:
        """A multi-label target: one 0 or 1 for every class."""
        wanted = set(indices)
        return tuple(int(i in wanted) for i in range(len(self.names)))


def is_number(text: str) -> bool:
    """Whether a text is a whole number from 0 written in plain digits, fewer than any id that is not a class has."""
    return text.isascii() and text.isdecimal() and len(text) < 19


def listed(path: Path) -> Vocabulary:
    """The classes of a file with a name in every line, such as ``classes.txt``."""
    return Vocabulary((name for _, name in text_lines(path)), str(path))


def of_json(path: Path) -> Vocabulary:
    """The classes of a JSON object from name to number, such as Something-Something's ``labels.json``."""
    labels = json_file(path)
    if not isinstance(labels, dict):
        raise ValueError(f'{path}: expected an object such as {{"Closing something": "0"}}')
    return numbered(((str(number), name) for name, number in labels.items()), path)


def names_in(path: Path) -> tuple[str, ...]:
    """The names in a file, in the order of their numbers: a line each, or as ``of_json`` has them.

    Raises:
        ValueError: There is no such file, or it is malformed.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; it should have the names of the classes, one a line")
    return (of_json if path.suffix == ".json" else listed)(path).names


def given_or_beside(path: Path, classes: Sequence[str] | None) -> Vocabulary | None:
    """The classes that were given, else those of ``classes.txt`` in the folder of ``path``, else None.

    Numbers in the annotations count the lines of that file where it is there, also when the classes are given.
    """
    file = first_beside(path, (CLASSES_FILE,))
    return given_or(classes, None if file is None else listed(file))


def given_or(classes: Sequence[str] | None, own: Vocabulary | None) -> Vocabulary | None:
    """The classes that were given, with the numbers of the data set's own; else its own."""
    return own if classes is None else Vocabulary(classes, "`classes`", numbering=own)


def given_or_own(
    annotations: Path,
    classes: Sequence[str] | None,
    names: Sequence[str],
    read: Callable[[Path], Vocabulary],
    content: str = "the names of the classes",
) -> Vocabulary:
    """The classes that were given, else those of the data set's own file, whose numbers count in either case.

    Args:
        annotations: The annotations.
        classes: The classes that were given.
        names: Names that the data set's file goes by; it lies beside the annotations.
        read: Reads it.
        content: What it holds, for the error.

    Raises:
        ValueError: No classes were given and there is no such file.
    """
    if classes is None:
        return read(beside(annotations, names, content))
    file = first_beside(annotations, names)
    return Vocabulary(classes, "`classes`", numbering=None if file is None else read(file))


def of_labels(path: Path, labels: Iterable[str]) -> Vocabulary:
    """The names that occur, sorted; when all are numbers, every number from 0 to the largest.

    Args:
        path: The manifest they occur in.
        labels: The labels.

    Raises:
        ValueError: No label, or a number too large to be a class.
    """
    used = set(labels) - {""}
    if used and all(map(is_number, used)):
        largest = max(map(int, used))
        if largest >= MAX_UNNAMED_CLASSES:
            raise ValueError(f"{path}: class number {largest} without class names; name the classes in {CLASSES_FILE}")
        return Vocabulary(map(str, range(largest + 1)), str(path))
    return Vocabulary(sorted(used), str(path))


def numbered(pairs: Iterable[tuple[str, str]], source: Path) -> Vocabulary:
    """The classes of a file that gives every name its number.

    Args:
        pairs: (number, name), in any order.
        source: The file.

    Raises:
        ValueError: The numbers are not 0, 1, 2, ... each once.
    """
    names: dict[int, str] = {}
    total = 0
    for number, name in pairs:
        total += 1
        if is_number(number):
            names[int(number)] = name
    if sorted(names) != list(range(total)):
        raise ValueError(f"{source}: the {total} classes must have the numbers 0 to {total - 1}, each once")
    return Vocabulary((names[i] for i in range(total)), str(source))
