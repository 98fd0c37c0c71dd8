"""The commands of the project: `kedro run` and `kedro sage …`."""

from __future__ import annotations

import click
from kedro.framework.cli.utils import LazyGroup

MODULES = {
    "arena": ("arena",),
    "cache": ("cache",),
    "chat": ("chat",),
    "export": ("export",),
    "fetch": ("fetch",),
    "iterate": ("iterate",),
    "prune": ("prune", "tag"),
    "replay": ("replay",),
    "runs": ("runs", "show", "diff"),
    "serve": ("serve",),
    "status": ("status", "refresh"),
    "steer": ("steer",),
    "studio": ("studio",),
    "summary": ("summary",),
}
"""The commands of each module of `commands/`; a module is imported when one of its commands is called."""


@click.group(name="sage-dialog", cls=LazyGroup, lazy_subcommands={"run": "sage_dialog.commands.run.run"})
def cli() -> None:
    """Commands of this project."""


@cli.group(
    cls=LazyGroup,
    lazy_subcommands={
        name: f"sage_dialog.commands.{module}.{name}" for module, names in MODULES.items() for name in names
    },
)
def sage() -> None:
    """Commands other than pipelines.

    \b
    self-play        iterate (iteration by iteration, until the next policy is no better)
    results          summary, arena, cache
    policies         studio, chat, serve, steer, export
    data             fetch
    run records      runs, show, diff, tag
    reruns           status and refresh (stale outputs), replay (an identical run)
    disk space       prune

    Stages are run by `kedro run --pipelines NAME`; `kedro registry list` lists them.
    """
