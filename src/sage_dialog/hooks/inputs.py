"""Check before the first node that the inputs of a run exist; resolve relative paths in parameters."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DataCatalog
from kedro.pipeline import Pipeline
from kedro.validation import DataValidationError

from sage_dialog.config import DataProcessing, Launcher, SacAugmentation
from sage_dialog.datasets.atomic import AtomicMixin
from sage_dialog.datasets.gguf_file import GgufFileDataset
from sage_dialog.datasets.protocol import TrackedDataset
from sage_dialog.datasets.raw_folder import RawFolder
from sage_dialog.hooks.errors import RunRefused, with_environment
from sage_dialog.hooks.recording import is_parameter
from sage_dialog.pipeline_registry import register_pipelines

logger = logging.getLogger(__name__)

_REFERENCE_PACKAGES = {
    "params:reference": ("The reference evaluation", ("scikit-learn", "sacrebleu", "rouge-score")),
    "params:negotiation": ("The comparison of negotiations", ("scikit-learn",)),
}
"""Packages of the extra `reference` that the nodes with a parameter need, and what these nodes do."""
_MODULES = {"scikit-learn": "sklearn", "rouge-score": "rouge_score"}


class InputValidation:
    """Refuses a run when something that it reads and does not make is missing."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        if fault := _missing_extra(pipeline, catalog):
            raise RunRefused(fault)
        if run_params["only_missing_outputs"]:  # Kedro leaves out the other nodes later
            made = len(pipeline.all_outputs())
            pipeline = Pipeline(each for each in pipeline.nodes if not all(map(catalog.exists, each.outputs)))
            if not pipeline.nodes:
                hint = with_environment("`kedro sage status` shows which are stale", run_params["env"])
                logger.info("Nothing to do: all %d outputs exist. %s.", made, hint)
        names = sorted(name for name in pipeline.inputs() if not is_parameter(name))
        missing = [f"  {name}: {explain_missing(name, catalog)}" for name in names if not catalog.exists(name)]
        missing += _missing_previous_tables(names, catalog)
        if missing:
            raise RunRefused("Missing inputs; the run was not started:\n" + "\n".join(missing))


class ProjectPaths:
    """Resolves relative `scratch`, `llm.response_cache` and `launcher.config` against the project's folder."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._project_path = context.project_path

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, parameters: dict[str, Any]) -> None:
        catalog["params:scratch"].save(str(self._project_path / parameters["params:scratch"]))
        if "params:launcher" in parameters:
            launcher = Launcher.model_validate(parameters["params:launcher"])  # typed already where a node takes it
            config = launcher.config and str(self._project_path / launcher.config)
            catalog["params:launcher"].save(launcher.model_copy(update={"config": config}))
        if "params:llm" in parameters:
            llm = parameters["params:llm"]
            response_cache = str(self._project_path / llm["response_cache"])
            catalog["params:llm"].save({**llm, "response_cache": response_cache})


def explain_missing(name: str, catalog: CatalogProtocol) -> str:
    """Return what is missing of a catalog entry, and the pipeline that makes it."""
    dataset = catalog.get(name)
    if dataset is None:
        return "no catalog entry has this name; entries are in conf/base/catalog_*.yml."
    missing = dataset.explain_missing() if isinstance(dataset, TrackedDataset) else None
    if missing and not (isinstance(dataset, AtomicMixin) and not dataset.is_pinned):
        return missing
    writers = [
        (_lacks_input(pipeline, catalog), len(pipeline.nodes), key != name, key)
        for key, pipeline in register_pipelines().items()
        if name in pipeline.all_outputs()
    ]  # the pipeline with the fewest nodes first, of those that can run
    command = f"`{_command(name, min(writers)[3], catalog)}` makes it" if writers else "no pipeline makes it"
    return f"{(missing or f'{dataset} does not exist').removesuffix('.')}; {command}."


def explain_other_schema(error: DataValidationError) -> str | None:
    """Return which table a run cannot read and what makes it again; None for an error that is not of reading one."""
    name = error.dataset_name
    if error.mode != "load" or name is None:
        return None
    faults = "; ".join(f"{each.column or 'columns'}: {each.message}" for each in error.failures) or error.message
    writers = [(len(nodes.nodes), key) for key, nodes in register_pipelines().items() if name in nodes.all_outputs()]
    again = f", or make it again by `kedro run --pipelines {min(writers)[1]}`" if writers else ""
    return (
        f"{name} is no table that this version of the project reads ({faults}). Another version or program may have "
        f"written it; name a version that fits by --load-versions{again}."
    )


def _lacks_input(pipeline: Pipeline, catalog: CatalogProtocol) -> bool:
    """Return whether the pipeline reads a file of the user's that the catalog does not name, such as a base in GGUF."""
    entries = (catalog.get(name) for name in pipeline.inputs())
    return any(isinstance(entry, GgufFileDataset) and entry.explain_missing() is not None for entry in entries)


def _command(name: str, pipeline: str, catalog: CatalogProtocol) -> str:
    """Return the command that makes an entry; of a pipeline that replaces raw data, only the nodes for this entry."""
    nodes = register_pipelines()[pipeline]
    replaces_raw_data = any(isinstance(catalog.get(output), RawFolder) for output in nodes.all_outputs())
    return f"kedro run --pipelines {pipeline}" + (f" --to-outputs {name}" if replaces_raw_data else "")


def _missing_extra(pipeline: Pipeline, catalog: DataCatalog) -> str | None:
    """Return which package of an extra a node of the pipeline needs and does not find."""
    read = pipeline.inputs()
    for parameters, (purpose, packages) in _REFERENCE_PACKAGES.items():
        absent = [name for name in packages if not _is_installed(_MODULES.get(name, name))]
        if parameters in read and absent:
            return (
                f"{purpose} needs {absent[0]}, which is not installed; the run was not started. Install the extra: "
                "pip install '.[reference]'."
            )
    if "params:data_processing" not in read:
        return None
    if DataProcessing.model_validate(catalog.load("params:data_processing")).executor != "spark":
        return None
    if not _is_installed("pyspark"):
        return (
            "data_processing.executor is spark, and pyspark is not installed; the run was not started. Install the "
            "extra (pip install '.[spark]'), or leave out --env spark."
        )
    return None


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _missing_previous_tables(names: Sequence[str], catalog: CatalogProtocol) -> Iterator[str]:
    """Yield the missing tables of previous runs that the training mix names; they are no inputs by name."""
    from sage_dialog.datasets.previous_tables import PreviousTables

    for name in names:
        if isinstance(tables := catalog.get(name), PreviousTables):
            for source in SacAugmentation.model_validate(catalog.load("params:sac_augmentation")).mix:
                if source.kind == "trajectories" and source.of and (text := tables.explain_missing_table(source.of)):
                    yield f"  sac_augmentation.mix, source {source.name!r}: {text}"
