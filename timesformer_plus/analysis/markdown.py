"""GitHub Markdown that shows text as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line; brackets stay readable, and make no link."""
    escaped = "".join(f"\\{c}" if c in "\\`*_<>#|~$" else c for c in " ".join(text.split()))
    return escaped.replace("](", "]\\(")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lines of a table.

    Args:
        head: Its column heads, plain text.
        rows: Its cells, plain text, as many as there are heads.
        left: Columns from the left that are texts; the others are figures, flush right.
    """
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return [_row(map(escape, head)), _row(marks), *(_row(map(escape, row)) for row in rows)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
