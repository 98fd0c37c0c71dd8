"""Errors that end a `kedro` command with their message alone, without a traceback."""

import click


class RunRefused(click.ClickException):
    """A run that does not start."""


class RunStopped(click.ClickException):
    """A run that ends early and keeps its results so far."""
