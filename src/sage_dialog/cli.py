"""`kedro sage …`: what is no pipeline."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import env_option

from sage_dialog.hooks import shown

if TYPE_CHECKING:
    import pyarrow as pa
    from kedro.framework.startup import ProjectMetadata
    from kedro.io import CatalogProtocol
    from rich.table import Table

    from sage_dialog.llm.journal import Journal

OFFLINE_NOTE = "Rules on word lists decide here: this shows that the recipe runs, nothing about language models."
TRUTH_NOTE = "Scored by what is true in the generated world, which no training stage reads."
NEXT = (
    ("kedro run --pipelines sage_2", "one self-play iteration again, alone"),
    ("kedro viz", "the pipelines as a graph, in the browser"),
    ("make notebook", "each table and figure of this run"),
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
    from rich.markup import escape

    session = KedroSession.create(project_path=metadata.project_path, env=env, save_on_close=False)
    catalog = session.load_context().catalog
    if not catalog.exists("win_rates"):
        raise click.ClickException("No win rates yet. `kedro run --pipelines demo` makes them, from generated data.")
    console = Console()
    for name in ("win_rates", "truth_win_rates"):
        if catalog.exists(name):
            for table, note in win_rate_tables(catalog.load(name), _version(catalog, name), name == "truth_win_rates"):
                console.print(table)
                console.print(note, style="dim", soft_wrap=True)
    if catalog.exists("report"):
        report = escape(str(shown(catalog["report"]._get_load_path())))
        console.print(f"\nReport: [bold]{report}[/bold]", soft_wrap=True)
    console.print(f"\nNext{_activation()}:")
    for command, what in NEXT:
        console.print(f"  [bold]{command:<30}[/bold]{what}", soft_wrap=True)


@sage.group(invoke_without_command=True)
@env_option
@click.pass_context
def journal(context: click.Context, env: str | None) -> None:
    """What language models were asked in all runs: size, hits, and cost by role. Replies can be exported or dropped."""
    context.obj = _journal(context.obj, env)
    if context.invoked_subcommand is None:
        from rich.console import Console

        console = Console()
        for part in journal_tables(context.obj):
            console.print(part)


@journal.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--role", help="only what this role asked")
@click.option("--model", help="only what this model replied")
@click.pass_obj
def export(replies: Journal, file: str, role: str | None, model: str | None) -> None:
    """Writes requests with their replies to FILE, a line of JSON each; - is the terminal."""
    import json

    with click.open_file(file, "w", encoding="utf-8", atomic=file != "-") as lines:
        number = 0
        for entry in replies.entries(role, model):
            lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            number += 1
    click.echo(f"replies written to {file}: {number:,}", err=True)


@journal.command()
@click.option("--role", help="only what this role asked")
@click.option("--model", help="only what this model replied")
@click.option("--key", "keys", multiple=True, help="only these replies, by the keys that an export shows")
@click.option("--all", "everything", is_flag=True, help="all replies")
@click.option("--yes", is_flag=True, help="do not ask")
@click.pass_obj
def drop(
    replies: Journal, role: str | None, model: str | None, keys: tuple[str, ...], everything: bool, yes: bool
) -> None:
    """Forgets replies, so that the next run asks, and pays, again."""
    if not (role or model or keys or everything):
        raise click.UsageError("Say which replies: --role, --model, --key, or --all of them.")
    number = replies.count(role, model, keys)
    if number and not yes:
        click.confirm(
            f"Replies that will be forgotten, and paid for again when they are needed: {number:,}. Go on?", abort=True
        )
    click.echo(f"replies dropped: {replies.drop(role, model, keys):,}")


@journal.command()
@click.argument("batch_id")
@click.option("--yes", is_flag=True, help="do not ask")
@click.pass_obj
def forget(replies: Journal, batch_id: str, yes: bool) -> None:
    """Gives up a batch that the server has lost: its requests are asked, and paid for, anew."""
    from sage_dialog.llm import loop

    names = [batch["name"] for batch in replies.batches() if batch["id"] == batch_id and batch["state"] != "collected"]
    if not names:
        raise click.ClickException(f"No batch {batch_id} is waiting to be collected; `kedro sage journal` lists them.")
    if not yes:
        click.confirm("What the server may still have of this batch will not be collected. Go on?", abort=True)
    loop.run(replies.forget_batch(names[0]))
    click.echo(f"batch {batch_id} is forgotten")


def _journal(metadata: ProjectMetadata, env: str | None) -> Journal:
    from kedro.framework.session import KedroSession

    session = KedroSession.create(project_path=metadata.project_path, env=env, save_on_close=False)
    path = Path(session.load_context().catalog.load("params:llm")["journal"])
    if not path.exists():
        raise click.ClickException(f"There is no journal in {shown(path)}: no language model was asked anything yet.")
    from sage_dialog.llm.journal import Journal

    return Journal(path)


def journal_tables(replies: Journal) -> Iterator[Any]:
    """For the terminal: what each model cost each role, why requests failed, batches that are still out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
        made = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in texts:
            made.add_column(heading, no_wrap=True)
        for heading in numbers:
            made.add_column(heading, justify="right", no_wrap=True)
        return made

    def row(*cells: object) -> Iterator[Text]:
        return (Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in cells)

    spent = replies.spent()
    costs = table(
        f"{shown(replies.path)}, {replies.size() / 1e6:,.1f} MB",
        ("role", "model"),
        ("replies", "hits", "failures", "tokens in", "out", "cost"),
    )
    for one in spent:
        cost = "no price" if one.cost is None else f"{one.cost:,.2f}"
        costs.add_row(
            *row(
                one.role, one.model, one.replies, one.hits, one.failures, one.prompt_tokens, one.completion_tokens, cost
            )
        )
    yield costs
    if failures := replies.failures():
        reasons = table("Why requests failed; most were asked again and answered", ("role", "reason"), ("times",))
        for failure in failures:
            reasons.add_row(*row(*failure))
        yield reasons
    if batches := [batch for batch in replies.batches() if batch["state"] != "collected"]:
        out = table("Batches that are not collected yet", ("id", "model", "state"), ())
        for batch in batches:
            out.add_row(*row(batch["id"] or "no id yet", batch["model"], batch["state"]))
        yield out


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
    return "" if shutil.which("kedro") else f" (first: source {shown(sys.prefix)}/bin/activate)"
