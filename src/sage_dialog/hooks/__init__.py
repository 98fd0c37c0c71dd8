"""What surrounds a run: parameters, pins and inputs are checked before the first node; then one line a node."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click
from kedro.framework.hooks import hook_impl

if TYPE_CHECKING:  # Kedro reads this file for every command; what only a run needs comes in with the run
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol, DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from sage_dialog.config import Parameters
    from sage_dialog.llm.budget import Budget

logger = logging.getLogger(__name__)


class RunRefused(click.ClickException):
    """A run that does not start; the command line shows the message alone, without a traceback."""


class ParameterGate:
    """The whole parameter tree is checked, `--params` included, whatever part of it the run uses."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        from omegaconf.errors import InterpolationResolutionError

        loader = context.config_loader
        try:
            raw = loader["parameters"]
        except InterpolationResolutionError as error:  # such as ${text:FILE} of a file that is not there
            why = str(error).splitlines()[0].rpartition("interpolation: ")[2]
            raise _refused([f"{error.full_key}: {why}"]) from error
        catalog = loader["catalog"]
        outside = (catalog.get("external_models") or {}).get("models") or {}
        check_parameters(raw, context.env, loader.runtime_params, tuple(outside))


def check_parameters(
    raw: Mapping[str, Any],
    env: str | None = None,
    given: Mapping[str, Any] | None = None,
    external_models: Sequence[str] = (),
) -> Parameters:
    """The typed tree of `raw`, which is `conf/base`, then `conf/<env>`, then `given` on the command line.

    Args:
        external_models: their names in the catalog, which pairs may name beside policies.

    Raises:
        RunRefused: naming every key that is unknown, missing or out of range, and where it stands.
    """
    from pydantic import ValidationError

    from sage_dialog.config import Parameters

    try:
        parameters = Parameters.model_validate(raw)
    except ValidationError as error:
        raise _refused([_fault(details, env, given or {}) for details in error.errors(include_url=False)]) from error
    if faults := [
        *_pair_faults(parameters.evaluation.pairs, external_models),
        *_benchmark_faults(parameters.evaluation.benchmarks.policies),
        *_held_out_faults(parameters),
        *_quantize_faults(parameters),
        *_batch_faults(parameters),
    ]:
        raise _refused([f"{_dotted(path)}: {what}. {_where(path, env, given or {})}" for path, what in faults])
    return parameters


def _refused(faults: Sequence[str]) -> RunRefused:
    return RunRefused("Parameters are not right, nothing was run:\n" + "\n".join(f"  {fault}" for fault in faults))


def _pair_faults(
    pairs: Sequence[tuple[str, str]], external_models: Sequence[str]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What would else come to light when every policy has been trained: a pair that nobody can judge, and where."""
    from sage_dialog.pipeline_registry import POLICIES

    if taken := sorted(set(external_models) & set(POLICIES)):
        yield ("evaluation", "pairs"), f"{taken[0]} is a policy, and an outside model of the catalog has the same name"
    known = (*POLICIES, *external_models)
    for place, pair in enumerate(pairs):
        path = ("evaluation", "pairs", place)
        for policy in pair:
            if policy not in known:
                yield path, _no_policy(policy, known)
        if pair in pairs[:place]:
            yield path, f"{' against '.join(pair)} stands there twice"


def _benchmark_faults(policies: Sequence[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """As of pairs; outside models are not asked, since their servers do not say how probable a choice is."""
    from sage_dialog.pipeline_registry import POLICIES

    for place, policy in enumerate(policies):
        path = ("evaluation", "benchmarks", "policies", place)
        if policy not in POLICIES:
            yield path, _no_policy(policy, POLICIES)
        if policy in policies[:place]:
            yield path, f"{policy} stands there twice"


def _no_policy(name: str, known: Sequence[str]) -> str:
    return f"no policy is called {name!r}{_meant(name, known)} There are {', '.join(known)}"


def _held_out_faults(parameters: Parameters) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """In a blended mix what is held out stands behind conversations that are learned from, too."""
    for stage in ("sft", "self_play"):
        share = getattr(parameters, stage).training.held_out
        if share and parameters.sac_augmentation.blend:
            path = (stage, "training", "held_out")
            yield (
                path,
                f"a blended mix cannot hold out {share} of itself; set it to 0, or sac_augmentation.blend to null",
            )


def _batch_faults(parameters: Parameters) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Batches that the launcher cannot deal out to its processes."""
    for path, config in (
        (("sft", "training"), parameters.sft.training),
        (("self_play", "training"), parameters.self_play.training),
        (("preference",), parameters.preference),
    ):
        try:
            parameters.launcher.rows_at_once(config.batch_size)
        except ValueError as error:
            yield (*path, "batch_size"), str(error)


def _quantize_faults(parameters: Parameters) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """All policies go on from the first; where that one trained all weights, so do they."""
    trainings = {("self_play", "training"): parameters.self_play.training, ("preference",): parameters.preference}
    for path, training in trainings.items():
        if parameters.sft.lora is None and training.quantization:
            what = f"sft.lora is null: all weights are trained, and in 4 bits ({training.quantization}) they cannot be"
            yield (*path, "quantization"), f"{what}; set this to null, or give sft.lora its parameters"
        elif parameters.sft.lora and parameters.sft.lora.target_parameters and training.quantization:
            what = f"{training.quantization} packs sft.lora.target_parameters in 4 bits"
            yield (*path, "quantization"), f"{what}; set this to null, or leave those empty"


def _fault(details: ErrorDetails, env: str | None, given: Mapping[str, Any]) -> str:
    path = details["loc"]
    if path[-1] == "[key]":  # of a mapping whose keys are a closed list
        path = path[:-1]
    siblings = _fields_at(path[:-1])
    if details["type"] == "extra_forbidden":
        what = f"unknown{_meant(str(path[-1]), siblings)} Known here: {', '.join(sorted(siblings))}"
    elif details["type"] == "missing":
        what = "missing"
    else:
        what = f"{details['msg']}, found {details['input']!r}"
    field = siblings.get(str(path[-1]))
    meaning = f" ({field.description})" if field is not None and field.description else ""
    return f"{_dotted(path)}: {what}{meaning}. {_where(path, env, given)}"


def _meant(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]}?" if near else "."


def _dotted(path: tuple[int | str, ...]) -> str:
    return ".".join(map(str, path))


def _where(path: tuple[int | str, ...], env: str | None, given: Mapping[str, Any]) -> str:
    value: Any = given
    for part in path:
        if isinstance(value, Sequence) and not isinstance(value, str):  # a list is given whole
            break
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is not None:
        return "Given by --params."
    is_stage = bool(_fields_at(path[:1]))
    file = f"parameters_{path[0]}.yml" if is_stage else "parameters.yml"
    return f"See conf/base/{file}" + (f" and conf/{env}/{file}." if env not in (None, "base") else ".")


def _fields_at(path: tuple[int | str, ...]) -> dict[str, Any]:
    """The fields known at a place in the parameter tree, in which positions of lists and keys of mappings are steps."""
    from sage_dialog.config import Parameters

    model: type[BaseModel] | None = Parameters
    at_key = False
    for part in path:
        if isinstance(part, int) or at_key:
            at_key = False
            continue
        field = model.model_fields.get(part) if model else None
        model = next(_models_in(field.annotation), None) if field else None
        at_key = field is not None and get_origin(field.annotation) is dict
    return dict(model.model_fields) if model and not at_key else {}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


class PinGate:
    """A `--load-versions` pin on what the run itself writes: later nodes would read the old version."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        if pinned := sorted(set(run_params["load_versions"] or {}) & pipeline.all_outputs()):
            raise RunRefused(
                f"--load-versions pins {', '.join(pinned)}, which this run writes itself: its later nodes would read "
                "the pinned version, not the new one. Leave the pin out, or run only what comes after "
                f"(--from-inputs {','.join(pinned)})."
            )


class InputsGate:
    """Everything that the run reads and does not make must be there before the first node starts."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        if run_params["only_missing_outputs"]:  # Kedro leaves out nodes of this pipeline, and with them inputs
            return
        names = sorted(name for name in pipeline.inputs() if not name.startswith("params:") and name != "parameters")
        missing = [f"  {name}: {why_missing(name, catalog)}" for name in names if not catalog.exists(name)]
        missing += _missing_in_mix(names, catalog)
        if missing:
            raise RunRefused("This run reads what is not there, nothing was run:\n" + "\n".join(missing))


def _missing_in_mix(names: Sequence[str], catalog: CatalogProtocol) -> Iterator[str]:
    """Earlier trajectories that the mix names; the run reads them by no name of its inputs."""
    from sage_dialog.config import SacAugmentation
    from sage_dialog.datasets.previous_tables import PreviousTables

    for name in names:
        if isinstance(tables := catalog.get(name), PreviousTables):
            for source in SacAugmentation.model_validate(catalog.load("params:sac_augmentation")).mix:
                if source.kind == "trajectories" and source.of and (told := tables.explain_missing_table(source.of)):
                    yield f"  sac_augmentation.mix, source {source.name!r}: {told}"


def why_missing(name: str, catalog: CatalogProtocol) -> str:
    """What of a catalog entry is not there, and what makes it."""
    from kedro.io import AbstractVersionedDataset
    from kedro.io.core import VersionNotFoundError

    from sage_dialog.datasets.factory import FactoryDataset
    from sage_dialog.datasets.raw_folder import RawFolder

    dataset = catalog.get(name)
    if isinstance(dataset, RawFolder | FactoryDataset):
        return str(dataset.explain_missing())
    if dataset is None:
        return "no catalog entry has this name; entries stand in conf/base/catalog_*.yml."
    made_by = _made_by(name)
    command = f"`kedro run --pipelines {made_by}` makes it" if made_by else "no pipeline makes it"
    if isinstance(dataset, AbstractVersionedDataset) and dataset._version:
        folder = shown(dataset._filepath)
        try:
            versions = dataset.list_versions(full_path=False)
        except VersionNotFoundError:
            versions = []
        if dataset._version.load and versions:
            return f"there is no version {dataset._version.load} in {folder}; there are {', '.join(versions)}."
        return f"there is no {'whole ' if versions else ''}version of {folder}; {command}."
    return f"{dataset} does not exist; {command}."


def _made_by(name: str) -> str | None:
    """The shortest registered pipeline that writes a dataset."""
    from sage_dialog.pipeline_registry import register_pipelines

    makers = [
        (len(flow.nodes), key != name, key) for key, flow in register_pipelines().items() if name in flow.all_outputs()
    ]
    return min(makers)[2] if makers else None


def shown(path: str | PurePath) -> Path:
    """A path as the person at the terminal would write it."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class ProjectPaths:
    """Relative `scratch`, `llm.response_cache` and `launcher.config` are the project's, wherever the run was started."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._project_path = context.project_path

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, parameters: dict[str, Any]) -> None:
        catalog["params:scratch"].save(str(self._project_path / parameters["params:scratch"]))
        if "params:launcher" in parameters:
            from sage_dialog.config import Launcher

            launcher = Launcher.model_validate(parameters["params:launcher"])  # typed already where a node takes it
            config = launcher.config and str(self._project_path / launcher.config)
            catalog["params:launcher"].save(launcher.model_copy(update={"config": config}))
        if "params:llm" in parameters:
            llm = parameters["params:llm"]
            response_cache = str(self._project_path / llm.get("response_cache", "data/response_cache/responses.sqlite"))
            catalog["params:llm"].save({**llm, "response_cache": response_cache})


class RunStopped(click.ClickException):
    """A run that ends before its time, with all it has kept; the command line shows the message alone."""


class SpendingLimit:
    """All of a run share one budget. Where it, or a server, ends the run, the message says how to go on."""

    def __init__(self) -> None:
        self.budget: Budget | None = None
        """That of the run under way; None where it asks no server."""

    @hook_impl
    def on_node_error(self, error: Exception, node: Node) -> None:
        from sage_dialog.llm.requests import RequestFailedError, StopRunError

        if isinstance(error, StopRunError):
            raise RunStopped(f"{node.name} stopped: {error}") from None
        if isinstance(error, RequestFailedError):
            raise RunStopped(
                f"{node.name} stopped: {error}. Every reply is in the response cache: run the same command again when the "
                "server is back."
            ) from None

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        from sage_dialog.datasets.factory import FactoryDataset

        self.budget = None
        entries = [catalog.get(name) for name in sorted(pipeline.inputs()) if not name.startswith("params:")]
        asking = [entry for entry in entries if isinstance(entry, FactoryDataset) and entry.uses_server]
        if not asking:
            return
        if "ParallelRunner" in str(run_params.get("runner")):
            raise RunRefused(
                "Caps and pace hold within one process, and the parallel runner has several. Leave out --runner, or "
                "take ThreadRunner: calls to language models overlap all the same."
            )
        from sage_dialog.config import Llm
        from sage_dialog.llm.budget import Budget

        llm = Llm.model_validate(catalog.load("params:llm"))
        self.budget = Budget(llm.caps, llm.role_caps, llm.prices)
        for entry in asking:
            entry.bind_budget(llm, self.budget)


class Progress:
    """One line as a node starts and one as it ends, in place of Kedro's list of every input and output."""

    def __init__(self) -> None:  # a worker process of a parallel run begins here and counts for itself
        self._total, self._started = "?", 0
        self._since: dict[str, float] = {}

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        self._total, self._started = str(len(pipeline.nodes)), 0

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        self._started += 1
        self._since[node.name] = time.monotonic()
        logger.info("%d of %s: %s", self._started, self._total, node.name)

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        logger.info("done in %.1f s: %s", time.monotonic() - self._since[node.name], ", ".join(node.outputs))
