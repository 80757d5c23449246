"""The command line of ``tools/benchmark.py``."""

from __future__ import annotations

import functools
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.markup import escape

from ...engine.option_names import OptionParser
from .compare import compare_files
from .contestants import SIZES
from .files import choose_path, describe_run, write_run
from .rows import Row, check_row, is_reached
from .show import Line, print_comparison, print_rows, print_run

TABLES = ("model", "kernels", "memory", "scaling", "data", "end_to_end")
"""What may be asked for, in the order in which it is measured."""
_WITH_SIZES = ("model", "memory", "scaling", "end_to_end")
_ROUNDS, _QUICK_ROUNDS = 11, 5


def main(argv: list[str] | None = None) -> int:
    """Measure what the command line asks for, or compare two files.

    Args:
        argv: Command line words; None for the process's own.

    Returns:
        Exit status: 0 when all is measured, or nothing has become worse; 1 when a table could not be measured, or
        something has become worse beyond noise; 2 for what cannot be done; 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        if words[:1] == ["compare"]:
            return _compare(words[1:], console)
        options = _parser().parse_args(words)
        return run_tables(
            tables=options.tables,
            quick=options.quick,
            rounds=options.rounds,
            threads=options.threads,
            sizes=options.sizes,
            device=options.device,
            output=Path(options.output),
            command=shlex.join(["python", "tools/benchmark.py", *words]),
            console=console,
        )
    except ValueError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("Stopped. The tables that were finished are in the file.", highlight=False)
        return 130


def run_tables(
    *,
    tables: Sequence[str] = (),
    quick: bool = False,
    rounds: int | None = None,
    threads: int | None = None,
    sizes: Sequence[str] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    output: Path = Path("benchmarks"),
    command: str = "",
    console: Console | None = None,
) -> int:
    """Measure tables one after the other; each is printed and written as soon as it is finished.

    Args:
        tables: Of ``TABLES``; all if there are none.
        quick: Minutes rather than an hour: the tiny model alone, few rounds.
        rounds: Timed rounds of a comparison, of which slow ones make fewer.
        threads: Threads to compute with.
        sizes: Of ``SIZES``.
        device: Where models run; auto takes the GPU if there is one.
        output: Folder for the file.
        command: The command that repeats this, for the file.
        console: Where to print; None for standard output.

    Returns:
        0 when all tables were measured, else 1.

    Raises:
        ValueError: What was asked for is not there.
        KeyboardInterrupt: Interrupted; what was finished is in the file.
    """
    console = console or Console()
    tables, sizes = list(tables) or list(TABLES), list(sizes or (("tiny",) if quick else ("tiny", "small", "base")))
    _check(tables, sizes, rounds, threads, device)
    rounds = rounds or (_QUICK_ROUNDS if quick else _ROUNDS)
    torch.set_num_threads(threads or _usable_cores())
    where = torch.device("cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu")
    run = describe_run(device=where, command=command, quick=quick, rounds=rounds, sizes=sizes, tables=tables)
    path = choose_path(output, run)
    line = Line(console)
    print_run(run, console)
    console.print(
        f"writing {path}" + ", for there is one of today already" * path.stem[-2:].startswith("-"), highlight=False
    )
    if where.type == "cpu":
        line.say(
            "no GPU: there are no rows of speed and memory on one, of the use of its FLOPs, of 96 frames on a card"
        )
    complete = True
    for table in [table for table in TABLES if table in tables]:
        line.begin(table)
        try:
            rows = _measure(table, rounds=rounds, quick=quick, progress=line, sizes=sizes, device=where)
        except Exception as error:  # of whatever kind: the other tables do not hang on it
            line.say(f"{table}: not measured: {' '.join(f'{type(error).__name__}: {error}'.split())}")
            complete, rows = False, []
        else:
            run["finished"].append(table)
        finally:
            line.end()
        run["rows"] += rows
        run["said"] = line.said
        write_run(path, run)
        if rows:
            print_rows(table, rows, console)
    verdicts = [is_reached(row) for row in run["rows"]]
    console.print(
        f"{len(verdicts)} rows in {path}; of {verdicts.count(True) + verdicts.count(False)} targets "
        f"{verdicts.count(True)} are reached",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if complete else 1


def _measure(table: str, *, sizes: Sequence[str], device: torch.device, **common: Any) -> list[Row]:
    measure: Callable[..., Sequence[Mapping[str, Any]]]
    try:
        measure = importlib.import_module(f"{__package__}.{table}").measure
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{table}":
            raise
        raise ValueError("this table is not part of the package yet") from None
    if table in _WITH_SIZES:
        measure = functools.partial(measure, sizes=sizes)
    if table != "data":  # which is read by the CPU, whatever computes
        measure = functools.partial(measure, device=device)
    rows = [check_row(row) for row in measure(**common)]
    strange = sorted({row["table"] for row in rows} - {table})
    if strange:
        raise ValueError(f"its rows say that they belong to {', '.join(strange)}")
    return rows


def _usable_cores() -> int:
    """Cores that this process may use: a container or a batch system often gives less than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(tables: Sequence[str], sizes: Sequence[str], rounds: int | None, threads: int | None, device: str) -> None:
    for kind, given, known in (("table", tables, TABLES), ("size", sizes, tuple(SIZES))):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"{kind} {unknown[0]!r} is unknown; there are {', '.join(known)}")
    for name, number in (("rounds", rounds), ("threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{name}={number} is not positive")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, and torch finds no GPU here; leave --device out to measure on the CPU")


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="benchmark",
        description="Time the models of this package side by side with others and with the bare matrix products; "
        "`benchmark compare OLD.json NEW.json` names what has become slower beyond noise.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "tables", nargs="*", type=str, default=[], help=f"What to measure: {', '.join(TABLES)}; all if none."
    )
    parser.add_argument(
        "--quick", type=bool, default=False, help="The tiny model alone, few rounds: minutes, not an hour."
    )
    parser.add_argument(
        "--rounds", type=int | None, default=None, help="Timed rounds of a comparison; slow ones make fewer."
    )
    parser.add_argument("--threads", type=int | None, default=None, help="Threads to compute with; all cores if null.")
    parser.add_argument(
        "--sizes", nargs="+", type=str, default=None, help=f"Models: one or more of {', '.join(SIZES)}."
    )
    parser.add_argument(
        "--device",
        type=Literal["auto", "cpu", "cuda"],
        default="auto",
        help="Where; auto takes the GPU if there is one.",
    )
    parser.add_argument("--output", type=str, default="benchmarks", help="Folder for the JSON file of this run.")
    return parser


def _compare(words: list[str], console: Console) -> int:
    parser = OptionParser(prog="benchmark compare", description="Name what has become worse beyond noise.")
    parser.add_argument("old", type=str, help="File of an earlier run.")
    parser.add_argument("new", type=str, help="File of the run that is judged.")
    options = parser.parse_args(words)
    comparison = compare_files(Path(options.old), Path(options.new))
    print_comparison(comparison, console)
    return 0 if comparison.is_fine else 1
