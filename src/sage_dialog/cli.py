"""The commands of the project: `kedro sage …`."""

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
    """Commands other than pipelines.

    \b
    results          summary, arena, cache
    policies         chat, steer, export
    run records      runs, show, diff, tag
    reruns           status and refresh (stale outputs), replay (an identical run)
    disk space       prune

    Stages are run by `kedro run --pipelines NAME`; `kedro registry list` lists them.
    """


for command in (summary, cache, chat, steer, export, arena, runs, show, diff, status, refresh, replay, tag, prune):
    sage.add_command(command)
