"""`kedro sage cache`: what language models were asked, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import env_option

from sage_dialog.core.paths import display_path

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata

    from sage_dialog.llm.response_cache import ResponseCache


@click.group(invoke_without_command=True)
@env_option
@click.option("--json", "as_json", is_flag=True, help="the same as JSON; a cost without a price is null")
@click.pass_context
def cache(context: click.Context, env: str | None, as_json: bool) -> None:
    """What language models were asked in all runs: size, hits, and cost by role. Replies can be exported or dropped."""
    context.obj = _response_cache(context.obj, env)
    if context.invoked_subcommand is None and as_json:
        click.echo(json.dumps(cache_summary(context.obj)))
    elif context.invoked_subcommand is None:
        from rich.console import Console

        console = Console()
        for part in cache_tables(context.obj):
            console.print(part)


@cache.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--role", help="only what this role asked")
@click.option("--model", help="only what this model replied")
@click.pass_obj
def export(replies: ResponseCache, file: str, role: str | None, model: str | None) -> None:
    """Writes requests with their replies to FILE, a line of JSON each; - is the terminal."""
    with click.open_file(file, "w", encoding="utf-8", atomic=file != "-") as lines:
        number = 0
        for entry in replies.entries(role, model):
            lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            number += 1
    click.echo(f"replies written to {file}: {number:,}", err=True)


@cache.command()
@click.option("--role", help="only what this role asked")
@click.option("--model", help="only what this model replied")
@click.option("--key", "keys", multiple=True, help="only these replies, by the keys that an export shows")
@click.option("--all", "everything", is_flag=True, help="all replies")
@click.option("--yes", is_flag=True, help="do not ask")
@click.pass_obj
def drop(
    replies: ResponseCache, role: str | None, model: str | None, keys: tuple[str, ...], everything: bool, yes: bool
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


@cache.command()
@click.argument("batch_id")
@click.option("--yes", is_flag=True, help="do not ask")
@click.pass_obj
def forget(replies: ResponseCache, batch_id: str, yes: bool) -> None:
    """Gives up a batch that the server has lost: its requests are asked, and paid for, anew."""
    from sage_dialog.llm import event_loop as loop

    names = [batch["name"] for batch in replies.batches() if batch["id"] == batch_id and batch["state"] != "collected"]
    if not names:
        raise click.ClickException(f"No batch {batch_id} is waiting to be collected; `kedro sage cache` lists them.")
    if not yes:
        click.confirm("What the server may still have of this batch will not be collected. Go on?", abort=True)
    loop.run(replies.forget_batch(names[0]))
    click.echo(f"batch {batch_id} is forgotten")


def _response_cache(metadata: ProjectMetadata, env: str | None) -> ResponseCache:
    from kedro.framework.session import KedroSession

    session = KedroSession.create(project_path=metadata.project_path, env=env, save_on_close=False)
    path = Path(session.load_context().catalog.load("params:llm")["response_cache"])
    if not path.exists():
        raise click.ClickException(
            f"There is no response cache in {display_path(path)}: no language model was asked anything yet."
        )
    from sage_dialog.llm.response_cache import ResponseCache

    return ResponseCache(path)


def cache_summary(replies: ResponseCache) -> dict[str, Any]:
    """What `cache_tables` shows, as JSON can write it; sizes in bytes."""
    return {
        "path": str(display_path(replies.path)),
        "bytes": replies.size(),
        "spent": [asdict(one) for one in replies.spent()],
        "failures": [list(failure) for failure in replies.failures()],
        "batches": [dict(batch) for batch in replies.batches() if batch["state"] != "collected"],
    }


def cache_tables(replies: ResponseCache) -> Iterator[Any]:
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
        f"{display_path(replies.path)}, {replies.size() / 1e6:,.1f} MB",
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
