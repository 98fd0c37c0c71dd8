"""The hook that records each run (docs/runs.md), and refuses concurrent writes and mixed versions of one lineage."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import platform
import re
import shlex
import threading
from collections.abc import Collection, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from filelock import FileLock
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sage_dialog.datasets.files import AtomicPage
from sage_dialog.datasets.protocol import TrackedDataset
from sage_dialog.hooks.budget import RunBudget
from sage_dialog.hooks.errors import RunRefused, RunStopped
from sage_dialog.hooks.recording import (
    DISTRIBUTION,
    configured_secrets,
    is_parameter,
    latest_version,
    node_code,
    node_spec,
    record_input,
    record_output,
    run_folder,
)
from sage_dialog.lineage.code import digest
from sage_dialog.lineage.content import DigestCache
from sage_dialog.lineage.environment import git_state, hardware, installed_extras, package_versions
from sage_dialog.lineage.formatting import format_names
from sage_dialog.lineage.masking import mask_secrets, redact, secrets_in
from sage_dialog.lineage.mixing import MixedDataset, find_mixed_datasets
from sage_dialog.lineage.records import (
    FORMAT,
    InputRecord,
    NodeRecord,
    Outcome,
    Process,
    RunRecord,
    Selection,
    Spent,
    is_in_future,
    now,
)
from sage_dialog.lineage.run_folder import RunFolder

logger = logging.getLogger(__name__)

REPLAY_OF: ContextVar[str | None] = ContextVar("replay_of", default=None)
"""The run that the next run repeats; set by `kedro sage replay`."""

_MAX_MIXED = 4  # mixed datasets in an error message
_MAX_ERROR_CHARACTERS = 500


class Recorder:
    """Writes the record of a run before its first node, with each output, and at its end. Nodes may run in threads.

    Only the process that started the run writes. With the parallel runner nodes run in other processes, and their
    outputs are recorded at the end.
    """

    _runs: RunFolder
    _catalog: DataCatalog
    _digests: DigestCache
    _secrets: set[str]
    _record: RunRecord

    def __init__(self, run_budget: RunBudget) -> None:
        self._run_budget = run_budget
        self._lock = threading.RLock()
        self._pid: int | None = None  # of the process that writes the record; None before and after a run
        self._owner: int | None = None  # the same, also after a run

    @property
    def record(self) -> RunRecord | None:
        """The record of the latest run of this process; None before there is one, and in worker processes."""
        return self._record if self._owner == os.getpid() else None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._context = context

    @hook_impl(trylast=True)  # after the hooks that refuse runs
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        self._interrupted()  # an earlier run of this process, such as a notebook, that Ctrl-C ended
        loader, project = self._context.config_loader, Path(self._context.project_path)
        parameters = dict(loader["parameters"])  # as configured; the catalog has models with defaults
        self._catalog, self._runs = catalog, run_folder(project, loader["globals"])
        outputs = {name for name in pipeline.all_outputs() if isinstance(catalog.get(name), TrackedDataset)}
        refuse_concurrent_writes(outputs, self._runs)  # before files are hashed, which may take minutes
        self._digests = DigestCache(self._runs.path / "digests.json")
        self._secrets = configured_secrets(loader)
        inputs: dict[str, InputRecord] = {}
        for name in sorted(name for name in pipeline.inputs() if not is_parameter(name)):
            with contextlib.suppress(DatasetError, OSError):  # missing: --only-missing-outputs may not need it
                inputs[name] = self._record_input(name)
        if not parameters.get("mix_versions"):
            mixed = find_mixed_datasets(inputs, self._runs, lambda name: latest_version(catalog.get(name)))
            if mixed:
                raise RunRefused(format_mixed_datasets(mixed))
        if future := find_future_versions(pipeline, catalog):
            raise RunRefused(format_future_versions(future, self._runs.path.parent))
        codes = {node.name: node_code(node, catalog) for node in pipeline.nodes}
        self._record = RunRecord(
            run=run_params["run_id"],
            format=FORMAT,
            started=now(),
            replay_of=REPLAY_OF.get(),
            process=Process.here(),
            selection=_selection(run_params),
            environment=self._context.env or str(getattr(loader, "default_run_env", "local")),
            parameters=mask_secrets(parameters, self._secrets),
            git=git_state(project),
            python=platform.python_version(),
            platform=platform.platform(),
            packages=package_versions(DISTRIBUTION),
            extras=installed_extras(DISTRIBUTION),
            conf_source=_conf_source(loader, project),
            nodes={
                spec.name: NodeRecord(
                    inputs=spec.inputs,
                    outputs=spec.outputs,
                    parameters=spec.parameters,
                    arguments=dict(spec.arguments),
                    code=digest(codes[spec.name]),
                )
                for spec in map(node_spec, pipeline.nodes)
            },
            code={name: value for code in codes.values() for name, value in code.items()},
            reads=inputs,
        )
        self._secrets |= {*secrets_in(parameters)}  # an error may quote them
        try:
            with FileLock(self._runs.path / ".start.lock"):  # of two runs that start at once, one finds the other
                refuse_concurrent_writes(outputs, self._runs)
                self._runs.begin(self._record)
        except FileExistsError:
            raise RunRefused(
                f"Another run started in the same millisecond ({run_params['run_id']}). Run the command again."
            ) from None
        self._pid = self._owner = os.getpid()
        atexit.register(self._interrupted)
        for entry in map(catalog.get, pipeline.all_outputs()):
            if isinstance(entry, AtomicPage):
                entry.run = format_run(self._record)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        if self._pid == os.getpid():  # written with the node's first output
            self._update_node(node.name, started=now())

    @hook_impl
    def before_dataset_loaded(self, dataset_name: str) -> None:
        """Record raw files as they are when they are read: a rater may have voted since the run started."""
        if self._pid != os.getpid():
            return
        with self._lock:
            before = self._record.reads.get(dataset_name)
        if before and before.files is not None:
            with contextlib.suppress(DatasetError, OSError):  # the load reports it
                now = self._record_input(dataset_name)
                with self._lock:
                    if not now.equals(before):
                        self._update(reads={**self._record.reads, dataset_name: now})
                        self._runs.append(self._record.run, reads={dataset_name: now})

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        """Record an input that was an output of the pipeline: Kedro has left out the node that makes it."""
        if self._pid != os.getpid() or is_parameter(dataset_name):
            return
        with self._lock:
            if dataset_name in self._record.reads or dataset_name in self._record.writes:
                return
        loaded = self._record_input(dataset_name)
        with self._lock:
            if loaded.version and dataset_name not in self._record.writes:
                self._update(reads={**self._record.reads, dataset_name: loaded})
                self._runs.append(self._record.run, reads={dataset_name: loaded})

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Record an output, and write the record before the next node starts."""
        if self._pid != os.getpid():
            return
        written = record_output(self._catalog.get(dataset_name), node.name, self._digests)
        with self._lock:
            if written is not None:
                self._update(writes={**self._record.writes, dataset_name: written})
            if set(node.outputs) <= set(self._record.writes):
                self._update_node(node.name, ended=now())
            times = self._record.nodes[node.name].model_dump(include={"started", "ended"}, exclude_none=True)
            self._update(hardware=hardware())
            self._runs.append(
                self._record.run,
                nodes={node.name: times},
                **({"writes": {dataset_name: written}} if written else {}),
                **({"hardware": self._record.hardware.model_dump()} if self._record.hardware else {}),
            )

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._end("done")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        self._end("stopped" if isinstance(error, RunStopped) else "failed", error)

    def _end(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Record the outcome and the cost of the run."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._add_outputs_of_other_processes(outcome == "done")
            self._add_opened_tables()
            if budget := self._run_budget.budget:
                self._update(
                    spent={who: Spent(**budget.spent(who)) for who in budget.roles()},
                    answered={role: tuple(sorted(models)) for role, models in budget.served_models.items()},
                )
            message = None
            if error:
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
                message = redact(f"{type(error).__name__}: {first_line}", self._secrets)[:_MAX_ERROR_CHARACTERS]
            self._update(outcome=outcome, error=message, ended=now(), hardware=hardware())
            with contextlib.suppress(OSError):  # a full disk on which the run failed must not hide the run's error
                if outcome == "done" and self._record.selection.only_missing_outputs and not self._record.writes:
                    self._runs.remove(self._record.run)  # nothing was missing: there is no run to show or to replay
                else:
                    self._runs.save(self._record)
        self._pid = None
        atexit.unregister(self._interrupted)

    def _record_input(self, name: str) -> InputRecord:
        return record_input(name, self._catalog.get(name), self._runs, self._digests)

    def _add_outputs_of_other_processes(self, done: bool) -> None:
        """Add saved outputs. Raw data has no version: it is an output of this run for certain only if all nodes ran."""
        for node_name, node in self._record.nodes.items():
            for name in set(node.outputs) - set(self._record.writes):
                with contextlib.suppress(DatasetError, OSError):  # not saved
                    written = record_output(self._catalog.get(name), node_name, self._digests)
                    if written and (written.version or done):
                        self._update(writes={**self._record.writes, name: written})

    def _add_opened_tables(self) -> None:
        """Add the tables of previous runs that were opened."""
        for name, read in self._record.reads.items():
            entry = self._catalog.get(name) if read.definition is not None else None
            current = entry.describe_input().definition if isinstance(entry, TrackedDataset) else None
            if tables := current and current.get("tables"):
                read = read.model_copy(update={"definition": {**(read.definition or {}), "tables": tables}})
                self._update(reads={**self._record.reads, name: read})

    def _interrupted(self) -> None:
        """Record that the process ended before the run did, such as by Ctrl-C."""
        if self._pid == os.getpid() and self._runs.file(self._record.run).exists():
            with self._lock, contextlib.suppress(OSError):
                self._update(outcome="stopped", error="it was interrupted", ended=now())
                self._runs.save(self._record)

    def _update(self, **fields: Any) -> None:
        with self._lock:
            self._record = self._record.model_copy(update=fields)

    def _update_node(self, name: str, **fields: Any) -> None:
        with self._lock:
            node = self._record.nodes[name].model_copy(update=fields)
            self._update(nodes={**self._record.nodes, name: node})


def format_run(record: RunRecord) -> str:
    """Return the id, date and commit of a run in words."""
    code = "code in no repository"
    if record.git:
        code = f"commit {record.git.revision[:12]}" + (", with changes" if record.git.changed else "")
    repeats = f", a replay of {record.replay_of}" if record.replay_of else ""
    return f"Run {record.run}{repeats}, started {record.started[:16].replace('T', ' ')} UTC, {code}."


def _conf_source(loader: Any, project: Path) -> str | None:
    """Return where the configuration was read from, relative to the project if it is inside."""
    source = getattr(loader, "conf_source", None)
    if source is None:
        return None
    path = Path(source)
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)


def _selection(run_params: Mapping[str, Any]) -> Selection:
    """Return the options of `kedro run`."""
    keys = {"pipelines": "pipeline_names", "nodes": "node_names"}
    keys |= {key: key for key in ("from_nodes", "to_nodes", "from_inputs", "to_outputs", "tags", "namespaces")}
    names = {field: tuple(map(str, run_params.get(key) or ())) for field, key in keys.items()}
    runner = re.search(r"\w+Runner", str(run_params.get("runner")))
    return Selection(
        **{**names, "pipelines": names["pipelines"] or ("__default__",)},
        load_versions=dict(run_params.get("load_versions") or {}),
        only_missing_outputs=bool(run_params.get("only_missing_outputs")),
        runner=runner[0] if runner else "SequentialRunner",
    )


def refuse_concurrent_writes(outputs: Collection[str], runs: RunFolder) -> None:
    """Raise RunRefused if another process is writing one of these outputs. A replay writes to a folder of its own."""
    here = Process.here()
    for other in runs.running():
        shared = sorted(name for name in outputs if other.node_of(name))
        process, since = other.process, other.started[:19].replace("T", " ")
        if not shared or other.replay_of != REPLAY_OF.get() or (process.host, process.pid) == (here.host, here.pid):
            continue
        if other.status == "unknown":  # killed perhaps: it must not block runs for ever
            logger.warning(
                "Run %s on the machine %s, since %s UTC, may still be writing %s, as this run will. Stop one of the "
                "two, unless that run was killed.",
                *(other.run, process.host, since, format_names(shared)),
            )
            continue
        raise RunRefused(
            f"Run {other.run} (process {process.pid}, since {since} UTC) is writing {format_names(shared)}; this run "
            f"would write the same and was not started. Wait for that run, or end it (kill {process.pid}), or use "
            "another data folder (SAGE_DATA=FOLDER)."
        )


def find_future_versions(pipeline: Pipeline, catalog: DataCatalog) -> dict[str, str]:
    """Return the versions of outputs that are dated in the future, by dataset: they would hide those of this run."""
    versions = {name: latest_version(catalog.get(name)) for name in sorted(pipeline.all_outputs())}
    return {name: version for name, version in versions.items() if version and is_in_future(version)}


def format_future_versions(versions: Mapping[str, str], data: Path) -> str:
    """Return the error message for a run whose outputs have versions dated in the future."""
    lines = [f"  {name}: {version}" for name, version in versions.items()]
    more = [f"  and {len(lines) - _MAX_MIXED} more"] if len(lines) > _MAX_MIXED else []
    return "\n".join(
        [
            "Outputs of this run have versions dated in the future, which would stay the latest; it was not started:",
            *lines[:_MAX_MIXED],
            *more,
            "If the clock of this machine is behind, set it. If a clock was ahead when they were written, remove all "
            "that those runs wrote, and run again:",
            *(
                f"  find {shlex.quote(str(data))} -name '{version}*' -prune -exec rm -r {{}} +"
                for version in sorted({*versions.values()})[:_MAX_MIXED]
            ),
        ]
    )


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
