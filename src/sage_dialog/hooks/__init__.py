"""What surrounds a run: parameters, pins and inputs are checked before the first node; then one line a node."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.hooks import hook_impl

if TYPE_CHECKING:  # Kedro reads this file for every command; what only a run needs comes in with the run
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol, DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

    from sage_dialog.llm.budget import Budget

logger = logging.getLogger(__name__)


class RunRefused(click.ClickException):
    """A run that does not start; the command line shows the message alone, without a traceback."""


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
