"""`kedro sage arena`: people judge pairs of dialogues, blind, in a page on their own machine."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import click
from kedro.framework.cli.utils import env_option

from sage_dialog.commands.policies import Project
from sage_dialog.core.paths import display_path
from sage_dialog.core.tables import to_arrow
from sage_dialog.hooks.inputs import explain_missing

if TYPE_CHECKING:
    import pyarrow as pa
    from kedro.framework.startup import ProjectMetadata
    from rich.table import Table

    from sage_dialog.datasets.human_votes import HumanVotes

VOTES = "human_votes"
"""The catalog entry of the folder that votes are kept in."""
PORT = 4142


@click.command()
@env_option
@click.option("--rater", metavar="NAME", help="Who votes: the judge `human:NAME` of the tables.")
@click.option(
    "--pair",
    "pairs",
    nargs=2,
    multiple=True,
    metavar="POLICY POLICY",
    help="What to compare; may be given several times.  [default: evaluation.pairs]",
)
@click.option(
    "--situations", type=click.IntRange(min=1), default=20, show_default=True, help="How many of each pair, at most."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Of the page; 0 takes a free one."
)
@click.option("--browser/--no-browser", default=True, help="Whether to open the page.")
@click.option("--status", is_flag=True, help="Show who has voted how often, and leave.")
@click.pass_obj
def arena(
    metadata: ProjectMetadata,
    env: str | None,
    rater: str | None,
    pairs: Sequence[tuple[str, str]],
    situations: int,
    port: int,
    browser: bool,
    status: bool,
) -> None:
    """Judge pairs of dialogues yourself, blind, in a page that only this machine can reach.

    Each pair of dialogues begins with the same situation; which policy speaks in which is drawn by lot and not shown.
    Every vote is saved at once: leave whenever you like, and the same command goes on where you were. Every rater gets
    the same situations in the same order, so that several can be compared. The tables and the report take votes in
    with

        kedro run --pipelines evaluation --from-inputs human_votes
    """
    if rater is None and not status:
        raise click.UsageError("--rater says who votes, such as --rater anna.")
    project = Project.open(metadata, env)
    if rater is None or status:
        _show_status(project, env)
        return
    rollouts = _rollouts(project)
    asked = _pairs(project, pairs, rollouts)

    from sage_dialog.studio.arena import server
    from sage_dialog.studio.arena.ballots import plan_ballots
    from sage_dialog.studio.arena.session import Session
    from sage_dialog.studio.arena.vote_file import VoteFile, VoteFileError

    try:
        ballots = plan_ballots(rollouts, asked, situations, rater, project.parameters.seed)
        file = VoteFile(_entry(project).folder, rater)
    except (VoteFileError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    try:
        session = Session(ballots, file)
        try:
            listening = server.listen(port)
        except server.PortTakenError:
            raise click.ClickException(
                f"Port {port} is taken, by another arena perhaps. Take another: --port {port % 65535 + 1}, "
                "or --port 0 for any that is free."
            ) from None
        except OSError as error:
            raise click.ClickException(f"Port {port} cannot be had: {error.strerror}.") from error
        address = f"http://{server.ADDRESS}:{listening.getsockname()[1]}/"
        click.echo(f"{rater} votes at {address} ({session.left} to go). Ctrl-C stops; every vote is saved at once.")
        if browser:
            click.launch(address)
        server.serve(session, listening)
        click.echo(f"\n{_many(session.given)} given, {session.left} to go.")
        if file.standing:
            where = f"{_many(len(file.standing))} of {rater} in all, in {display_path(file.path)}."
            click.echo(f"{where} The tables and the report take them in with: {_next(project, env)}")
    finally:
        file.close()


def _rollouts(project: Project) -> dict[str, pa.Table]:
    """The latest dialogues of all that have some, by policy.

    Raises:
        click.ClickException: where none has, saying what makes them.
    """
    from kedro.io import DatasetError

    from sage_dialog.pipeline_registry import POLICIES
    from sage_dialog.pipelines.evaluation.nodes import by_policy

    catalog = project.catalog
    entries = {**{policy: f"rollouts_{policy}" for policy in POLICIES}, "external_rollouts": "external_rollouts"}
    there = {name: entry for name, entry in entries.items() if catalog.exists(entry)}
    if not there:
        first = next(iter(entries.values()))
        raise click.ClickException(
            f"There are no dialogues to compare yet. {first}: {explain_missing(first, catalog)} "
            "`kedro run --pipelines demo` makes everything, from generated data."
        )
    try:
        return by_policy({name: to_arrow(catalog.load(entry)) for name, entry in there.items()})
    except DatasetError as error:
        raise click.ClickException(str(error)) from error


def _pairs(
    project: Project, named: Sequence[tuple[str, str]], rollouts: Mapping[str, pa.Table]
) -> list[tuple[str, str]]:
    """The pairs that were named, or else those of the parameters, each once."""
    from sage_dialog.pipeline_registry import POLICIES

    asked = list({frozenset(pair): pair for pair in named or project.parameters.evaluation.pairs}.values())
    for pair in asked:
        if pair[0] == pair[1]:
            raise click.UsageError(f"--pair: {pair[0]} cannot be compared with itself.")
        for policy in pair:
            if policy in rollouts:
                continue
            if policy in POLICIES:
                entry = f"rollouts_{policy}"
                why = explain_missing(entry, project.catalog)
                raise click.ClickException(f"There are no dialogues of {policy} to compare. {entry}: {why}")
            near = difflib.get_close_matches(policy, rollouts, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(rollouts)}."
            raise click.UsageError(f"--pair: no policy with dialogues is called {policy!r}; {meant}")
    if not asked:
        raise click.UsageError("evaluation.pairs names no pair; say what to compare: --pair sage_0 sage_1")
    return asked


def _entry(project: Project) -> HumanVotes:
    return cast("HumanVotes", project.catalog.get(VOTES))


def _next(project: Project, env: str | None) -> str:
    pipeline = "demo" if project.catalog.exists("truth_votes") else "evaluation"
    return f"kedro run {f'--env {env} ' if env else ''}--pipelines {pipeline} --from-inputs human_votes"


def _many(votes: int) -> str:
    return "1 vote" if votes == 1 else f"{votes} votes"


def _show_status(project: Project, env: str | None) -> None:
    from kedro.io import DatasetError
    from rich.console import Console

    from sage_dialog.studio.arena.counting import count_votes

    try:
        votes = _entry(project).load()
    except DatasetError as error:
        raise click.ClickException(str(error)) from error
    if not votes:
        click.echo("Nobody has voted yet. Begin with: kedro sage arena --rater NAME")
        return
    counted, rejects = count_votes(votes, _rollouts(project), project.parameters.evaluation.pairs)
    Console().print(status_table({rater: len(of) for rater, of in votes.items()}, counted, rejects))
    click.echo(f"The tables and the report take them in with: {_next(project, env)}")


def status_table(
    given: Mapping[str, int], counted: Sequence[Mapping[str, object]], rejects: Sequence[Mapping[str, object]]
) -> Table:
    """Raters and their votes, for the terminal: how many hold, and why others do not."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from sage_dialog.evaluation.judging.votes import PERSON

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("rater", no_wrap=True)
    for heading in ("votes", "hold", "comments"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("set aside")
    for rater, votes in given.items():
        hold = [row for row in counted if row["judge"] == PERSON + rater]
        reasons = [str(row["reason"]) for row in rejects if row["judge"] == PERSON + rater]
        table.add_row(
            Text(rater),
            str(votes),
            str(len(hold)),
            str(sum(row["raw_response"] is not None for row in hold)),
            Text(", ".join(f"{reasons.count(reason)} ({reason})" for reason in dict.fromkeys(reasons)) or "–"),
        )
    return table
