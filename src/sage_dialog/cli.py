"""`kedro sage …`: what is no pipeline."""

from __future__ import annotations

import click

from sage_dialog.commands.arena import arena
from sage_dialog.commands.cache import cache
from sage_dialog.commands.chat import chat
from sage_dialog.commands.export import export
from sage_dialog.commands.prune import prune, tag
from sage_dialog.commands.replay import replay
from sage_dialog.commands.runs import diff, runs, show
from sage_dialog.commands.status import refresh, status
from sage_dialog.commands.steer import steer
from sage_dialog.commands.summary import summary


@click.group(name="sage-dialog")
def cli() -> None:
    """Commands of this project."""


@cli.group()
def sage() -> None:
    """Look at what the pipelines made, use it, and make it again.

    \b
    what came out    summary, arena, cache
    use it           chat, steer, export
    what was run     runs, show, diff, tag
    run it again     status and refresh (what is stale), replay (the very same)
    make room        prune

    Stages themselves are run by `kedro run --pipelines NAME`; `kedro registry list` names them.
    """


for command in (
    summary,
    cache,
    chat,
    steer,
    export,
    arena,
    runs,
    show,
    diff,
    status,
    refresh,
    replay,
    tag,
    prune,
):
    sage.add_command(command)
