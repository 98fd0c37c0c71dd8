"""Validation of parameters, load versions and the runner before a run starts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.runner import ParallelRunner, SequentialRunner
from kedro.utils import load_obj
from omegaconf.errors import InterpolationResolutionError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sage_dialog.config import Parameters
from sage_dialog.config.base import suggestion
from sage_dialog.core.paths import display_path
from sage_dialog.hooks.errors import RunRefused
from sage_dialog.lineage.formatting import format_names
from sage_dialog.pipeline_registry import use_iterations, use_reference_policies, use_reinforced


class ParameterValidation:
    """Validates the whole parameter tree, `--params` included, whatever part of it the run uses."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        loader = context.config_loader
        try:
            if remote := explain_remote_data(loader["globals"]):
                raise RunRefused(remote)
            raw = loader["parameters"]
        except MissingConfigException as error:
            raise RunRefused(explain_missing_environment(loader) or str(error)) from error
        except InterpolationResolutionError as error:  # such as ${text:FILE} of a missing file
            why = str(error).splitlines()[0].rpartition("interpolation: ")[2]
            raise _refusal([f"{error.full_key}: {why}"]) from error
        catalog = loader["catalog"]
        external = [
            name
            for entry, names in (("external_models", "models"), ("external_policies", "policies"))
            for name in (catalog.get(entry) or {}).get(names) or {}
        ]
        parameters = validate_parameters(raw, context.env, loader.runtime_params, external)
        if "iterations" not in (loader.runtime_params or {}) and raw["iterations"] != loader["globals"]["iterations"]:
            raise _refusal([explain_iterations(raw["iterations"], context.env)])
        use_iterations(parameters.iterations)
        use_reference_policies(parameters.reference.policies)
        use_reinforced(parameters.reinforced)


class LoadVersionValidation:
    """Refuses a `--load-versions` pin on an output of the run: later nodes would read the pinned version."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        if pinned := sorted(set(run_params["load_versions"] or {}) & pipeline.all_outputs()):
            raise RunRefused(
                f"--load-versions pins {', '.join(pinned)}, which this run writes itself: its later nodes would read "
                "the pinned version, not the new one. Leave the pin out, or run only what comes after "
                f"(--from-inputs {','.join(pinned)})."
            )


class RunnerValidation:
    """Refuses runners that may have threads for nodes that train or sample: they share one random state."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        runner = _runner_with_threads(str(run_params.get("runner")))
        if runner is None:
            return
        from sage_dialog.datasets.engines import EngineDataset
        from sage_dialog.datasets.hub_model import HubBase
        from sage_dialog.datasets.policy import PolicyDirectory

        kinds = (EngineDataset, HubBase, PolicyDirectory)
        random = [
            node.name
            for node in pipeline.nodes
            if any(isinstance(catalog.get(name), kinds) for name in (*node.inputs, *node.outputs))
        ]
        if random:
            raise RunRefused(
                f"{runner} may change results: {format_names(random)} train or sample, and threads share one random "
                "state. Leave out --runner: nodes then run one after the other, and each uses all cores. Known to have "
                "no threads are SequentialRunner, ParallelRunner, and runners derived from these."
            )


def _runner_with_threads(runner: str) -> str | None:
    """Return the name of a runner, as Kedro writes it for hooks, that may have threads; None of any other.

    Only Kedro's runners without threads and those derived from them are known to have none.
    """
    path = re.match(r"<([\w.]+) object", runner)
    if path is None:
        return None  # not given
    with contextlib.suppress(ImportError, AttributeError):  # such as a class of a notebook
        if issubclass(load_obj(path[1]), (SequentialRunner, ParallelRunner)):
            return None
    return path[1].rpartition(".")[2]


def explain_missing_environment(loader: Any) -> str | None:
    """Return that the environment of a configuration loader does not exist; None where it does."""
    folder, env = Path(loader.conf_source), loader.env
    if not env or not folder.is_dir() or (folder / env).is_dir():  # the configuration may be in an archive
        return None
    known = sorted({file.parent.name for file in folder.glob("*/*.yml")})
    return f"No environment is called {env!r}{suggestion(env, known)} In {display_path(folder)}: {', '.join(known)}."


def explain_remote_data(globals_: Mapping[str, Any]) -> str | None:
    """Return that the folder `data` of conf/*/globals.yml is an address; None where it is a local folder."""
    data = str(globals_.get("data", ""))
    if "://" not in data:
        return None
    return (
        f"The data folder (SAGE_DATA) is {data}, and has to be a local folder, since policies, run records and "
        "unfinished work are kept there; raw data and single tables may be on an object store, as the `filepath` of "
        "their catalog entries (docs/reddit.md, docs/tables.md)."
    )


def explain_iterations(iterations: int, env: str | None) -> str:
    """Return where to set the iterations that a file of parameters sets: `evaluation.pairs` would not follow."""
    return (
        f"iterations: set `iterations: {iterations}` in conf/{env or 'base'}/globals.yml, not in a file of parameters."
    )


def validate_parameters(
    raw: Mapping[str, Any],
    env: str | None = None,
    runtime_params: Mapping[str, Any] | None = None,
    external_models: Sequence[str] = (),
) -> Parameters:
    """Return the typed parameters.

    Args:
        raw: `conf/base`, overridden by `conf/<env>`, overridden by `runtime_params`.
        env: the environment.
        runtime_params: the parameters of the command line.
        external_models: names that pairs may use beside those of policies.

    Raises:
        RunRefused: with every key that is unknown, missing or invalid, and its file.
    """
    try:
        return Parameters.model_validate(raw, context={"external_models": external_models})
    except ValidationError as error:
        faults = [_format_error(details, env, runtime_params or {}) for details in error.errors(include_url=False)]
        raise _refusal(faults) from error


def _refusal(faults: Sequence[str]) -> RunRefused:
    return RunRefused("Invalid parameters; the run was not started:\n" + "\n".join(f"  {fault}" for fault in faults))


def _format_error(details: ErrorDetails, env: str | None, runtime_params: Mapping[str, Any]) -> str:
    path = details["loc"]
    if path[-1] == "[key]":  # of a mapping with a fixed set of keys
        path = path[:-1]
    if details["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        what = f"unknown{suggestion(str(path[-1]), known)} Known here: {', '.join(sorted(known))}"
    elif details["type"] == "missing":
        what = "missing"
    elif details["type"] == "invalid" and not isinstance(details["input"], str | int | float):
        what = details["msg"]
    else:
        what = f"{details['msg']}, found {details['input']!r}"
    return f"{'.'.join(map(str, path))}: {what}. {_origin(path, env, runtime_params)}"


def _origin(path: tuple[int | str, ...], env: str | None, runtime_params: Mapping[str, Any]) -> str:
    """Return where a parameter comes from: the command line, or its files."""
    value: Any = runtime_params
    for part in path:
        if isinstance(value, Sequence) and not isinstance(value, str):  # lists are replaced as a whole
            break
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is not None:
        return "Given by --params."
    file = f"parameters_{path[0]}.yml" if path[0] != "launcher" and _fields_at(path[:1]) else "parameters.yml"
    return f"See conf/base/{file}" + (f" and conf/{env}/{file}." if env not in (None, "base") else ".")


def _fields_at(path: tuple[int | str, ...]) -> dict[str, Any]:
    """Return the fields at a path of the parameter tree, which steps into list positions and mapping keys as well."""
    model: type[BaseModel] | None = Parameters
    at_key = False
    for part in path:
        if isinstance(part, int) or at_key:
            at_key = False
            continue
        field = model.model_fields.get(part) if model else None
        model = next(models_in(field.annotation), None) if field else None
        at_key = field is not None and get_origin(field.annotation) is dict
    return dict(model.model_fields) if model and not at_key else {}


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)
