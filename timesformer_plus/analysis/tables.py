"""A sweep's numbers for other programs: ``results.json``, everything, and ``results.csv``, a line a run.

What a clock or an allocator measured stands in the JSON under keys named ``measured``, versions, machine and commit
under ``environment``, and what repeats the sweep under ``command``. Everything else follows from the code, the options,
the data and the seeds: two sweeps of the same are equal in it, number by number (on the same kind of machine).
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .findings import Missing, Report, Row, SuiteReport

# of a row, by name: the rest is the same every time
CLOCKED = ("clips_per_second", "train_seconds", "seconds", "measured")
LEADING = ("suite", "variant", "pattern", "seed", "state", "metric", "split", "value", "params", "gflops")


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON; ``results.json`` holds this."""
    return {
        "title": report.title,
        "command": report.command,
        "seeds": list(report.seeds),
        "finished": report.finished,
        "total": report.total,
        "environment": report.environment,
        "measured": {"jobs": report.jobs, "threads": report.threads},
        "suites": {suite.name: _suite(report, suite) for suite in report.suites},
    }


def without_measured(content: Any) -> Any:
    """What of a ``results.json`` is the same in every sweep of the same code, options, data and seeds.

    Args:
        content: It, or a part of it.
    """
    if isinstance(content, dict):
        dropped = ("measured", "environment", "command")
        return {key: without_measured(value) for key, value in content.items() if key not in dropped}
    return [without_measured(value) for value in content] if isinstance(content, list) else content


def to_csv(report: Report) -> str:
    """A line a run, finished or not, as ``results.csv`` has it; a cell that is not known is empty."""
    lines = [
        _line(suite, row, seed, {(m.variant, m.seed): m for m in suite.missing}.get((row.variant, seed)))
        for suite in report.suites
        for row in suite.rows
        for seed in report.seeds
    ]
    columns = list(dict.fromkeys([*LEADING, *(key for line in lines for key in line)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(suite: SuiteReport, row: Row, seed: int, missing: Missing | None) -> dict[str, Any]:
    return {
        "suite": suite.name,
        "variant": row.variant,
        "pattern": row.pattern,
        "seed": seed,
        "state": "finished" if seed in row.scores else missing.state if missing else "missing",
        "metric": suite.suite.metric,
        "split": suite.suite.split,
        "value": row.scores.get(seed),
        "params": row.params,
        "gflops": row.gflops,
        **row.costs,
        "clips_per_second": row.clips_per_second,
        **row.measured,
        "train_seconds": row.seconds.get(seed),
        "reason": missing.why if missing else "",
    }


def _suite(report: Report, suite: SuiteReport) -> dict[str, Any]:
    def relative(text: str) -> str:
        return text.replace(f"{report.output}/", "")

    return {
        "title": suite.title,
        "metric": suite.suite.metric,
        "split": suite.suite.split,
        "reference": suite.suite.reference,
        "ceiling": suite.suite.ceiling,
        "match": {"quantity": suite.suite.match.quantity, "to": suite.suite.match.to, "by": suite.suite.match.by},
        "setting": {"base": Path(os.fspath(suite.suite.base)).name, "overrides": suite.suite.overrides},
        "findings": list(suite.findings),
        "warnings": [relative(warning) for warning in suite.warnings],
        "rows": [_row(row) for row in suite.rows],
        "missing": [asdict(missing) | {"why": relative(missing.why)} for missing in suite.missing],
        "measured": {"speed_on": suite.speed},
    }


def _row(row: Row) -> dict[str, Any]:
    content = asdict(row)
    measured = {"clips_per_second": row.clips_per_second, "train_seconds": row.train_seconds, "seconds": row.seconds}
    kept = {field.name: content[field.name] for field in fields(row) if field.name not in CLOCKED}
    return {**kept, "measured": {**row.measured, **measured}}
