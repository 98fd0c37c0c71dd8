"""`kedro sage summary`: the latest win rates, and where to look next."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from kedro.framework.cli.utils import env_option

from sage_dialog.core.paths import display_path
from sage_dialog.core.tables import to_arrow

if TYPE_CHECKING:
    import pyarrow as pa
    from kedro.framework.startup import ProjectMetadata
    from kedro.io import CatalogProtocol
    from rich.table import Table

OFFLINE_NOTE = "Rules on word lists decide here: this shows that the recipe runs, nothing about language models."
TRUTH_NOTE = "Scored by what is true in the generated world, which no training stage reads."
NEXT = (
    ("kedro sage chat", "talk with sage_dpo, and steer it"),
    ("kedro sage arena --rater NAME", "judge pairs of dialogues yourself, blind"),
    ("kedro run --pipelines sage_2", "one self-play iteration again, alone"),
    ("kedro viz", "the pipelines as a graph, in the browser"),
    ("make notebook", "each table and figure of this run"),
)


@click.command()
@env_option
@click.option("--json", "as_json", is_flag=True, help="rows of the tables, and the report's path, as JSON")
@click.pass_obj
def summary(metadata: ProjectMetadata, env: str | None, as_json: bool) -> None:
    """The latest win rates, where the report is, and what to try next."""
    from kedro.framework.session import KedroSession
    from rich.console import Console
    from rich.markup import escape

    session = KedroSession.create(project_path=metadata.project_path, env=env, save_on_close=False)
    catalog = session.load_context().catalog
    if not catalog.exists("win_rates"):
        raise click.ClickException("No win rates yet. `kedro run --pipelines demo` makes them, from generated data.")
    report = display_path(catalog["report"]._get_load_path()) if catalog.exists("report") else None
    tables = [name for name in ("win_rates", "truth_win_rates") if catalog.exists(name)]
    if as_json:
        told = {
            name: {"version": _version(catalog, name), "rows": to_arrow(catalog.load(name)).to_pylist()}
            for name in tables
        }
        click.echo(json.dumps({**told, "report": None if report is None else str(report)}))
        return
    console = Console()
    for name in tables:
        for table, note in win_rate_tables(
            to_arrow(catalog.load(name)), _version(catalog, name), name == "truth_win_rates"
        ):
            console.print(table)
            console.print(note, style="dim", soft_wrap=True)
    if report is not None:
        console.print(f"\nReport: [bold]{escape(str(report))}[/bold]", soft_wrap=True)
    console.print(f"\nNext{_activation()}:")
    for command, what in NEXT:
        console.print(f"  [bold]{command:<30}[/bold]{what}", soft_wrap=True)


def win_rate_tables(rates: pa.Table, version: str, by_truth: bool) -> Iterator[tuple[Table, str]]:
    """A terminal table for each judge of a WIN_RATES table, and what to think of it.

    Names come from data and are shown as text, never as markup.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = rates.to_pylist()
    for judge in dict.fromkeys(row["judge"] for row in rows):
        title = Text(f"\nWin rates, {judge}, run {version}")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in ("a", "b"):
            table.add_column(heading, no_wrap=True)
        for heading in ("n", "a wins", "ties", "b wins", "b's share", "p"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            if row["judge"] == judge:
                cells = (row["policy_a"], row["policy_b"], row["n"], row["wins_a"], row["ties"], row["wins_b"])
                share = (
                    f"{row['win_rate_b']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
                    if row["win_rate_b"] is not None
                    else "–"
                )
                table.add_row(*(Text(str(cell)) for cell in (*cells, share, f"{row['p_value']:.2g}")))
        note = "b's share is of the decided, with its interval; p is of the exact sign test."
        apart = TRUTH_NOTE if by_truth else OFFLINE_NOTE if judge.startswith("offline") else ""
        yield table, f"{note}\n{apart}".strip()


def _version(catalog: CatalogProtocol, name: str) -> str:
    return str(catalog[name].resolve_load_version())


def _activation() -> str:
    """How to put `kedro` on the PATH, for those who came by `make`."""
    return "" if shutil.which("kedro") else f" (first: source {display_path(sys.prefix)}/bin/activate)"
