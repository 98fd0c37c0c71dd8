"""`kedro sage cache`: the responses of language models, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.utils import env_option
from rich.console import Console, Group
from rich.filesize import decimal

from sage_dialog.commands.console import table
from sage_dialog.commands.project import Project
from sage_dialog.core.paths import display_path
from sage_dialog.llm import event_loop
from sage_dialog.llm.response_cache import ResponseCache


@click.group(invoke_without_command=True)
@env_option
@click.option("--json", "as_json", is_flag=True, help="print JSON; a cost without a price is null")
@click.pass_context
def cache(context: click.Context, env: str | None, as_json: bool) -> None:
    """Show the response cache of all runs: size, hits, and cost by role. Export or drop responses."""
    path = Path(Project(context.obj, env).llm.response_cache)
    if not path.exists():
        raise click.ClickException(
            f"No response cache at {display_path(path)}: no request was sent to a language model yet."
        )
    context.obj = ResponseCache(path)
    if context.invoked_subcommand is None and as_json:
        click.echo(json.dumps(cache_summary(context.obj)))
    elif context.invoked_subcommand is None:
        console = Console()
        for part in cache_tables(context.obj):
            console.print(part)


@cache.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--role", help="only requests of this role")
@click.option("--model", help="only responses of this model")
@click.pass_obj
def export(responses: ResponseCache, file: str, role: str | None, model: str | None) -> None:
    """Write requests and responses to FILE as JSON lines; - is standard output."""
    number = 0
    with click.open_file(file, "w", encoding="utf-8", atomic=file != "-") as lines:
        for entry in responses.entries(role, model):
            lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            number += 1
    click.echo(f"responses written to {file}: {number:,}", err=True)


@cache.command()
@click.option("--role", help="only requests of this role")
@click.option("--model", help="only responses of this model")
@click.option("--key", "keys", multiple=True, help="only the responses with these keys, which an export states")
@click.option("--all", "everything", is_flag=True, help="all responses")
@click.option("--yes", is_flag=True, help="skip the confirmation")
@click.pass_obj
def drop(
    responses: ResponseCache, role: str | None, model: str | None, keys: tuple[str, ...], everything: bool, yes: bool
) -> None:
    """Delete responses, so that the next run requests, and pays for, new ones."""
    if not (role or model or keys or everything):
        raise click.UsageError("Select responses by --role, --model or --key, or --all of them.")
    number = responses.count(role, model, keys)
    if number and not yes:
        click.confirm(f"Delete {number:,} responses, which runs would pay for again?", abort=True)
    click.echo(f"responses dropped: {responses.drop(role, model, keys):,}")


@cache.command()
@click.argument("batch_id")
@click.option("--yes", is_flag=True, help="skip the confirmation")
@click.pass_obj
def forget(responses: ResponseCache, batch_id: str, yes: bool) -> None:
    """Give up a batch that the server has lost; its requests are sent, and paid for, again."""
    names = [batch["name"] for batch in _open_batches(responses) if batch["id"] == batch_id]
    if not names:
        raise click.ClickException(f"No open batch {batch_id}; `kedro sage cache` lists the open batches.")
    if not yes:
        click.confirm("Responses that the server may still have for this batch are lost. Continue?", abort=True)
    event_loop.run(responses.forget_batch(names[0]))
    click.echo(f"batch {batch_id} is forgotten")


def _open_batches(responses: ResponseCache) -> list[dict[str, Any]]:
    return [batch for batch in responses.batches() if batch["state"] != "collected"]


def cache_summary(responses: ResponseCache) -> dict[str, Any]:
    """Return the content of `cache_tables` as JSON values."""
    return {
        "path": str(display_path(responses.path)),
        "bytes": responses.size(),
        "usage": [asdict(usage) for usage in responses.usage()],
        "failures": [list(failure) for failure in responses.failures()],
        "batches": _open_batches(responses),
    }


def cache_tables(responses: ResponseCache) -> Iterator[Group]:
    """Yield tables for the terminal: usage by role and model, failures by reason, open batches."""
    numbers = ("responses", "hits", "failures", "tokens in", "out")
    rows = []
    for one in responses.usage():
        counts = (one.responses, one.hits, one.failures, one.prompt_tokens, one.completion_tokens)
        rows.append((one.role, one.model, *counts, "no price" if one.cost is None else f"{one.cost:,.2f}"))
    title = f"{display_path(responses.path)}, {decimal(responses.size())}"
    yield table(title, ("role", "model", *numbers, "cost"), rows, right=(*numbers, "cost"))
    if failures := responses.failures():
        title = "Failed requests; most succeeded at a later attempt"
        yield table(title, ("role", "reason", "times"), failures, right=("times",))
    if batches := _open_batches(responses):
        open_batches = [(batch["id"] or "no id yet", batch["model"], batch["state"]) for batch in batches]
        yield table("Open batches", ("id", "model", "state"), open_batches)
