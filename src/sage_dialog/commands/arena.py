"""`kedro sage arena`: people judge pairs of dialogues, blind, in a page on their own machine."""

from __future__ import annotations

from collections.abc import Sequence

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from rich.console import Console

from sage_dialog.commands.console import table
from sage_dialog.commands.project import Project
from sage_dialog.commands.studio import BROWSER_OPTION, PAIR_OPTION, SITUATIONS_OPTION, next_command, serve_studio
from sage_dialog.commands.studio_sources import PolicySource, load_rollouts, rater_of

PORT = 4142


@click.command()
@env_option
@click.option("--rater", metavar="NAME", help="Name of the rater: the judge `human:NAME` of the tables.")
@PAIR_OPTION
@SITUATIONS_OPTION
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 takes a free port.")
@BROWSER_OPTION
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
    in the same order, so that raters can be compared. It is the arena of `kedro sage studio`. To add the votes to the
    tables and the report, run

        kedro run --pipelines evaluation --from-inputs human_votes
    """
    if rater is None and not status:
        raise click.UsageError("--rater is required, such as --rater anna.")
    project = Project(metadata, env)
    if rater is None or status:
        _show_status(project)
        return
    votes = rater_of(project, rater, pairs, situations, check=True)
    left = votes.session()
    assert left is not None
    source = PolicySource(project, project.parameters.seed, hold_form=True, outside=None)
    greeting = f"{rater} votes at {{address}} ({left.left} to go). Ctrl-C stops; every vote is saved at once."
    serve_studio(project, source, None, votes, port, browser, "/arena", greeting)


def _show_status(project: Project) -> None:
    from sage_dialog.evaluation.judging.people import PERSON
    from sage_dialog.studio.arena.counting import count_votes

    votes = project.load("human_votes")
    if not votes:
        click.echo("There are no votes yet. Begin with " + project.with_environment("`kedro sage arena --rater NAME`."))
        return
    counted, rejects = count_votes(votes, load_rollouts(project), project.parameters.evaluation.pairs)
    rows = []
    for rater, of_rater in votes.items():
        valid = counted[counted["judge"] == PERSON + rater]
        reasons = rejects.loc[rejects["judge"] == PERSON + rater, "reason"].value_counts(sort=False)
        rejected = ", ".join(f"{count} ({reason})" for reason, count in reasons.items()) or "–"
        rows.append((rater, len(of_rater), len(valid), valid["raw_response"].count(), rejected))
    headings = ("rater", "votes", "valid", "comments", "rejected")
    Console().print(table("Votes of people", headings, rows, right=("votes", "valid", "comments")))
    click.echo(f"To add them to the tables and the report: {next_command(project)}")
