"""Tracking of runs in MLflow by kedro-mlflow, in environments with an `mlflow.yml`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sage_dialog.core.policies import CARD
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.hooks.errors import RunRefused
from sage_dialog.lineage.formatting import flatten

LOG = "training_log_"
MAX_METRICS, MAX_PARAMETERS = 1000, 100
"""Limits of MLflow for one call."""
MAX_CHARACTERS = 6000
"""Limit of MLflow for the value of a parameter."""


class Tracking:
    """Logs parameters, training curves, figures, the report and policy cards of a run to MLflow.

    The project's settings disable kedro-mlflow's own hook, which would track every run and create a store in the
    project wherever it is installed. This hook calls it in environments with an `mlflow.yml`.
    """

    def __init__(self) -> None:
        self._mlflow: Any = None
        self._parameters: Mapping[str, Any] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._mlflow = None
        try:
            if not context.config_loader["mlflow"]:
                return
        except MissingConfigException:
            return
        try:
            from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook
        except ImportError as error:
            raise RunRefused(
                f"The environment {context.env or 'local'} has an mlflow.yml, but MLflow is not installed. Install the "
                "extra (pip install '.[mlflow]') or remove the file."
            ) from error
        self._mlflow = MlflowHook()
        self._mlflow.after_context_created(context)
        self._parameters = context.config_loader["parameters"]

    @hook_impl(trylast=True)  # after the hooks that refuse runs
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        if self._mlflow is None:
            return
        self._mlflow.before_pipeline_run(run_params, pipeline, catalog)
        if self._run is not None:
            from mlflow.entities import Param

            names = {name.removeprefix("params:") for name in pipeline.inputs() if name.startswith("params:")}
            used = {name: value for name, value in self._parameters.items() if name in names}
            params = [Param(_name(key), str(value)[:MAX_CHARACTERS]) for key, value in flatten(used).items()]
            for part in _parts(params, MAX_PARAMETERS):
                self._client.log_batch(self._run, params=part)

    @hook_impl
    def after_node_run(self, node: Node, outputs: dict[str, Any]) -> None:
        for name, log in outputs.items() if self._run is not None else ():
            if name.startswith(LOG):
                self._log_curves(name.removeprefix(LOG), log)

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        if self._run is not None:
            self._log_artifacts(pipeline, catalog)
        if self._mlflow is not None:
            self._mlflow.after_pipeline_run(run_params, pipeline, catalog)

    @hook_impl
    def on_pipeline_error(
        self, error: Exception, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        if self._mlflow is not None:
            self._mlflow.on_pipeline_error(error, run_params, pipeline, catalog)

    @property
    def _run(self) -> str | None:
        """The id of the MLflow run; None if the run is not tracked."""
        run: str | None = getattr(self._mlflow, "run_id", None)
        return run

    @property
    def _client(self) -> Any:
        return self._mlflow.mlflow_config.server._mlflow_client

    def _log_curves(self, policy: str, log: DataFrame) -> None:
        """Log a curve for each column of a table of schemas.TRAINING_LOG."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [
            Metric(f"{policy}/{row['split']}/{column}", float(value), now, row["step"])
            for row in to_rows(log)
            for column, value in row.items()
            if column not in ("step", "split") and value is not None
        ]
        for part in _parts(points, MAX_METRICS):
            self._client.log_batch(self._run, metrics=part)

    def _log_artifacts(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Log the figures and the report of a run, and the cards of its policies."""
        from sage_dialog.datasets.figure import AtomicFigure
        from sage_dialog.datasets.files import AtomicText
        from sage_dialog.datasets.policy import PolicyDirectory

        for name in sorted(pipeline.all_outputs()):
            entry = catalog.get(name)
            if isinstance(entry, AtomicFigure | AtomicText):
                self._client.log_artifact(self._run, str(entry.describe_output().path))
            elif isinstance(entry, PolicyDirectory):
                self._client.log_artifact(self._run, f"{entry.describe_output().path}/{CARD}", artifact_path=name)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _name(key: str) -> str:
    """Return a name with the characters that MLflow allows."""
    return "".join(letter if letter.isalnum() or letter in "_-. :/" else "_" for letter in key)
