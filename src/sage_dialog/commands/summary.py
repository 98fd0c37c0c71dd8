"""`kedro sage summary`: the latest win rates, the report, and what to try next."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from rich.console import Console, Group
from rich.markup import escape

from sage_dialog.commands.console import table
from sage_dialog.commands.project import Project
from sage_dialog.core.paths import display_path
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.report.formatting import answers, p_value

OFFLINE_NOTE = "The offline judge is a set of rules on word lists: its results show nothing about language models."
TRUTH_NOTE = "Scored by what is true in the generated world, which no training stage reads."
INTERVAL_NOTE = (
    "b's share is of the decided dialogues, with its interval; p is of the exact sign test, adjusted by Holm's method "
    "over all pairs of a judge; people who judge are one judge."
)
COLUMNS = ("a", "b", "n", "a wins", "ties", "b wins", "b's share", "p (Holm)")
NEXT = (
    ("kedro sage studio", "talk with policies, steer them, and look into the search, in the browser"),
    ("kedro sage chat", "talk with sage_dpo, and steer it, in the terminal"),
    ("kedro sage arena --rater NAME", "judge pairs of dialogues yourself, blind"),
    ("kedro run --pipelines sage_2", "run one self-play iteration alone"),
    ("kedro viz", "the pipelines as a graph, in the browser"),
    ("make notebook", "each table and figure of this run"),
)


@click.command()
@env_option
@click.option("--json", "as_json", is_flag=True, help="print the rows of the tables and the report's path as JSON")
@click.pass_obj
def summary(metadata: ProjectMetadata, env: str | None, as_json: bool) -> None:
    """Show the latest win rates, the path of the report, and what to try next."""
    project = Project(metadata, env)
    catalog = project.catalog
    if not catalog.exists("win_rates"):
        demo = project.with_environment("`kedro run --pipelines demo`")
        raise click.ClickException(f"There are no win rates yet. Run {demo}, which works on generated data.")
    version = project.latest("report")
    report = project.version_path("report", version) if version else None
    shown = str(display_path(report)) if report else None
    tables = {
        name: (project.latest(name) or "", catalog.load(name))
        for name in ("win_rates", "truth_win_rates")
        if catalog.exists(name)
    }
    if as_json:
        rows: dict[str, Any] = {
            name: {"version": version, "rows": to_rows(rates)} for name, (version, rates) in tables.items()
        }
        click.echo(json.dumps({**rows, "report": shown}))
        return
    console = Console()
    for name, (version, rates) in tables.items():
        for part, note in win_rate_tables(rates, version, name == "truth_win_rates"):
            console.print(part)
            console.print(note, style="dim", soft_wrap=True)
    if shown is not None:
        console.print(f"\nReport: [bold]{escape(shown)}[/bold]", soft_wrap=True)
    activation = "" if shutil.which("kedro") else f" (first: source {display_path(sys.prefix)}/bin/activate)"
    console.print(f"\nNext{activation}:")
    commands = {project.with_environment(f"`{command}`").strip("`"): what for command, what in NEXT}
    for command, what in commands.items():
        console.print(f"  [bold]{command:<{max(map(len, commands)) + 2}}[/bold]{what}", soft_wrap=True)


def win_rate_tables(rates: DataFrame, version: str, by_truth: bool) -> Iterator[tuple[Group, str]]:
    """Yield a table for the terminal and a note for each judge of a table of `schemas.WIN_RATES`."""
    for judge, of_judge in rates.groupby("judge", sort=False):
        rows = []
        for row in to_rows(of_judge):
            share = "–"
            if row["win_rate_b"] is not None:
                share = f"{row['win_rate_b']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            counts = (row["n"], row["wins_a"], row["ties"], row["wins_b"])
            rows.append((row["policy_a"], row["policy_b"], *counts, share, p_value(row["p_adjusted"])))
        title = f"Win rates, {judge}{answers(judge)}, run {version}"
        note = TRUTH_NOTE if by_truth else OFFLINE_NOTE if judge.startswith("offline") else ""
        yield table(title, COLUMNS, rows, right=COLUMNS[2:]), f"{INTERVAL_NOTE}\n{note}".strip()
