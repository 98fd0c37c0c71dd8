"""The hook that records each run (docs/runs.md) and refuses a run whose inputs mix versions of one lineage."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sage_dialog.hooks.budget import RunBudget
from sage_dialog.hooks.errors import RunRefused, RunStopped
from sage_dialog.hooks.recording import Recording, is_parameter, run_folder
from sage_dialog.lineage.mixing import MixedDataset, find_mixed_datasets
from sage_dialog.lineage.records import Outcome

REPLAY_OF: ContextVar[str | None] = ContextVar("replay_of", default=None)
"""The run that the next run repeats; set by `kedro sage replay`."""

_MAX_MIXED = 4  # mixed datasets in an error message


class Recorder:
    """Writes the record of a run before its first node, with each output, and at its end.

    Only the process that started the run writes. With the parallel runner nodes run in other processes, and their
    outputs are recorded at the end.
    """

    def __init__(self, spending: RunBudget) -> None:
        self._spending = spending
        self._recording: Recording | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._context = context

    @hook_impl(trylast=True)  # after the hooks that refuse runs
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        loader, project = self._context.config_loader, Path(self._context.project_path)
        runs = run_folder(project, loader["globals"])
        recording = Recording(runs, catalog, loader)
        inputs = recording.inputs(name for name in pipeline.inputs() if not is_parameter(name))
        if not loader["parameters"].get("mix_versions") and (mixed := find_mixed_datasets(inputs, runs)):
            raise RunRefused(format_mixed_datasets(mixed))
        environment = self._context.env or str(getattr(loader, "default_run_env", "local"))
        try:
            recording.begin(project, run_params, environment, pipeline, inputs, REPLAY_OF.get())
        except FileExistsError:
            raise RunRefused(
                f"Another run started in the same millisecond ({run_params['run_id']}). Run the command again."
            ) from None
        self._recording = recording

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        if recording := self._of_this_process():
            recording.node_started(node)

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        if recording := self._of_this_process():
            recording.dataset_loaded(dataset_name)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        if recording := self._of_this_process():
            recording.dataset_saved(dataset_name, node)

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._end("done")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        self._end("stopped" if isinstance(error, RunStopped) else "failed", error)

    def _of_this_process(self) -> Recording | None:
        recording = self._recording
        return recording if recording and recording.pid == os.getpid() else None

    def _end(self, outcome: Outcome, error: Exception | None = None) -> None:
        if recording := self._of_this_process():
            self._recording = None
            recording.end(outcome, error, self._spending.budget)


def format_mixed_datasets(mixed: Iterable[MixedDataset]) -> str:
    """Return the error message for a run with mixed datasets."""
    lines = [str(each) for each in mixed]
    more = [f"and {len(lines) - _MAX_MIXED} more"] if len(lines) > _MAX_MIXED else []
    return "\n".join(
        [
            "This run would mix versions of one lineage; it was not started:",
            *(f"  {line}" for line in [*lines[:_MAX_MIXED], *more]),
            "Rebuild what was made from the older version: `kedro sage refresh`, with the --params of the newer one. "
            "Or pin versions that belong together: --load-versions NAME:VERSION,… (`kedro sage show RUN` lists them). "
            "Or allow the mix: --params mix_versions=true.",
        ]
    )
