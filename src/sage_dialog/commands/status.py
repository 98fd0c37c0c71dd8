"""`kedro sage status` and `kedro sage refresh`: what is stale and why, and how it becomes fresh again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import _split_params, env_option

from sage_dialog.commands.project_state import Project, Trouble, in_trouble
from sage_dialog.lineage.staleness import Standing, listed, plan, standings

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata
    from rich.text import Text

_STYLES = {"stale": "bold red", "fresh": "green"}

params_option = click.option(
    "--params",
    default="",
    callback=_split_params,
    help="as of kedro run: KEY=VALUE,… in the place of what is configured",
)


@click.command()
@env_option
@params_option
@click.option("--json", "as_json", is_flag=True, help="for scripts")
@click.pass_obj
def status(metadata: ProjectMetadata, env: str | None, params: dict[str, Any], as_json: bool) -> None:
    """Every output: its latest version, what made it, and whether it is stale.

    An output is stale when its inputs, the parameters or the code of the node that made it, or the output itself have
    changed since, or when something it was made from is stale. Comments and docstrings are no change.

    Exit code: 0 if nothing is stale, 1 if something is, 2 if that cannot be told.
    """
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext(), in_trouble():
        project = Project(metadata, env, params)
        found = standings(project, project.runs)
    if as_json:
        click.echo(json.dumps([_as_json(project, one) for one in found], indent=1))
    else:
        _show(project, found)
    sys.exit(any(one.state == "stale" for one in found))


@click.command()
@env_option
@params_option
@click.option("--dry-run", is_flag=True, help="only say what would be run")
@click.option("--yes", is_flag=True, help="do not ask")
@click.pass_obj
def refresh(metadata: ProjectMetadata, env: str | None, params: dict[str, Any], dry_run: bool, yes: bool) -> None:
    """Makes anew exactly what is stale, oldest first, and nothing else.

    What is missing is no matter of freshness and is left: `kedro run` makes it.

    Exit code: 0 if nothing is stale any more, 1 if something is (with --dry-run: now), 2 if it could not run.
    """
    with in_trouble():
        project = Project(metadata, env, params)
        found = standings(project, project.runs)
        runs = plan(found, project.flows)
        _say_what_is_left(found)
        if not runs:
            click.echo("Nothing is stale.")
            return
        stale = {one.now.name: one for one in reversed(found) if one.state == "stale" and one.now}
        for flow, nodes in runs:
            click.echo(f"of the pipeline {flow}:")
            for name in nodes:
                click.echo(f"  {name}: {stale[name].reasons[0].words}")
        if dry_run:
            sys.exit(1)
        if not yes:
            click.confirm(f"Run {sum(len(nodes) for _, nodes in runs)} nodes?", abort=True)
        for flow, nodes in runs:
            _run(metadata, env, params, flow, nodes)
        project = Project(metadata, env, params)
        left = [one for one in standings(project, project.runs) if one.state == "stale"]
    for one in left:
        click.echo(f"{one.dataset} is stale still: {one.reasons[0].words}")
    click.echo(f"Still stale: {len(left)}" if left else "Nothing is stale any more.")
    sys.exit(bool(left))


def _run(metadata: ProjectMetadata, env: str | None, params: dict[str, Any], flow: str, nodes: list[str]) -> None:
    from kedro.framework.session import KedroSession

    with KedroSession.create(project_path=metadata.project_path, env=env, runtime_params=params) as session:
        assert isinstance(session, KedroSession)
        try:
            session.run(pipeline_names=[flow], node_names=nodes)
        except click.ClickException:
            raise
        except Exception as error:
            raise Trouble(f"It ended with an error: {error}\nRun the same command again to go on.") from error


def _say_what_is_left(found: Iterable[Standing]) -> None:
    for state, words in (
        ("missing", "missing, left as they are"),
        ("being made", "being made by a run under way, left to it"),
        ("no record", "made by no run on record, taken as they are"),
    ):
        if names := [one.dataset for one in found if one.state == state]:
            click.echo(f"{words}: {', '.join(names)}")


def _show(project: Project, found: Sequence[Standing]) -> None:
    from rich.console import Console

    console = Console()
    if all(one.state == "missing" for one in found):
        console.print("Nothing has been made yet. `kedro run --pipelines demo` makes all of it, from generated data.")
        return
    for line in status_lines(project, found):
        console.print(line, soft_wrap=True)
    counted = [f"{sum(one.state == state for one in found)} {state}" for state in dict.fromkeys(o.state for o in found)]
    console.print(", ".join(counted) + ".", highlight=False)
    if any(one.state == "stale" for one in found):
        console.print("`kedro sage refresh` makes anew what is stale, and nothing else.")


def status_lines(project: Project, found: Sequence[Standing]) -> Iterator[Text]:
    """For the terminal, stage by stage: a line for each output, below it why it is stale.

    Names and values are text, never markup.
    """
    from rich.text import Text

    stages: dict[str, list[Standing]] = {}
    for one in found:
        stages.setdefault(project.stage(one.now) if one.now else "", []).append(one)
    widths = [max(map(len, column)) for column in zip(*(_cells(one) for one in found), strict=True)]
    for stage, rows in stages.items():
        yield Text(f"\n{stage}", style="bold")
        for one in rows:
            cells = (cell.ljust(width) for cell, width in zip(_cells(one), widths, strict=True))
            yield Text("  ".join(cells)).append(f"  {one.state}", style=_STYLES.get(one.state, "yellow"))
            for words in _why(one):
                yield Text(f"    {words}", style="dim")


def _why(one: Standing) -> Iterator[str]:
    """The reasons in words; what it stands on that is stale, which may be much, in one line."""
    yield from (reason.words for reason in one.reasons if reason.kind != "upstream")
    if above := [reason.what for reason in one.reasons if reason.kind == "upstream"]:
        yield f"{listed(above)} {'is' if len(above) == 1 else 'are'} stale"
    if one.note:
        yield one.note


def _cells(one: Standing) -> tuple[str, str, str]:
    """Output, version, node without the stage under whose name it stands."""
    node = one.node or "–"
    return one.dataset, one.version or one.run or "–", node.partition(".")[2] or node


def _as_json(project: Project, one: Standing) -> dict[str, Any]:
    told = {name: getattr(one, name) for name in ("dataset", "state", "version", "run", "node", "note")}
    reasons = [dataclasses.asdict(reason) for reason in one.reasons]
    return {**told, "stage": project.stage(one.now) if one.now else None, "reasons": reasons}
