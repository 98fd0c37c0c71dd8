"""`kedro sage …`: what is no pipeline."""

from __future__ import annotations

import click

from sage_dialog.commands.arena import arena
from sage_dialog.commands.chat import chat
from sage_dialog.commands.export import export
from sage_dialog.commands.journal import journal
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
    """Look at what the pipelines made, and use it."""


for command in (summary, journal, chat, steer, export, arena, runs, show, diff, status, refresh, replay, tag, prune):
    sage.add_command(command)
