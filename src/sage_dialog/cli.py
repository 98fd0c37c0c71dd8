"""`kedro sage …`: what is no pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from kedro.framework.cli.utils import env_option

if TYPE_CHECKING:
    import pyarrow as pa
    from kedro.framework.startup import ProjectMetadata
    from kedro.io import CatalogProtocol
    from rich.table import Table

JUDGED = "Win rates by the offline judge"
JUDGED_NOTE = "Rules on word lists decide here. They show that the recipe runs; they say nothing about language models."
TRUTH = "Win rates by the world's truth"
TRUTH_NOTE = "Scored by what the generated world knows of each situation, which no training stage reads."
NEXT = (
    ("kedro run --pipelines sage_2", "one self-play iteration again, alone"),
    ("kedro viz", "the whole road as a graph, in the browser"),
    ("jupyter lab notebooks/", "each table and figure of this run, through the catalog"),
)


@click.group(name="sage-dialog")
def cli() -> None:
    """Commands of this project."""


@cli.group()
def sage() -> None:
    """Look at what the pipelines made."""


@sage.command()
@env_option
@click.pass_obj
def summary(metadata: ProjectMetadata, env: str | None) -> None:
    """The latest win rates, where the report is, and what to try next."""
    from kedro.framework.session import KedroSession
    from rich.console import Console

    session = KedroSession.create(project_path=metadata.project_path, env=env, save_on_close=False)
    catalog = session.load_context().catalog
    console = Console()
    if not catalog.exists("win_rates"):
        raise click.ClickException("No win rates yet. `kedro run --pipelines demo` makes them, from generated data.")
    console.print(win_rate_table(catalog.load("win_rates"), f"{JUDGED} ({_version(catalog, 'win_rates')})"))
    console.print(JUDGED_NOTE, style="dim")
    if catalog.exists("truth_win_rates"):
        title = f"{TRUTH} ({_version(catalog, 'truth_win_rates')})"
        console.print(win_rate_table(catalog.load("truth_win_rates"), title))
        console.print(TRUTH_NOTE, style="dim")
    if catalog.exists("report"):
        path = Path(catalog["report"]._get_load_path())
        shown = path.relative_to(metadata.project_path) if path.is_relative_to(metadata.project_path) else path
        console.print(f"\nReport: [bold]{shown}[/bold]", soft_wrap=True)
    console.print("\nNext:")
    for command, what in NEXT:
        console.print(f"  [bold]{command:<30}[/bold] {what}", soft_wrap=True)


def win_rate_table(rates: pa.Table, title: str) -> Table:
    """A terminal table of a WIN_RATES table; names are shown as text, never as markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("a", "b", "judge"):
        table.add_column(heading)
    for heading in ("n", "a wins", "ties", "b wins", "b's share of the decided", "p"):
        table.add_column(heading, justify="right")
    for row in rates.to_pylist():
        share = "–" if row["win_rate_b"] is None else f"{row['win_rate_b']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        counts = (row["n"], row["wins_a"], row["ties"], row["wins_b"], share, f"{row['p_value']:.2g}")
        table.add_row(*(Text(str(cell)) for cell in (row["policy_a"], row["policy_b"], row["judge"], *counts)))
    return table


def _version(catalog: CatalogProtocol, name: str) -> str:
    return str(catalog[name].resolve_load_version())
