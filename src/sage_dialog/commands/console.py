"""Terminal output of commands: tables, durations. Texts from data are never read as markup."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text


def empty_table(show_header: bool = True) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_header=show_header)


def table(
    title: str, headings: Collection[str], rows: Iterable[Iterable[object]], right: Collection[str] = ()
) -> Group:
    """Return a table with a title. The first column is not wrapped; without headings there are two columns.

    Args:
        right: headings of columns that are aligned right and not wrapped.
    """
    built = empty_table(show_header=bool(headings))
    for number, heading in enumerate(headings or ("", "")):
        numeric = heading in right
        built.add_column(
            heading, no_wrap=numeric or number == 0, overflow="fold", justify="right" if numeric else "left"
        )
    for row in rows:
        built.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    return Group(Text(f"\n{title}", style="bold"), built)


def format_duration(seconds: float) -> str:
    """Return a duration such as `4 min 12 s`."""
    rounded = timedelta(seconds=round(seconds))
    hours, minutes = divmod(rounded.seconds // 60 + rounded.days * 1440, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rounded.seconds % 60:02} s" if minutes else f"{seconds:.1f} s"


def format_first(names: Iterable[str], at_most: int = 3) -> str:
    """Return the first names, with `…` for further ones."""
    names = list(names)
    return ", ".join(names[:at_most]) + (", …" if len(names) > at_most else "")
