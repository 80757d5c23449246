"""What an ablation compares.

A sweep is a few suites (tasks); a suite is a base recipe and named variants of it; every variant is trained once a
seed. Each of these trainings is a ``runs.Run``.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import Path_fr

from .json_files import read_json, write_json
from .matching import Match, Solution, match_budgets, solve_matches
from .options import Options, merge, name_difference, read_options
from .runs import Run

DECODED = "decoded"

LESS_IS_BETTER = ("loss", "ece")


@dataclass(frozen=True)
class Suite:
    """One comparison: variants of a recipe on one task.

    Args:
        base: The recipe that the variants change, a YAML file of the trainer; relative to the sweep's file.
        reference: The variant that the others are compared with, seed by seed.
        variants: Name -> changes to the recipe, as dotted keys: `ts: {model.pattern: ts}`. Those of `axes` and `runs`
            join them.
        axes: Option -> values. Every combination is a variant, named by what it changes: `{model.pattern: [s, ts]}`
            makes `pattern=s` and `pattern=ts`.
        runs: Further variants, as changes to the recipe, named in the same way.
        match: Gives all variants the budget of one of them.
        metric: The score that is compared, a fraction: top1, accuracy, pair …
        overrides: Changes to the recipe that all variants share.
        split: The split it is read on.
        title: Heading in the report; null for the suite's name.
        description: What the task asks, in a sentence or two.
        ceiling: Highest score that a model can reach which lacks what the task asks for; drawn as a line.
        ceiling_note: Why that is the ceiling.
        readable: Variant -> the parts of the score (classes, bits) that theory says it can learn; the report holds
            every part against the ceiling. Variants that are left out are shown without a prediction.
    """

    base: Path_fr
    reference: str
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    match: Match = field(default_factory=Match)
    metric: str = "top1"
    overrides: dict[str, Any] = field(default_factory=dict)
    split: Literal["test", "val"] = "test"
    title: str | None = None
    description: str = ""
    ceiling: float | None = None
    ceiling_note: str = ""
    readable: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "variants", _all_variants(self.variants, self.axes, self.runs))
        if not self.variants:
            raise ValueError(
                "a suite needs variants, such as `variants: {s: {model.pattern: s}}` or "
                "`axes: {model.pattern: [s, ts]}`"
            )
        for name in self.variants:
            _check_name("variant", name)
        matched = [self.match.to] if self.match.to else []
        for what, names in (
            ("reference", [self.reference]),
            ("match.to", matched),
            ("readable", list(self.readable)),
        ):
            for name in names:
                if name not in self.variants:
                    raise ValueError(f"{what}: {name!r} is not one of the variants {list(self.variants)}")
        for overrides in (self.overrides, *self.variants.values()):
            if "threads" in overrides:
                raise ValueError("threads is one number for the whole sweep; set it beside `suites`, not in a variant")
        if self.metric in LESS_IS_BETTER:
            raise ValueError(
                f"metric={self.metric}: less of it is better, and comparisons take more for better; give top1"
            )
        if self.ceiling is not None and not 0 <= self.ceiling <= 1:
            raise ValueError(f"ceiling={self.ceiling} is not a fraction; 50 % is 0.5")


@dataclass(frozen=True)
class Slurm:
    """What a job of a cluster gets: one run. `minutes` and `gpus` are those of local jobs too.

    Args:
        partition: Where to queue; null for the cluster's default.
        gpus: GPUs of a job.
        cpus: Cores of a job.
        memory_gb: Memory of a job, in GB.
        minutes: Time of a job. One that needs more is told in time, writes a checkpoint and is queued again.
        at_once: Jobs of the array that may run at the same time.
        account: Whom the time is charged to; null for the default.
        qos: Quality of service; null for the default.
        extra: Further options of sbatch: `{constraint: a100}`.
    """

    partition: str | None = None
    gpus: int = 0
    cpus: int = 1
    memory_gb: int = 8
    minutes: int = 120
    at_once: int = 16
    account: str | None = None
    qos: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("cpus", "memory_gb", "minutes", "at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"slurm.{name}={getattr(self, name)} is not positive")
        if self.gpus < 0:
            raise ValueError(f"slurm.gpus={self.gpus} is negative")


@dataclass(frozen=True)
class Sweep:
    """An ablation: suites x variants x seeds, each run a process of its own.

    Args:
        suites: Name -> suite.
        output: Folder of all runs and of the report.
        title: Heading of the report.
        seeds: Every variant is trained once with each; three are the least that give an interval worth printing.
        jobs: Runs at a time.
        threads: Computing threads of a run and of the speed measurement, whatever the recipes say. Keep jobs x threads
            at or below the number of cores: two processes with two threads each on two cores are many times slower than
            with one each.
        processes: Processes of a run, which `accelerate launch` starts: one a GPU, say. The batch is shared out among
            them and results are equal up to rounding. null for the trainer itself in one process, which starts sooner:
            a run then does not import everything twice, 10 s on two cores for a training of seconds.
        launch: Further words for `accelerate launch`, such as `[--config_file, configs/accelerate/fsdp2.yaml]`.
        cluster: Where the runs go: none for processes of this one, slurm for an array of jobs, local for jobs that
            outlive this process, `jobs` at a time, debug for one after the other in this process. Needs submitit.
        slurm: What a job gets.
        on_change: What to do with a finished run whose options or data have changed since: refuse to start, or throw it
            away and run it again.
        rerun_failed: Run again what has failed. Otherwise a run that failed with the options and the data of now is
            left as it is, and shown with the last lines of its log. One that went on from a checkpoint goes on from it.
        cache_mb: Size in MB (10^6 bytes) of a folder of decoded videos that all runs share, so that each video is
            decoded once a sweep; see `data.cache_mb` of a recipe. 0 for none. Recipes that set their own keep it.
        cache_dir: That folder; null for OUTPUT/decoded.
        time_sensitivity: Score every finished run's model on altered clips too: reversed, shuffled and so on.
        report_only: Start no run and measure nothing: report what lies there.
        dry_run: Print the runs with their parameters, GFLOPs, updates and estimated time, and do nothing else.
    """

    suites: dict[str, Suite]
    output: Path
    title: str = "Ablation"
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    threads: int = 1
    processes: int | None = None
    launch: list[str] = field(default_factory=list)
    cluster: Literal["none", "slurm", "local", "debug"] = "none"
    slurm: Slurm = field(default_factory=Slurm)
    on_change: Literal["refuse", "rerun"] = "refuse"
    rerun_failed: bool = False
    cache_mb: int = 0
    cache_dir: Path | None = None
    time_sensitivity: bool = True
    report_only: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.suites:
            raise ValueError("a sweep needs at least one suite")
        for name in self.suites:
            _check_name("suite", name)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={list(self.seeds)}: give one or more different numbers, none negative")
        for name in ("jobs", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes={self.processes} is not positive; null for the trainer itself")
        if self.launch and self.processes is None:
            raise ValueError(f"launch={self.launch} is for accelerate launch; give the number of processes too")
        if self.cache_mb < 0:
            raise ValueError(f"cache_mb={self.cache_mb} is negative; give a size in MB, or 0 for no cache")
        if self.cache_dir is not None and not self.cache_mb:
            raise ValueError(f"cache_dir={self.cache_dir} without cache_mb; give the size that it may reach")
        if self.cache_mb and self.cache_dir is None and DECODED in self.suites:
            raise ValueError(f"a suite is named {DECODED!r}, as the folder of decoded videos; give a cache_dir")


def sweep_parser() -> ArgumentParser:
    """The command line of an ablation: every field of ``Sweep`` on top of ``--config FILE``."""
    parser = ArgumentParser(
        prog="ablate",
        usage="%(prog)s --config FILE [--option VALUE …]",
        description="Train variants of a recipe, each with several seeds, and compare them: accuracy with intervals, "
        "parameters, GFLOPs and speed. What is finished is never run twice.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of the sweep; options below override it.")
    parser.add_class_arguments(Sweep, as_group=False)
    return parser


def parse_sweep(argv: list[str] | None = None) -> Sweep:
    """Read a sweep from command line words.

    Args:
        argv: Words such as ``["--config", "quickstart.yaml", "--jobs", "4"]``; None for the process's own.

    Raises:
        SystemExit: An option is unknown, mistyped or out of range; the reason is printed.
    """
    parser = sweep_parser()
    options = parser.parse_args(argv)
    try:
        made = parser.instantiate(options)
        return Sweep(**{name: made[name] for name in Sweep.__dataclass_fields__})
    except ValueError as error:
        parser.error(str(error))


def plan_runs(sweep: Sweep) -> list[Run]:
    """All runs of a sweep, seed by seed, so that a sweep that is stopped half-way has compared every variant once.

    Raises:
        ValueError: A base recipe is no mapping, an override reaches into something that is none, or a budget cannot be
            met.
    """
    resolved = {suite: resolve_variants(sweep, suite) for suite in sweep.suites}
    return [
        _make_run(sweep, suite, variant, seed, options)
        for seed in sweep.seeds
        for suite, variants in resolved.items()
        for variant, options in variants.items()
    ]


def resolve_variants(sweep: Sweep, name: str) -> dict[str, Options]:
    """Complete options of every variant of a suite, without ``seed`` and ``output``, its budgets made equal."""
    return match_budgets(_merged_variants(sweep, name), sweep.suites[name].match, suite_matches(sweep, name))


def suite_matches(sweep: Sweep, name: str) -> dict[str, Solution]:
    """What gives the variants of a suite equal budgets: as ``store_matches`` has kept it, or solved now."""
    stored = (read_json(matches_file(sweep)) or {}).get(name)
    match = sweep.suites[name].match
    return solve_matches(_merged_variants(sweep, name), match, threads=sweep.threads, stored=stored)


def matches_file(sweep: Sweep) -> Path:
    """Where solutions are kept: suite -> variant -> solution."""
    return sweep.output / "matches.json"


def store_matches(sweep: Sweep) -> None:
    """Keep what makes the budgets equal, so that the sweep is the same when it goes on, measured latencies too."""
    found = {name: suite_matches(sweep, name) for name in sweep.suites}
    content = {name: {v: asdict(s) for v, s in solutions.items()} for name, solutions in found.items() if solutions}
    before = read_json(matches_file(sweep)) or {}
    if content and {**before, **content} != before:
        write_json(matches_file(sweep), {**before, **content})


def _merged_variants(sweep: Sweep, name: str) -> dict[str, Options]:
    suite = sweep.suites[name]
    base = read_options(Path(os.fspath(suite.base)))
    merged = {}
    for variant, overrides in suite.variants.items():
        options = merge(merge(base, suite.overrides), overrides)
        for key in ("seed", "output"):
            options.pop(key, None)
        # A recipe may say how many threads it likes by itself; here speeds are compared, so all have the same number.
        merged[variant] = {**options, "threads": sweep.threads}
    return merged


def _all_variants(
    named: Mapping[str, dict[str, Any]], axes: Mapping[str, list[Any]], runs: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"axes: {key} has {values!r}; give a list of values")
    products = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else []
    variants = dict(named)
    for changes in [*products, *runs]:
        name = name_difference(changes)
        # a suite that is made from another one has its variants already
        if variants.setdefault(name, changes) != changes:
            raise ValueError(f"two variants are named {name!r}: {variants[name]} and {changes}")
    return variants


def _make_run(sweep: Sweep, suite: str, variant: str, seed: int, options: Options) -> Run:
    folder = sweep.output / suite / variant / f"seed={seed}"
    return Run(suite, variant, seed, folder, {**_with_cache(sweep, options), "seed": seed})


def _with_cache(sweep: Sweep, options: Options) -> Options:
    data = options.get("data", {})
    if not sweep.cache_mb or data.get("cache_mb") or data.get("cache_dir") is not None:
        return options
    folder = sweep.output / DECODED if sweep.cache_dir is None else sweep.cache_dir
    return merge(options, {"data.cache_dir": str(folder), "data.cache_mb": sweep.cache_mb})


def _check_name(kind: str, name: str) -> None:
    # Names become folders, so that a run can be found by hand.
    if not name or name != name.strip() or name.startswith(".") or len(name) > 80 or re.search(r"[/\\\x00-\x1f]", name):
        raise ValueError(
            f"{kind} name {name!r}: give 1 to 80 characters without / or \\, not beginning with a dot "
            "or ending with a space"
        )
