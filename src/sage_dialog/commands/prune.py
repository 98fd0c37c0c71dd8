"""`kedro sage tag` and `prune`: names for runs to keep, and removal of what no kept run needs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.project import pipelines
from kedro.framework.startup import ProjectMetadata
from rich.console import Console
from rich.filesize import decimal

from sage_dialog.commands.console import table
from sage_dialog.commands.project import Project, click_errors
from sage_dialog.commands.replay import FOLDER
from sage_dialog.commands.runs import json_option, open_runs
from sage_dialog.core.paths import display_path
from sage_dialog.hooks.recording import is_parameter
from sage_dialog.lineage import pruning
from sage_dialog.lineage.pruning import PrunePlan, VersionFolder
from sage_dialog.lineage.run_folder import NoSuchRunError
from sage_dialog.llm.response_cache import ResponseCache

DEFAULT_KEEP = 3


@click.command()
@click.argument("run")
@click.argument("name", required=False)
@click.option("--remove", is_flag=True, help="remove a tag: `kedro sage tag --remove NAME`")
@env_option
@click.pass_obj
def tag(metadata: ProjectMetadata, run: str, name: str | None, remove: bool, env: str | None) -> None:
    """Give RUN the tag NAME. Other commands accept it, and `prune` keeps the inputs and outputs of tagged runs.

    RUN is an id, a unique beginning of one, `latest`, or another tag.
    """
    folder = open_runs(metadata, env)
    with click_errors(ValueError, OSError):
        if remove:
            click.echo(f"{name or run} is no longer a tag of {folder.untag(name or run)}")
            return
        if name is None:
            raise click.UsageError("The tag is missing: `kedro sage tag RUN NAME`.")
        record = folder.load(run)
        folder.tag(record.run, name)
    click.echo(f"{record.run} is tagged {name}")


@click.command()
@click.option(
    "--keep", default=DEFAULT_KEEP, show_default=True, type=click.IntRange(1), help="versions of each dataset, and runs"
)
@click.option(
    "--scratch",
    "work_days",
    default=7.0,
    show_default=True,
    type=click.FloatRange(0),
    help="days after which untouched unfinished work is removed",
)
@click.option(
    "--response-cache",
    "response_days",
    type=click.FloatRange(0),
    help="also remove responses of language models older than this many days; without it none are removed",
)
@click.option("--yes", is_flag=True, help="do not ask for confirmation")
@json_option
@env_option
@click.pass_obj
def prune(
    metadata: ProjectMetadata,
    keep: int,
    work_days: float,
    response_days: float | None,
    yes: bool,
    as_json: bool,
    env: str | None,
) -> None:
    """Remove old versions, replayed outputs, records without remaining versions, and orphaned work.

    Lists what would be removed, and asks for confirmation.

    Kept are the last versions of each dataset, the inputs and outputs of the last runs, of tagged runs and of running
    runs, and everything that any of these was made from. Unfinished work and replayed outputs are kept while a run is
    running.

    With --json nothing is removed unless --yes is given, too.
    """
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        project = Project(metadata, env)
        scratch = Path(project.catalog.load("params:scratch"))
        runs, replays = project.runs, project.data / FOLDER
        with click_errors(NoSuchRunError):
            plan = pruning.plan_prune(runs, version_folders(project), keep, scratch, work_days, replays)
    response_cache = _response_cache(project) if response_days is not None else None
    responses = response_cache.keys_older_than(response_days or 0.0) if response_cache else []
    if as_json:
        click.echo(json.dumps(_to_json(plan, responses), indent=1))
    else:
        _print_plan(plan, responses, scratch)
    if not (any(plan) or responses) or (as_json and not yes):
        return
    if not yes:
        click.confirm("Go on?", abort=True)
    with click_errors(OSError):
        removed = list(pruning.remove(plan, runs))
        if response_cache and responses:
            response_cache.drop(keys=responses)
    if not as_json:
        kept = "; the inputs of a run that started since were kept" if len(removed) < len(list(plan)) else ""
        click.echo(f"removed: {len(removed)}, {decimal(sum(removal.bytes for removal in removed))}{kept}")


def version_folders(project: Project) -> dict[str, VersionFolder]:
    """Return the local version folders of the datasets in the pipelines and the catalog."""
    names = {name for pipeline in pipelines.values() for name in pipeline.datasets()} | set(project.catalog)
    entries = {name: project.versioned(name) for name in sorted(names) if not is_parameter(name)}
    return {
        name: VersionFolder(entry.versions_folder, entry.fault)
        for name, entry in entries.items()
        if entry and entry.versions_folder
    }


def _response_cache(project: Project) -> ResponseCache | None:
    path = Path(project.llm.response_cache)
    return ResponseCache(path) if path.exists() else None


def _to_json(plan: PrunePlan, responses: list[str]) -> dict[str, Any]:
    removals = {
        part: [{**removal._asdict(), "path": str(removal.path)} for removal in getattr(plan, part)]
        for part in ("versions", "leftovers", "work", "replays", "records")
    }
    return {**removals, "running": list(plan.running), "bytes": plan.bytes, "responses": len(responses)}


def _print_plan(plan: PrunePlan, responses: list[str], scratch: Path) -> None:
    console = Console()
    for run in plan.running:
        console.print(
            f"{run} is running, here or on another machine: its versions, unfinished work and replays are kept."
        )
    if not (any(plan) or responses):
        console.print("Nothing to remove.")
        return
    sizes: dict[str, list[int]] = {}
    for label, size in _labelled_sizes(plan, scratch):
        sizes.setdefault(label, []).append(size)
    rows = [(f"{len(each):,}", decimal(sum(each)), label) for label, each in sizes.items()]
    if responses:
        rows.append((f"{len(responses):,}", "", "responses of language models, paid for again when needed"))
    rows.append((f"{len(list(plan)):,}", decimal(plan.bytes), "in total"))
    console.print(table("To be removed", ("count", "bytes", "what"), rows))


def _labelled_sizes(plan: PrunePlan, scratch: Path) -> Iterator[tuple[str, int]]:
    for removal in plan.versions:
        yield f"versions: {removal.dataset}", removal.bytes
    for removal in plan.work:
        yield f"unfinished work: {removal.path.relative_to(scratch).parts[0]}", removal.bytes
    for removal in plan.leftovers:
        yield f"left by a kill: {display_path(removal.path)}", removal.bytes
    for removal in plan.replays:
        yield "replays: outputs, by run", removal.bytes
    for removal in plan.records:
        yield "records: of runs without remaining versions", removal.bytes
