"""`kedro sage studio`: chat, search trees and the arena in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata

from sage_dialog.commands.project import Project
from sage_dialog.commands.studio_sources import PolicySource, known_of, rater_of, tables_of, votes_folder
from sage_dialog.commands.talking import example_messages, load_policy, policy_options
from sage_dialog.core.paths import display_path

if TYPE_CHECKING:
    from sage_dialog.studio.app.votes import Rater

PORT = 4144
EXAMPLES = 3
"""Messages that the chat offers to begin with."""
PAIR_OPTION = click.option(
    "--pair",
    "pairs",
    nargs=2,
    multiple=True,
    metavar="POLICY POLICY",
    help="Policies to compare in the arena; may be repeated.  [default: evaluation.pairs]",
)
SITUATIONS_OPTION = click.option(
    "--situations", type=click.IntRange(min=1), default=20, show_default=True, help="Maximum number for each pair."
)
BROWSER_OPTION = click.option("--browser/--no-browser", default=True, help="Open the page in a browser.")


@click.command()
@env_option
@policy_options
@click.option("--seed", type=click.IntRange(min=0), help="The same seed and messages give the same replies.")
@click.option("--rater", metavar="NAME", help="Your name in votes; the arena's page asks for it otherwise.")
@PAIR_OPTION
@SITUATIONS_OPTION
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 takes a free port.")
@BROWSER_OPTION
@click.pass_obj
def studio(
    metadata: ProjectMetadata,
    env: str | None,
    name: str | None,
    base: Path | None,
    adapter: Path | None,
    blocks: bool | None,
    seed: int | None,
    rater: str | None,
    pairs: Sequence[tuple[str, str]],
    situations: int,
    port: int,
    browser: bool,
    hold_form: bool,
) -> None:
    """Open a page that only this machine can reach, to talk with policies, steer them, and look into the search.

    Chat: talk with any policy, or with two side by side; boosts, fixed values, branches and candidates. Explorer: the
    search trees of self-play, and the rollouts of all policies with the votes on them. Arena: judge pairs of dialogues.
    Conversations and votes are saved as they come; Ctrl-C stops.
    """
    project = Project(metadata, env)
    seed = project.parameters.seed if seed is None else seed
    is_outside = base is not None or adapter is not None or blocks is not None
    outside = load_policy(project, name, base, adapter, blocks) if is_outside else None
    source = PolicySource(project, seed, hold_form, outside)
    votes = rater_of(project, rater, pairs, situations, check=False)
    serve_studio(project, source, name, votes, port, browser, "/chat", "The studio is at {address}. Ctrl-C stops.")


def serve_studio(
    project: Project,
    source: PolicySource,
    policy: str | None,
    rater: Rater,
    port: int,
    browser: bool,
    page: str,
    greeting: str,
) -> None:
    """Serve the studio until interrupted, and release the rater's file.

    Args:
        policy: the default of the chat.
        page: the tab to open.
        greeting: printed with the `{address}`.
    """
    from sage_dialog.studio import local_server
    from sage_dialog.studio.app.access import new_token
    from sage_dialog.studio.app.server import Studio, make_app
    from sage_dialog.studio.engine_thread import EngineThread

    thread = EngineThread()
    try:
        policies = source.policies(policy)
        try:
            listener = local_server.listen(port)
        except local_server.PortTakenError:
            raise click.ClickException(
                f"Port {port} is taken, perhaps by another studio. Take another one: --port {port % 65535 + 1}, "
                "or --port 0 for any free one."
            ) from None
        except OSError as error:
            raise click.ClickException(f"Port {port} is not available: {error.strerror}.") from error
        token = new_token()
        address = f"http://{local_server.ADDRESS}:{listener.getsockname()[1]}{page}?token={token}"
        studio = Studio(
            thread=thread,
            policies=policies,
            known=known_of(project),
            examples=lambda: example_messages(project, EXAMPLES),
            tables=tables_of(project),
            rater=rater,
            folder=project.data / "studio",
            dialogues=votes_folder(project) / "chats",
            candidates=project.parameters.self_play.candidates,
            seed=source.seed,
            rule=project.parameters.evaluation.outcome_rule,
        )
        if page == "/chat" and policies.names:
            thread.prepare(lambda: policies.open(policies.get(policies.names[0])))
        click.echo(greeting.format(address=address))
        if browser:
            click.launch(address)
        local_server.serve(make_app(studio, token), listener, thread.stop)
        if rater.file is not None and rater.file.votes:
            show_votes(project, rater)
    finally:
        thread.close()
        rater.close()


def show_votes(project: Project, rater: Rater) -> None:
    """Print how many votes a rater has given, and the command that adds them to the tables."""
    assert rater.file is not None
    session = rater.opened_session
    if session is not None:
        click.echo(f"\n{format_count(session.given)} given, {session.left} to go.")
    click.echo(
        f"{format_count(len(rater.file.votes))} of {rater.name} in all, in {display_path(rater.file.path)}. "
        f"To add them to the tables and the report: {next_command(project)}"
    )


def next_command(project: Project) -> str:
    """Return the command that adds people's votes to the tables and the report."""
    pipeline = "demo" if project.catalog.exists("truth_votes") else "evaluation"
    return project.with_environment(f"`kedro run --pipelines {pipeline} --from-inputs human_votes`").strip("`")


def format_count(votes: int) -> str:
    """Return a number of votes in words."""
    return "1 vote" if votes == 1 else f"{votes} votes"
