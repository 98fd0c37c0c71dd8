"""`kedro sage …`: what is no pipeline."""

from __future__ import annotations

import click

from sage_dialog.commands.chat import chat
from sage_dialog.commands.journal import journal
from sage_dialog.commands.steer import steer
from sage_dialog.commands.summary import summary


@click.group(name="sage-dialog")
def cli() -> None:
    """Commands of this project."""


@cli.group()
def sage() -> None:
    """Look at what the pipelines made, and use it."""


for command in (summary, journal, chat, steer):
    sage.add_command(command)
