"""`kedro run`, with one sentence and no traceback for what its user can mend."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import click
from kedro import runner
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import pipelines, settings
from kedro.io import DatasetNotFoundError
from kedro.pipeline import Pipeline
from kedro.validation import DataValidationError
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sage_dialog.config.base import suggestion
from sage_dialog.core.paths import project_folder
from sage_dialog.hooks.errors import RunRefused, RunStopped, format_storage_error, with_environment
from sage_dialog.hooks.inputs import explain_other_schema
from sage_dialog.pipeline_registry import use_iterations

FILTERS = ("tags", "from_nodes", "to_nodes", "node_names", "from_inputs", "to_outputs")
"""The options that select nodes of the pipelines, named as in `Pipeline.filter`."""


class RunCommand(click.Command):
    """Kedro's command, with checked names, and errors that name the environment and the folder."""

    def invoke(self, context: click.Context) -> Any:
        env = context.params["env"] or os.environ.get("KEDRO_ENV")
        try:
            follow_iterations(context.params, env)
            check_selection(context.params)
            return super().invoke(context)
        except (RunRefused, RunStopped) as error:
            raise type(error)(with_environment(error.message, env)) from error
        except DatasetNotFoundError as error:  # of --load-versions
            raise RunRefused(f"Nothing was run. {error}") from None
        except DataValidationError as error:
            if (reason := explain_other_schema(error)) is None:
                raise
            raise RunStopped(with_environment(reason, env)) from None
        except Exception as error:
            if (reason := format_storage_error(error)) is None:
                raise
            raise RunStopped(f"{reason} Then run the same command again: finished work is kept.") from None


run = RunCommand(name="run", params=kedro_run.params, callback=kedro_run.callback, help=kedro_run.help)


def follow_iterations(options: Mapping[str, Any], env: str | None) -> None:
    """Register the pipelines of the run's own number of iterations; the session refuses a wrong number by its name."""
    found = (options["params"] or {}).get("iterations")
    if found is None:
        conf = options["conf_source"] or str(project_folder() / settings.CONF_SOURCE)
        loader = settings.CONFIG_LOADER_CLASS(conf, env=env, **settings.CONFIG_LOADER_ARGS)
        with contextlib.suppress(MissingConfigException, OmegaConfBaseException, YAMLError, ValueError, OSError):
            found = loader["globals"].get("iterations")
    if isinstance(found, int) and found > 0:
        use_iterations(found)


def check_selection(options: Mapping[str, Any]) -> None:
    """Raise RunRefused if the options of `kedro run` name a pipeline, node or dataset that does not exist."""
    names = [options["pipeline"]] if options["pipeline"] else options["pipelines"] or ["__default__"]
    for name in names:
        if name not in pipelines:
            known = sorted(set(pipelines) - {"__default__"})
            raise RunRefused(f"No pipeline is called {name!r}{suggestion(name, known)} Registered: {', '.join(known)}.")
    runner_name = options["runner"] or "SequentialRunner"
    if "." not in runner_name and not hasattr(runner, runner_name):
        raise RunRefused(f"No runner is called {runner_name!r}{suggestion(runner_name, runner.__all__)}")
    selected: Pipeline = sum((pipelines[name] for name in names), Pipeline([]))
    filters = {name: options[name] or None for name in FILTERS}
    try:
        selected.filter(**filters, node_namespaces=options["namespaces"] or None)
    except ValueError as error:
        raise RunRefused(f"Nothing was run. {', '.join(names).replace('__default__', 'All stages')}: {error}") from None
