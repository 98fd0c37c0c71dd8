"""`kedro sage status` and `kedro sage refresh`: stale outputs, and the nodes that make them fresh."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
from kedro.framework.cli.utils import _split_params, env_option, split_string
from kedro.framework.startup import ProjectMetadata
from rich.console import Console
from rich.text import Text

from sage_dialog.commands.project import CommandError, Project, command_errors, run_nodes
from sage_dialog.commands.runs import json_option
from sage_dialog.config.base import suggestion
from sage_dialog.lineage.formatting import format_names
from sage_dialog.lineage.staleness import NodeSpec, OutputStatus, certainly_stale, output_statuses, plan_refresh

_STYLES = {"stale": "bold red", "fresh": "green"}

params_option = click.option(
    "--params", default="", callback=_split_params, help="KEY=VALUE,… override configured parameters, as in kedro run"
)


@click.command()
@env_option
@params_option
@click.option("--pipelines", default="", callback=split_string, help="NAME,… only the outputs of these pipelines")
@click.option("--all", "show_all", is_flag=True, help="list every output, also those that are fresh")
@json_option
@click.pass_obj
def status(
    metadata: ProjectMetadata,
    env: str | None,
    params: dict[str, Any],
    pipelines: list[str],
    show_all: bool,
    as_json: bool,
) -> None:
    """List the outputs that are stale or missing, with the reasons.

    Each has its latest version and the node that made it. Those that are stale only because of others share a line, as
    do missing ones, and stages without any output.

    An output is stale if the inputs, parameters or code of its node, or the output itself, have changed since, or if
    something it was made from is stale. Changes of comments and docstrings do not count.

    Exit code: 0 if every output is fresh, 1 if one is stale or missing, 2 if that is unknown. An output without a
    record is taken as it is.
    """
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext(), command_errors():
        project, statuses = _statuses(metadata, env, params)
        statuses = _of_pipelines(project, statuses, pipelines) if pipelines else _without_optional(project, statuses)
    if as_json:
        click.echo(json.dumps([_to_json(project, one) for one in statuses], indent=1))
    else:
        _print_statuses(project, statuses, show_all, bool(pipelines))
    sys.exit(not all(one.state in ("fresh", "no record") for one in statuses))


@click.command()
@env_option
@params_option
@click.option("--dry-run", is_flag=True, help="only list the nodes that would run")
@click.option("--yes", is_flag=True, help="do not ask for confirmation")
@click.pass_obj
def refresh(metadata: ProjectMetadata, env: str | None, params: dict[str, Any], dry_run: bool, yes: bool) -> None:
    """Run the nodes whose outputs are stale, and no others, inputs first.

    A node whose only reason is a stale input is left out if that input comes out the same. Missing outputs are not
    stale and stay missing: `kedro run` makes them.

    Exit code: 0 if nothing is stale any more, 1 if something is (with --dry-run: now), 2 if the run failed.
    """
    with command_errors():
        project, statuses = _statuses(metadata, env, params)
        runs = plan_refresh(statuses, project.registered)
        _print_skipped(_without_optional(project, statuses))
        if not runs:
            click.echo("Nothing is stale.")
            return
        stale = {one.spec.name: one for one in reversed(statuses) if one.state == "stale" and one.spec}
        certain = {one.spec.name for one in certainly_stale(statuses) if one.spec}
        for pipeline, nodes in runs:
            click.echo(f"Pipeline {pipeline}:")
            for name in nodes:
                left_out = "" if name in certain else "; left out if it comes out the same"
                click.echo(f"  {name}: {stale[name].reasons[0].words}{left_out}")
        if dry_run:
            sys.exit(1)
        if not yes:
            click.confirm(f"Run {_count(len(certain), len(stale))}?", abort=True)
        made: set[NodeSpec] = set()
        while now := certainly_stale(statuses, made):
            for pipeline, nodes in plan_refresh(now, project.registered):
                run_nodes(metadata, env, params, pipeline_names=[pipeline], node_names=nodes)
            made |= {one.spec for one in now if one.spec}
            project, statuses = _statuses(metadata, env, params)
        names = {spec.name for spec in made}
        if left_out_nodes := [name for _, nodes in runs for name in nodes if name not in names]:
            click.echo(f"Left out, since their inputs came out the same: {', '.join(left_out_nodes)}")
        left = [one for one in statuses if one.state == "stale"]
    for one in left:
        click.echo(f"{one.dataset} is still stale: {one.reasons[0].words}")
    click.echo(f"Still stale: {len(left)}" if left else "Nothing is stale any more.")
    sys.exit(bool(left))


def _count(certain: int, stale: int) -> str:
    return f"{stale} nodes" if certain == stale else f"{certain} to {stale} nodes"


def _statuses(metadata: ProjectMetadata, env: str | None, params: dict[str, Any]) -> tuple[Project, list[OutputStatus]]:
    project = Project(metadata, env, params)
    return project, output_statuses(project, project.runs)


def _of_pipelines(project: Project, statuses: Iterable[OutputStatus], names: Sequence[str]) -> list[OutputStatus]:
    for name in names:
        if name not in project.registered:
            raise CommandError(f"No pipeline is called {name!r}{suggestion(name, project.registered)}")
    outputs = {output for name in names for node in project.registered[name] for output in node.outputs}
    return [one for one in statuses if one.dataset in outputs]


def _without_optional(project: Project, statuses: Iterable[OutputStatus]) -> list[OutputStatus]:
    """Leave out what is missing and only `kedro sage iterate` makes, which may stop before, or never have run."""
    needed = {
        output
        for name, nodes in project.registered.items()
        if not name.startswith("iterate_")
        for node in nodes
        for output in node.outputs
    }
    return [one for one in statuses if one.state != "missing" or one.dataset in needed]


def _print_skipped(statuses: Iterable[OutputStatus]) -> None:
    for state, words in (
        ("missing", "missing, not made"),
        ("being made", "being made by a running run"),
        ("no record", "made by no recorded run, taken as they are"),
    ):
        if names := [one.dataset for one in statuses if one.state == state]:
            click.echo(f"{words}: {format_names(names)}")


def _print_statuses(project: Project, statuses: Sequence[OutputStatus], show_all: bool, chosen: bool) -> None:
    console = Console()
    if _all_missing(statuses):
        demo = project.with_environment("`kedro run --pipelines demo`")
        console.print(f"There are no outputs yet. Run {demo}, which works on generated data.", soft_wrap=True)
        return
    for line in status_lines(project, statuses, show_all):
        console.print(line, soft_wrap=True)
    states = [one.state for one in statuses]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    console.print(", ".join(counts) + ("." if show_all else ". --all lists every output."), highlight=False)
    if "missing" in states and not chosen:
        demo = project.with_environment("`kedro sage status --pipelines demo`")
        console.print(f"What you do not make can be left out, as in {demo}.", soft_wrap=True)
    if "stale" in states:
        refresh = project.with_environment("`kedro sage refresh`")
        console.print(f"{refresh} runs the nodes of the stale outputs, and no others.", soft_wrap=True)


def status_lines(project: Project, statuses: Sequence[OutputStatus], show_all: bool) -> Iterator[Text]:
    """Yield the lines for the terminal by stage: one for each output, and below it why it is stale.

    Without `show_all`, outputs that are missing, or stale only because of others, share a line, as do stages of which
    all outputs are missing; fresh ones have none.
    """
    stages: dict[str, list[OutputStatus]] = {}
    for one in statuses:
        stages.setdefault(project.stage(one.spec) if one.spec else "", []).append(one)
    empty = [] if show_all else [stage for stage, outputs in stages.items() if _all_missing(outputs)]
    widths = [max(map(len, column)) for column in zip(*(_cells(one) for one in statuses), strict=True)]
    for stage, outputs in stages.items():
        if stage in empty:
            continue
        rows = [one for one in outputs if show_all or _is_listed(one)]
        missing = [] if show_all else [one.dataset for one in outputs if one.state == "missing"]
        followers = [] if show_all else [one.dataset for one in outputs if one.state == "stale" and one not in rows]
        if not (rows or missing or followers):
            continue
        yield Text(f"\n{stage}", style="bold")
        for one in rows:
            cells = (cell.ljust(width) for cell, width in zip(_cells(one), widths, strict=True))
            yield Text("  ".join(cells)).append(f"  {one.state}", style=_STYLES.get(one.state, "yellow"))
            for words in _reasons(one):
                yield Text(f"    {words}", style="dim")
        if followers:
            yield Text(f"stale because of others: {format_names(followers)}", style=_STYLES["stale"])
        if missing:
            yield Text(f"missing: {format_names(missing)}", style="yellow")
    if empty:
        yield Text(f"\nstages without outputs: {', '.join(empty)}", style="yellow")
    if stages:
        yield Text()


def _all_missing(outputs: Iterable[OutputStatus]) -> bool:
    return all(one.state == "missing" for one in outputs)


def _is_listed(one: OutputStatus) -> bool:
    """Return whether more is to be said of an output than that it is fresh, missing or stale because of others."""
    own = any(reason.kind != "upstream" for reason in one.reasons) or one.note
    return bool(own) if one.state == "stale" else one.state not in ("fresh", "missing")


def _reasons(one: OutputStatus) -> Iterator[str]:
    """Yield the reasons and the note; all stale inputs in one line."""
    yield from (reason.words for reason in one.reasons if reason.kind != "upstream")
    if upstream := [reason.what for reason in one.reasons if reason.kind == "upstream"]:
        yield f"{format_names(upstream)} {'is' if len(upstream) == 1 else 'are'} stale"
    if one.note:
        yield one.note


def _cells(one: OutputStatus) -> tuple[str, str, str]:
    """Return the output, its version, and the node without the stage."""
    node = one.node or "–"
    return one.dataset, one.version or one.run or "–", node.partition(".")[2] or node


def _to_json(project: Project, one: OutputStatus) -> dict[str, Any]:
    fields = {name: getattr(one, name) for name in ("dataset", "state", "version", "run", "node", "note")}
    reasons = [dataclasses.asdict(reason) for reason in one.reasons]
    return {**fields, "stage": project.stage(one.spec) if one.spec else None, "reasons": reasons}
