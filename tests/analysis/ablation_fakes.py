"""Stand-ins for the trainer and for measured costs."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from timesformer_plus.analysis.cost import Cost, Speed

FAKE_TRAINER = (sys.executable, str(Path(__file__).with_name("fake_trainer.py")))


class FakeMeasure:
    """Counts how often it is asked, and gives every model a cost of its own."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, folders: Mapping[str, Path], threads: int) -> dict[str, tuple[Cost, Speed]]:
        assert all(folder.is_dir() for folder in folders.values())
        self.asked.append(list(folders))
        return {
            name: (Cost(1000, 0.5 * (1 + index)), Speed(100.0 / (1 + index), 8, 11, threads, "test <cpu>"))
            for index, name in enumerate(folders)
        }


class FakeProbe:
    """Remembers what it was asked to score."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, folders: Sequence[Path], *, threads: int) -> None:
        assert threads == 1
        assert all((folder / "best").is_dir() for folder in folders)
        self.asked.append([f"{folder.parent.name} {folder.name}" for folder in folders])
