"""One budget for all requests of a run to language models."""

from __future__ import annotations

from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sage_dialog.config import Llm
from sage_dialog.datasets.factory import FactoryDataset
from sage_dialog.hooks.errors import RunRefused, RunStopped
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.requests import RequestFailedError, StopRunError


class RunBudget:
    """Gives all catalog entries of a run the same budget, and ends the run when it, or a server, stops a node."""

    def __init__(self) -> None:
        self.budget: Budget | None = None
        """The budget of the current run; None where it uses no server."""

    @hook_impl
    def on_node_error(self, error: Exception, node: Node) -> None:
        if isinstance(error, StopRunError):
            raise RunStopped(f"{node.name} stopped: {error}") from None
        if isinstance(error, RequestFailedError):
            raise RunStopped(
                f"{node.name} stopped: {error}. All responses are in the response cache: run the same command again "
                "when the server is back."
            ) from None

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        self.budget = None
        inputs = [catalog.get(name) for name in sorted(pipeline.inputs()) if not name.startswith("params:")]
        entries = [entry for entry in inputs if isinstance(entry, FactoryDataset) and entry.uses_server]
        if not entries:
            return
        if "ParallelRunner" in str(run_params.get("runner")):
            raise RunRefused(
                "Budget and rate limits hold within one process, and the parallel runner has several. Leave out "
                "--runner: requests to language models overlap within a node."
            )
        llm = Llm.model_validate(catalog.load("params:llm"))
        self.budget = Budget(llm.caps, llm.role_caps, llm.prices)
        for entry in entries:
            entry.bind_budget(llm, self.budget)
