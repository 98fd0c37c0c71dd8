"""`kedro sage tag` and `prune`: which runs are kept, and what of the others may go."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import env_option

from sage_dialog.commands.replay import FOLDER
from sage_dialog.commands.runs import as_json, one_run, runs_in, table
from sage_dialog.core.paths import display_path

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata
    from kedro.io import CatalogProtocol

    from sage_dialog.lineage.pruning import Plan, Versions
    from sage_dialog.llm.response_cache import ResponseCache

KEPT = 3


@click.command()
@click.argument("run")
@click.argument("name", required=False)
@click.option("--remove", is_flag=True, help="take the name away instead: `kedro sage tag --remove NAME`")
@env_option
@click.pass_obj
def tag(metadata: ProjectMetadata, run: str, name: str | None, remove: bool, env: str | None) -> None:
    """Gives RUN a NAME of yours. Other commands take it, and `prune` keeps whatever a tagged run read or wrote.

    RUN is its name, a beginning of it that no other run has, `latest`, or another tag of it.
    """
    from sage_dialog.lineage.records import NoSuchRunError

    folder = runs_in(metadata, env)
    try:
        if remove:
            click.echo(f"{name or run} is no name of {folder.untag(name or run)} any more")
            return
        if name is None:
            raise click.UsageError("Say which NAME the run gets: `kedro sage tag RUN NAME`.")
        record = one_run(folder, run)
        folder.tag(record.run, name)
    except (NoSuchRunError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{record.run} is tagged {name}")


@click.command()
@click.option(
    "--keep", default=KEPT, show_default=True, type=click.IntRange(1), help="versions of each dataset, and runs"
)
@click.option(
    "--scratch",
    "work_days",
    default=7.0,
    show_default=True,
    type=click.FloatRange(0),
    help="days for which unfinished work must not have been touched, to go",
)
@click.option(
    "--response cache", "reply_days", type=click.FloatRange(0),
    help="also forget replies of language models older than so many days; without it none are",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="do not ask")
@as_json
@env_option
@click.pass_obj
def prune(
    metadata: ProjectMetadata,
    keep: int,
    work_days: float,
    reply_days: float | None,
    yes: bool,
    as_json: bool,
    env: str | None,
) -> None:
    """Removes old versions, what replays made, records of runs of which nothing is left, and orphaned work.

    Shows what goes, and asks.

    What stays: the last versions of each dataset; what the last runs, tagged runs, and runs under way have read or
    written; and everything that any of these was made from. Work in the scratch folder, and what replays made, stay
    while a run is under way.

    With --json nothing is removed unless --yes is given, too.
    """
    from kedro.framework.session import KedroSession

    from sage_dialog.lineage import pruning
    from sage_dialog.lineage.records import NoSuchRunError

    folder = runs_in(metadata, env)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        session = KedroSession.create(project_path=metadata.project_path, env=env, save_on_close=False)
        catalog = session.load_context().catalog
        scratch = Path(catalog.load("params:scratch"))
        replays = folder.path.parent / FOLDER
        try:
            plan = pruning.plan(folder, local_versions(catalog), keep, scratch, work_days, replays)
        except NoSuchRunError as error:
            raise click.ClickException(str(error)) from None
    response_cache = _response_cache(catalog) if reply_days is not None else None
    replies = response_cache.keys_older_than(reply_days or 0.0) if response_cache else []
    if as_json:
        click.echo(json.dumps(_as_json(plan, replies), indent=1))
    else:
        _show(plan, replies, scratch)
    if not (any(plan) or replies):
        return
    if as_json and not yes:
        return
    if not yes:
        click.confirm("Go on?", abort=True)
    removed = list(pruning.remove(plan, folder))
    if response_cache and replies:
        response_cache.drop(keys=replies)
    if not as_json:
        kept = "; what a run that has begun since needs stays" if len(removed) < len(list(plan)) else ""
        click.echo(f"removed: {len(removed)}, {bytes_in_words(sum(going.bytes for going in removed))}{kept}")


def local_versions(catalog: CatalogProtocol) -> dict[str, Versions]:
    """Where the datasets of the project's pipelines and catalog have their versions, of those on a local disk."""
    from sage_dialog.datasets.atomic import AtomicMixin
    from sage_dialog.lineage.pruning import Versions
    from sage_dialog.pipeline_registry import register_pipelines

    named = {name for pipeline in register_pipelines().values() for name in pipeline.datasets()} | set(catalog)
    found = {}
    for name in sorted(name for name in named if not name.startswith("params:") and name != "parameters"):
        dataset = catalog.get(name)
        if isinstance(dataset, AtomicMixin) and dataset._version and dataset._protocol == "file":
            found[name] = Versions(Path(dataset._filepath), dataset.fault)
    return found


def bytes_in_words(number: float) -> str:
    """As disks are sold: 1 MB is a million bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def _response_cache(catalog: CatalogProtocol) -> ResponseCache | None:
    path = Path(catalog.load("params:llm")["response_cache"])
    if not path.exists():
        return None
    from sage_dialog.llm.response_cache import ResponseCache

    return ResponseCache(path)


def _as_json(plan: Plan, replies: list[str]) -> dict[str, Any]:
    def of(goings: Any) -> list[dict[str, Any]]:
        return [{**going._asdict(), "path": str(going.path)} for going in goings]

    return {
        "versions": of(plan.versions),
        "leftovers": of(plan.leftovers),
        "work": of(plan.work),
        "replays": of(plan.replays),
        "records": of(plan.records),
        "under_way": list(plan.under_way),
        "bytes": plan.bytes,
        "replies": len(replies),
    }


def _show(plan: Plan, replies: list[str], scratch: Path) -> None:
    from rich.console import Console

    console = Console()
    for run in plan.under_way:
        console.print(
            f"{run} is under way, here or on another machine: nothing of it goes, nor any unfinished work, nor replays."
        )
    if not (any(plan) or replies):
        console.print("Nothing goes.")
        return
    groups: dict[tuple[str, str], list[int]] = {}
    for going in plan.versions:
        groups.setdefault((going.dataset, "versions"), []).append(going.bytes)
    for going in plan.work:
        groups.setdefault((str(going.path.relative_to(scratch).parts[0]), "pieces of unfinished work"), []).append(
            going.bytes
        )
    for going in plan.leftovers:
        groups.setdefault((str(display_path(going.path)), "left by a kill"), []).append(going.bytes)
    for going in plan.replays:
        groups.setdefault(("what they made, by run", "replays"), []).append(going.bytes)
    for going in plan.records:
        groups.setdefault(("of runs of which nothing is left", "records"), []).append(going.bytes)
    rows = [
        (f"{len(sizes):,}", bytes_in_words(sum(sizes)), f"{what}: {name}") for (name, what), sizes in groups.items()
    ]
    if replies:
        rows.append((f"{len(replies):,}", "", "replies of language models, paid for again when they are needed"))
    rows.append((f"{len(list(plan)):,}", bytes_in_words(plan.bytes), "together"))
    console.print(table("What goes", ("how many", "bytes", "what"), rows))
