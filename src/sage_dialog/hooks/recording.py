"""The record of a run while it grows, and what it takes from catalog entries, nodes and configuration."""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kedro.framework.project import settings
from kedro.io import CatalogProtocol, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sage_dialog.datasets.protocol import EntryState, TrackedDataset
from sage_dialog.lineage.code import code_of_callable, code_of_path, digest
from sage_dialog.lineage.content import DigestCache, File, of_files, state_of
from sage_dialog.lineage.environment import git_state, package_versions
from sage_dialog.lineage.masking import environment_secrets, mask_secrets, nested_texts, redact, secrets_in
from sage_dialog.lineage.records import (
    InputRecord,
    NodeRecord,
    Outcome,
    OutputRecord,
    Process,
    RunFolder,
    RunRecord,
    Selection,
    Spent,
    now,
)
from sage_dialog.lineage.staleness import NodeSpec
from sage_dialog.llm.budget import Budget

if TYPE_CHECKING:  # imports pandas
    from sage_dialog.datasets.atomic import AtomicMixin

DISTRIBUTION = "sage-dialog"
_MAX_ERROR_CHARACTERS = 500


def run_folder(project: Path, globals_: Mapping[str, Any]) -> RunFolder:
    """Return the records of a project: `runs` in the folder `data` of conf/*/globals.yml."""
    return RunFolder(project / str(globals_.get("data", "data")) / "runs")


def config_loader(project: Path, env: str | None) -> Any:
    """Return the configuration of an environment."""
    return settings.CONFIG_LOADER_CLASS(str(project / settings.CONF_SOURCE), env=env, **settings.CONFIG_LOADER_ARGS)


def configured_secrets(loader: Any) -> set[str]:
    """Return credentials, and values of environment variables that are named like secrets."""
    secrets = environment_secrets()
    with contextlib.suppress(Exception):  # no credentials, or a variable in them is not set; roles report that
        secrets |= set(nested_texts(loader["credentials"]))
    return secrets


def is_parameter(name: str) -> bool:
    """Return whether a node input is a parameter."""
    return name == "parameters" or name.startswith("params:")


class Recording:
    """The record of one run. Nodes may run in several threads."""

    def __init__(self, runs: RunFolder, catalog: CatalogProtocol, loader: Any) -> None:
        self.pid = os.getpid()
        self._runs, self._catalog = runs, catalog
        self._digests = DigestCache(runs.path / "digests.json")
        self._parameters = dict(loader["parameters"])  # as configured; the catalog has models with defaults
        self._secrets = configured_secrets(loader)
        self._lock = threading.RLock()
        self._record: RunRecord

    def inputs(self, names: Iterable[str]) -> dict[str, InputRecord]:
        """Return the records of inputs; a missing one is left out, since `--only-missing-outputs` may not need it."""
        found = {}
        for name in sorted(names):
            with contextlib.suppress(DatasetError, OSError):
                found[name] = record_input(name, self._catalog.get(name), self._runs, self._digests)
        return found

    def begin(
        self,
        project: Path,
        run_params: Mapping[str, Any],
        environment: str,
        pipeline: Pipeline,
        inputs: dict[str, InputRecord],
        replay_of: str | None,
    ) -> None:
        """Write the record. Raises FileExistsError if another run has the same id."""
        codes = {node.name: node_code(node, self._catalog) for node in pipeline.nodes}
        self._record = RunRecord(
            run=run_params["run_id"],
            started=now(),
            replay_of=replay_of,
            process=Process.here(),
            selection=_selection(run_params),
            environment=environment,
            parameters=mask_secrets(self._parameters, self._secrets),
            git=git_state(project),
            python=platform.python_version(),
            platform=platform.platform(),
            packages=package_versions(DISTRIBUTION),
            nodes={
                node.name: NodeRecord(**asdict(node_spec(node)), code=digest(codes[node.name]))
                for node in pipeline.nodes
            },
            code={name: value for code in codes.values() for name, value in code.items()},
            reads=inputs,
        )
        self._secrets |= {*secrets_in(self._parameters)}  # an error may quote them
        self._runs.begin(self._record)
        atexit.register(self._interrupted)

    def node_started(self, node: Node) -> None:
        """Set the start time of a node; it is written with the node's first output."""
        self._update_node(node.name, started=now())

    def dataset_loaded(self, name: str) -> None:
        """Record an input that was an output of the pipeline: Kedro has left out the node that makes it."""
        with self._lock:
            if name in self._record.reads or name in self._record.writes or is_parameter(name):
                return
        loaded = record_input(name, self._catalog.get(name), self._runs, self._digests)
        with self._lock:
            if loaded.version and name not in self._record.writes:
                self._update(reads={**self._record.reads, name: loaded})

    def dataset_saved(self, name: str, node: Node) -> None:
        """Record an output, and write the record before the next node starts."""
        written = record_output(self._catalog.get(name), node.name, self._digests)
        with self._lock:
            if written is not None:
                self._update(writes={**self._record.writes, name: written})
            if set(node.outputs) <= set(self._record.writes):
                self._update_node(node.name, ended=now())
            self._runs.save(self._record)

    def end(self, outcome: Outcome, error: Exception | None, budget: Budget | None) -> None:
        """Record the outcome and the cost of the run."""
        with self._lock:
            self._add_outputs_of_other_processes(outcome == "done")
            self._add_opened_tables()
            if budget:
                self._update(
                    spent={who: Spent(**budget.spent(who)) for who in budget.roles()},
                    answered={role: tuple(sorted(models)) for role, models in budget.served_models.items()},
                )
            message = None
            if error:
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
                message = redact(f"{type(error).__name__}: {first_line}", self._secrets)[:_MAX_ERROR_CHARACTERS]
            self._update(outcome=outcome, error=message, ended=now())
            with contextlib.suppress(OSError):  # a full disk on which the run failed must not hide the run's error
                self._runs.save(self._record)
        atexit.unregister(self._interrupted)

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
            if isinstance(entry, TrackedDataset) and (
                tables := (entry.describe_input().definition or {}).get("tables")
            ):
                read = read.model_copy(update={"definition": {**(read.definition or {}), "tables": tables}})
                self._update(reads={**self._record.reads, name: read})

    def _interrupted(self) -> None:
        """Record that the process ended before the run did, such as by Ctrl-C."""
        if os.getpid() == self.pid and self._runs.file(self._record.run).exists():
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


def node_spec(node: Node) -> NodeSpec:
    """Return a node by the names of its datasets and parameters."""
    inputs = set(node.inputs)
    parameters = {name for name in inputs if is_parameter(name)}
    return NodeSpec(
        name=node.name,
        inputs=tuple(sorted(inputs - parameters)),
        outputs=tuple(node.outputs),
        parameters=tuple(sorted(name.removeprefix("params:") for name in parameters)),
    )


def node_code(node: Node, catalog: CatalogProtocol) -> dict[str, str]:
    """Return the digests of all code that a node reaches, that of its roles included."""
    code = code_of_callable(node.func)
    for entry in map(catalog.get, node_spec(node).inputs):
        for path in entry.code_paths() if isinstance(entry, TrackedDataset) else ():
            code |= code_of_path(path)
    return code


def record_input(name: str, entry: object, runs: RunFolder, digests: DigestCache) -> InputRecord:
    """Return the record of what a load of a catalog entry reads now.

    Raises:
        DatasetError: if there is nothing to load.
    """
    if not isinstance(entry, TrackedDataset):
        return InputRecord()
    state = entry.describe_input()
    if state.version:
        sha256 = _version_sha256(name, state.version, state, cast("AtomicMixin", entry), runs, digests)
        return InputRecord(version=state.version, sha256=sha256)
    definition = None if state.definition is None else dict(state.definition)
    return InputRecord(files=_record_files(state, digests), definition=definition)


def record_output(entry: object, node: str, digests: DigestCache) -> OutputRecord | None:
    """Return the record of what was just saved; None for entries that keep nothing."""
    state = entry.describe_output() if isinstance(entry, TrackedDataset) else None
    if state and state.version:
        content = cast("AtomicMixin", entry).content(state.version)
        return OutputRecord(version=state.version, node=node, at=now(), **content._asdict())
    if state and (files := _record_files(state, digests)) is not None:
        return OutputRecord(version=None, node=node, at=now(), files=files, **of_files(files)._asdict())
    return None


def _version_sha256(
    name: str, version: str, state: EntryState, entry: AtomicMixin, runs: RunFolder, digests: DigestCache
) -> str:
    """Return the digest that the run which wrote a version recorded, if the files are unchanged since."""
    record = runs.find(version)
    written = record.writes.get(name) if record else None
    if written and (state.path is None or state_of(state.path) == (written.bytes, written.modified_ns)):
        return written.sha256
    return (digests.content(state.path) if state.path else entry.content(version)).sha256


def _record_files(state: EntryState, digests: DigestCache) -> dict[str, File] | None:
    if state.files is not None:
        return digests.files(state.files)
    if state.remote_files is not None:
        return {
            name: File(bytes=size, modified_ns=time, sha256=None) for name, (size, time) in state.remote_files.items()
        }
    return None


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
