"""`kedro sage arena`: people judge pairs of dialogues, blind, in a page on their own machine."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from rich.console import Console

from sage_dialog.commands.console import table
from sage_dialog.commands.project import Project, click_errors
from sage_dialog.core.paths import display_path
from sage_dialog.core.tables import DataFrame

if TYPE_CHECKING:
    from sage_dialog.datasets.human_votes import HumanVotes

PORT = 4142


@click.command()
@env_option
@click.option("--rater", metavar="NAME", help="Name of the rater: the judge `human:NAME` of the tables.")
@click.option(
    "--pair",
    "pairs",
    nargs=2,
    multiple=True,
    metavar="POLICY POLICY",
    help="Policies to compare; may be repeated.  [default: evaluation.pairs]",
)
@click.option(
    "--situations", type=click.IntRange(min=1), default=20, show_default=True, help="Maximum number for each pair."
)
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 takes a free port.")
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser.")
@click.option("--status", is_flag=True, help="Show the number of votes of each rater and exit.")
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

    Both dialogues of a pair begin with the same situation; which policy speaks in which is random and hidden. Each
    vote is saved at once: stop at any time, and continue with the same command. Every rater gets the same situations
    in the same order, so that raters can be compared. To add the votes to the tables and the report, run

        kedro run --pipelines evaluation --from-inputs human_votes
    """
    if rater is None and not status:
        raise click.UsageError("--rater is required, such as --rater anna.")
    project = Project(metadata, env)
    if rater is None or status:
        _show_status(project, env)
        return
    rollouts = _load_rollouts(project)
    compared = _select_pairs(project, pairs, rollouts["policy"].unique().tolist())

    from sage_dialog.studio import local_server
    from sage_dialog.studio.arena import server
    from sage_dialog.studio.arena.ballots import plan_ballots
    from sage_dialog.studio.arena.session import Session
    from sage_dialog.studio.arena.vote_file import VoteFile, VoteFileError

    with click_errors(VoteFileError, ValueError):
        ballots = plan_ballots(rollouts, compared, situations, rater, project.parameters.seed)
        file = VoteFile(cast("HumanVotes", project.catalog.get("human_votes")).folder, rater)
    try:
        session = Session(ballots, file)
        try:
            listener = local_server.listen(port)
        except local_server.PortTakenError:
            raise click.ClickException(
                f"Port {port} is taken, perhaps by another arena. Take another one: --port {port % 65535 + 1}, "
                "or --port 0 for any free one."
            ) from None
        except OSError as error:
            raise click.ClickException(f"Port {port} is not available: {error.strerror}.") from error
        address = f"http://{local_server.ADDRESS}:{listener.getsockname()[1]}/"
        click.echo(f"{rater} votes at {address} ({session.left} to go). Ctrl-C stops; every vote is saved at once.")
        if browser:
            click.launch(address)
        server.serve(session, listener)
        click.echo(f"\n{_count(session.given)} given, {session.left} to go.")
        if file.votes:
            click.echo(
                f"{_count(len(file.votes))} of {rater} in all, in {display_path(file.path)}. "
                f"To add them to the tables and the report: {_next_command(project, env)}"
            )
    finally:
        file.close()


def _load_rollouts(project: Project) -> DataFrame:
    """Return the latest rollouts of all policies."""
    if not project.catalog.exists("rollouts"):
        demo = project.with_environment("`kedro run --pipelines demo` makes everything, from generated data.")
        raise click.ClickException(
            f"There are no dialogues to compare yet. rollouts: {project.explain_missing('rollouts')} {demo}"
        )
    return project.load("rollouts")


def _select_pairs(
    project: Project, named: Sequence[tuple[str, str]], available: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the named pairs, or else those of the parameters, each once."""
    pairs = list({frozenset(pair): pair for pair in named or project.parameters.evaluation.pairs}.values())
    for pair in pairs:
        if pair[0] == pair[1]:
            raise click.UsageError(f"--pair: {pair[0]} cannot be compared with itself.")
        for policy in pair:
            if policy in available:
                continue
            if policy in project.policies:
                command = project.with_environment("`kedro run --pipelines evaluation`")
                raise click.ClickException(f"There are no dialogues of {policy} to compare; {command} makes them.")
            near = difflib.get_close_matches(policy, available, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(available)}."
            raise click.UsageError(f"--pair: no policy with dialogues is called {policy!r}; {hint}")
    if not pairs:
        raise click.UsageError("evaluation.pairs is empty; name a pair: --pair sage_0 sage_1")
    return pairs


def _next_command(project: Project, env: str | None) -> str:
    pipeline = "demo" if project.catalog.exists("truth_votes") else "evaluation"
    return f"kedro run {f'--env {env} ' if env else ''}--pipelines {pipeline} --from-inputs human_votes"


def _count(votes: int) -> str:
    return "1 vote" if votes == 1 else f"{votes} votes"


def _show_status(project: Project, env: str | None) -> None:
    from sage_dialog.evaluation.judging.people import PERSON
    from sage_dialog.studio.arena.counting import count_votes

    votes = project.load("human_votes")
    if not votes:
        click.echo("There are no votes yet. Begin with " + project.with_environment("`kedro sage arena --rater NAME`."))
        return
    counted, rejects = count_votes(votes, _load_rollouts(project), project.parameters.evaluation.pairs)
    rows = []
    for rater, of_rater in votes.items():
        valid = counted[counted["judge"] == PERSON + rater]
        reasons = rejects.loc[rejects["judge"] == PERSON + rater, "reason"].value_counts(sort=False)
        rejected = ", ".join(f"{count} ({reason})" for reason, count in reasons.items()) or "–"
        rows.append((rater, len(of_rater), len(valid), valid["raw_response"].count(), rejected))
    headings = ("rater", "votes", "valid", "comments", "rejected")
    Console().print(table("Votes of people", headings, rows, right=("votes", "valid", "comments")))
    click.echo(f"To add them to the tables and the report: {_next_command(project, env)}")
