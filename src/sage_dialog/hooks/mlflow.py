"""MLflow beside a run, by kedro-mlflow, where the environment has an `mlflow.yml`; the run is the same without."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.hooks import RunRefused

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

LOG = "training_log_"
METRICS_AT_ONCE, PARAMETERS_AT_ONCE = 1000, 100
"""What MLflow takes in one call."""
LONGEST = 6000
"""Characters of a parameter's value that MLflow keeps."""


class Tracking:
    """Parameters, training curves, figures and the report of a run, and the cards of its policies, go to MLflow.

    kedro-mlflow's own hook would track every run and make a store in the project wherever it is installed, so the
    project's settings switch it off; this one puts it to work where an environment asks for it.
    """

    def __init__(self) -> None:
        self._mlflow: Any = None
        self._parameters: Mapping[str, Any] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        from kedro.config import MissingConfigException

        self._mlflow = None
        try:
            asked = context.config_loader["mlflow"]
        except MissingConfigException:
            return
        if not asked:
            return
        try:
            from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook
        except ImportError as error:
            raise RunRefused(
                f"The environment {context.env or 'local'} has an mlflow.yml, and MLflow is not installed. Get the "
                "extra (pip install '.[mlflow]'), or take the file away."
            ) from error
        self._mlflow = MlflowHook()
        self._mlflow.after_context_created(context)
        self._parameters = context.config_loader["parameters"]

    @hook_impl(trylast=True)  # a run that is refused is none
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        if self._mlflow is None:
            return
        self._mlflow.before_pipeline_run(run_params, pipeline, catalog)
        if self._run is not None:
            from mlflow.entities import Param

            names = {name.removeprefix("params:") for name in pipeline.inputs() if name.startswith("params:")}
            used = {name: value for name, value in self._parameters.items() if name in names}
            told = [Param(key, str(value)[:LONGEST]) for key, value in _flat(used)]
            for few in _parts(told, PARAMETERS_AT_ONCE):
                self._client.log_batch(self._run, params=few)

    @hook_impl
    def after_node_run(self, node: Node, outputs: dict[str, Any]) -> None:
        for name, log in outputs.items() if self._run is not None else ():
            if name.startswith(LOG):
                self._draw(name.removeprefix(LOG), log)

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        if self._run is not None:
            self._keep(pipeline, catalog)
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
        """The id of MLflow's run; None where nothing is tracked."""
        run: str | None = getattr(self._mlflow, "run_id", None)
        return run

    @property
    def _client(self) -> Any:
        return self._mlflow.mlflow_config.server._mlflow_client

    def _draw(self, policy: str, log: DataFrame) -> None:
        """A curve for each column of a table of schemas.TRAINING_LOG."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [
            Metric(f"{policy}/{row['split']}/{column}", float(value), now, row["step"])
            for row in to_rows(log)
            for column, value in row.items()
            if column not in ("step", "split") and value is not None
        ]
        for few in _parts(points, METRICS_AT_ONCE):
            self._client.log_batch(self._run, metrics=few)

    def _keep(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """The figures and the report that a run wrote, and of its policies what says which they are."""
        from sage_dialog.core.policies import CARD
        from sage_dialog.datasets.figure import AtomicFigure
        from sage_dialog.datasets.files import AtomicText
        from sage_dialog.datasets.policy import PolicyDirectory

        for name in sorted(pipeline.all_outputs()):
            entry = catalog.get(name)
            if isinstance(entry, AtomicFigure | AtomicText):
                self._client.log_artifact(self._run, str(entry._get_load_path()))
            elif isinstance(entry, PolicyDirectory):
                self._client.log_artifact(self._run, str(entry.load().path / CARD), artifact_path=name)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; MLflow takes no other signs in a name than these."""
    for key, value in tree.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield "".join(sign if sign.isalnum() or sign in "_-. :/" else "_" for sign in name), value
