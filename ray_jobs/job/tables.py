"""Tables on the screen: the first column is text, the others are numbers."""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 120
"""In characters, where it goes to a file."""


def text_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text: Collection[str] | None = None
) -> Table:
    """Return a table; `text` names the columns that are aligned to the left, by default the first."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in (text or columns[:1]) else "right")
    for row in rows:
        table.add_row(*row)
    return table


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], text: Collection[str] | None = None
) -> None:
    """Print a table; brackets and colons in names stay as they are."""
    _console().print(text_table(title, columns, rows, text))


def print_facts(title: str, facts: Mapping[str, str]) -> None:
    """Print a table of two columns, a fact a row."""
    table = Table(title=title, show_header=False)
    for fact in facts.items():
        table.add_row(*fact)
    _console().print(table)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, emoji=False)
