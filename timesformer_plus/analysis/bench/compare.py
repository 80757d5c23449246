"""What has become worse from one file of the benchmark to another, beyond noise.

A row is worse when its quartiles have left those of before, on the bad side, and its median has changed by more than 5
percent (and by a point, where it is a percentage, or by .05, where an exponent). Quartiles tell the noise from round to
round, the 5 percent allow for that from run to run, which rounds do not see. Seconds and MB are held against each other
only where machine, threads and versions are the same; ratios always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .files import read_run, rows_of
from .rows import DIMENSIONLESS, Row

RELATIVE = 0.05
# below these a change of 5 percent is nothing that anybody would notice
_LEAST = {"percent": 1.0, "exponent": 0.05}

Verdict = Literal["worse", "better", "as before"]


@dataclass(frozen=True)
class Change:
    """A row of both files.

    Attributes:
        old: The row as it was.
        new: As it is.
        verdict: What has become of it.
    """

    old: Row
    new: Row
    verdict: Verdict

    def __str__(self) -> str:
        old, new = self.old, self.new
        return (
            f"{new['table']}: {new['name']}: {old['median']:.4g} [{old['q1']:.4g}, {old['q3']:.4g}] -> "
            f"{new['median']:.4g} [{new['q1']:.4g}, {new['q3']:.4g}] {new['unit']} ({new['better']} is better)"
        )


@dataclass(frozen=True)
class Comparison:
    """Two files.

    Attributes:
        changes: Rows that could be compared.
        vanished: Rows of tables that the new run was asked for with the settings of the old one, and which it lacks:
            what makes them is broken, or it was interrupted.
        left_out: Rows that the new run was not asked for.
        unlike: Why seconds and MB were not compared; empty where they were.
    """

    changes: tuple[Change, ...]
    vanished: tuple[str, ...]
    left_out: tuple[str, ...]
    unlike: tuple[str, ...]

    @property
    def worse(self) -> list[Change]:
        """What has become worse beyond noise."""
        return [change for change in self.changes if change.verdict == "worse"]

    @property
    def is_fine(self) -> bool:
        """Whether nothing has become worse or has vanished."""
        return not self.worse and not self.vanished


def compare_files(old: Path, new: Path) -> Comparison:
    """Compare two files.

    Args:
        old: What is compared to.
        new: What is compared.

    Raises:
        ValueError: One is no file of the benchmark, or they have no row in common.
    """
    before, after = read_run(old), read_run(new)
    comparison = compare_runs(before, after)
    if not comparison.changes and not comparison.vanished:
        raise ValueError(
            f"{old} and {new} have no row in common that can be compared "
            f"({'; '.join(comparison.unlike) or 'other tables'}); measure the same tables on the same kind of device"
        )
    return comparison


def compare_runs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Comparison:
    """Compare what two files hold.

    Raises:
        ValueError: A row is none.
    """
    unlike = tuple(_differences(old, new))
    before, after = rows_of(old), rows_of(new)
    gone = [key for key in before if key not in after]
    same_settings = old["settings"] == new["settings"] and old.get("device") == new.get("device")
    vanished = [key for key in gone if same_settings and key[0] in new["tables"]]
    return Comparison(
        changes=tuple(
            Change(row, after[key], judge(row, after[key]))
            for key, row in before.items()
            if key in after and (row["unit"] in DIMENSIONLESS or not unlike)
        ),
        vanished=tuple(": ".join(key[:2]) for key in vanished),
        left_out=tuple(": ".join(key[:2]) for key in gone if key not in vanished),
        unlike=unlike,
    )


def judge(old: Row, new: Row) -> Verdict:
    """Say what has become of a row; see the module for the rule."""
    sign = 1 if new["better"] == "higher" else -1
    least = max(RELATIVE * abs(old["median"]), _LEAST.get(new["unit"], 0.0))
    gain = sign * (new["median"] - old["median"])
    below, above = (new["q3"] < old["q1"], new["q1"] > old["q3"])
    is_worse, is_better = (below, above) if sign > 0 else (above, below)
    if is_worse and -gain > least:
        return "worse"
    return "better" if is_better and gain > least else "as before"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    for what in ("machine", "versions"):
        names = sorted(old[what].keys() | new[what].keys())
        changed = [n for n in names if old[what].get(n) != new[what].get(n) and n != "timesformer-plus"]
        found += [f"{what}: {n} was {old[what].get(n)} and is {new[what].get(n)}" for n in changed]
    if old["threads"] != new["threads"]:
        found.append(f"threads were {old['threads']} and are {new['threads']}")
    return found
