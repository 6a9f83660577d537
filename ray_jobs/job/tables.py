"""Tables on the console: the first column is text, the others are numbers."""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 120
"""Width in characters when the output is not a terminal."""


def text_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text: Collection[str] | None = None
) -> Table:
    """Return a table; `text` names the left-aligned columns, by default the first."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in (text or columns[:1]) else "right")
    for row in rows:
        table.add_row(*row)
    return table


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text: Collection[str] | None = None
) -> None:
    """Print a table; brackets and colons in names are printed literally."""
    _console().print(text_table(title, columns, rows, text))


def print_facts(title: str, facts: Mapping[str, str]) -> None:
    """Print a table of names and values, one per row."""
    table = Table(title=title, show_header=False)
    for fact in facts.items():
        table.add_row(*fact)
    _console().print(table)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, emoji=False)
