"""The hook that keeps a record of each run (docs/runs.md), and refuses one that would mix versions of one lineage."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

if TYPE_CHECKING:  # Kedro reads this file for every command; what only a run needs comes in with the run
    from kedro.framework.context import KedroContext
    from kedro.io import AbstractDataset, DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

    from sage_dialog.hooks.budget import RunBudget
    from sage_dialog.lineage.content import Digests
    from sage_dialog.lineage.records import NodeRecord, Outcome, Read, RunFolder, RunRecord, Selection, Written

logger = logging.getLogger(__name__)

REPLAY_OF: ContextVar[str | None] = ContextVar("replay_of", default=None)
"""The run that the next one repeats; who starts a replay sets it."""

_LONGEST_ERROR = 500  # characters


def runs_of(project: Path, globals_: Mapping[str, Any]) -> RunFolder:
    """The records of a project: `runs` in the folder that `data` of conf/*/globals.yml names."""
    from sage_dialog.lineage.records import RunFolder

    return RunFolder(project / str(globals_.get("data", "data")) / "runs")


def runs_at(project: Path, env: str | None) -> RunFolder:
    """As `runs_of`, for a command that needs no more of the configuration."""
    from kedro.framework.project import settings

    loader = settings.CONFIG_LOADER_CLASS(str(project / settings.CONF_SOURCE), env=env, **settings.CONFIG_LOADER_ARGS)
    return runs_of(project, loader["globals"])


def parameters_of(loader: Any) -> dict[str, Any]:
    """The parameters as they are configured, `--params` included; the catalog has models of them, with defaults."""
    return dict(loader["parameters"])


class Recorder:
    """Keeps the record of a run from its first node on: rewritten with each output, and at the end.

    Only the process that began the run writes. The nodes of a parallel run work in others, so that its outputs come
    into the record at the end.
    """

    def __init__(self, spending: RunBudget) -> None:
        self._spending = spending
        self._recording: Recording | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._context = context  # of every command; a run alone asks it for more

    @hook_impl(trylast=True)  # when nothing else refuses the run
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        from sage_dialog.hooks.errors import RunRefused
        from sage_dialog.lineage.mixing import mixes, told

        loader, project = self._context.config_loader, Path(self._context.project_path)
        runs, parameters = runs_of(project, loader["globals"]), parameters_of(loader)
        recording = Recording(runs, catalog, _credentials(loader))
        reads = recording.reads(name for name in pipeline.inputs() if not _is_parameter(name))
        if not parameters.get("mix_versions") and (found := mixes(reads, runs)):
            raise RunRefused(told(found))
        environment = self._context.env or str(getattr(loader, "default_run_env", "local"))
        try:
            recording.begin(project, run_params, environment, parameters, pipeline, reads)
        except FileExistsError:
            raise RunRefused(
                f"Another run has begun in this very millisecond ({run_params['run_id']}). Try again."
            ) from None
        self._recording = recording

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        if recording := self._here():
            recording.node_started(node)

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        if (recording := self._here()) and not _is_parameter(dataset_name):
            recording.loaded(dataset_name)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        if recording := self._here():
            recording.saved(dataset_name, node)

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._end("done")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        from sage_dialog.hooks.errors import RunStopped

        self._end("stopped" if isinstance(error, RunStopped) else "failed", error)

    def _here(self) -> Recording | None:
        recording = self._recording
        return recording if recording and recording.pid == os.getpid() else None

    def _end(self, outcome: Outcome, error: Exception | None = None) -> None:
        if recording := self._here():
            self._recording = None
            recording.end(outcome, error, self._spending)


class Recording:
    """One run's record, as it grows. Nodes may run in several threads."""

    def __init__(self, runs: RunFolder, catalog: DataCatalog, credentials: Mapping[str, Any]) -> None:
        from sage_dialog.lineage.content import Digests
        from sage_dialog.lineage.masking import of_environment, texts_in

        self.pid = os.getpid()
        self._runs, self._catalog = runs, catalog
        self._digests = Digests(runs.path / "digests.json")
        self._secrets = {*texts_in(credentials), *of_environment()}
        self._lock = threading.RLock()
        self._record: RunRecord

    def reads(self, names: Iterable[str]) -> dict[str, Read]:
        """The inputs that are there, with what they hold."""
        from kedro.io import DatasetError

        found = {}
        for name in sorted(names):
            with contextlib.suppress(DatasetError, OSError):  # only_missing_outputs may run nothing that needs it
                found[name] = read_of(name, self._catalog.get(name), self._runs, self._digests)
        return found

    def begin(
        self,
        project: Path,
        run_params: Mapping[str, Any],
        environment: str,
        parameters: Mapping[str, Any],
        pipeline: Pipeline,
        reads: dict[str, Read],
    ) -> None:
        """Raises FileExistsError if another run has its name."""
        from sage_dialog.lineage import environment as surroundings
        from sage_dialog.lineage.masking import masked, named
        from sage_dialog.lineage.records import Process, RunRecord, now

        nodes, code = nodes_of(pipeline, self._catalog)
        self._record = RunRecord(
            run=run_params["run_id"],
            started=now(),
            replay_of=REPLAY_OF.get(),
            process=Process.here(),
            selection=selection_of(run_params),
            environment=environment,
            parameters=masked(parameters, self._secrets),
            git=surroundings.git_of(project),
            python=surroundings.python(),
            platform=surroundings.machine(),
            packages=surroundings.packages(),
            nodes=nodes,
            code=code,
            reads=reads,
        )
        self._secrets |= {*named(parameters)}  # for what an error may quote
        self._runs.begin(self._record)
        atexit.register(self._interrupted)

    def node_started(self, node: Node) -> None:
        """The time is written with the node's first output."""
        from sage_dialog.lineage.records import now

        self._change_node(node.name, started=now())

    def loaded(self, name: str) -> None:
        """An input that nothing named beforehand: Kedro has left out the node that makes it."""
        from sage_dialog.datasets.atomic import AtomicMixin

        with self._lock:
            if name in self._record.reads or name in self._record.writes:
                return
        if not isinstance(self._catalog.get(name), AtomicMixin):
            return
        read = read_of(name, self._catalog.get(name), self._runs, self._digests)
        with self._lock:
            if name not in self._record.writes:
                self._change(reads={**self._record.reads, name: read})

    def saved(self, name: str, node: Node) -> None:
        """An output is whole; the record says so before the next node begins."""
        from sage_dialog.lineage.records import now

        written = written_of(self._catalog.get(name), node.name, self._digests)
        with self._lock:
            if written is not None:
                self._change(writes={**self._record.writes, name: written})
            if set(node.outputs) <= set(self._record.writes):
                self._change_node(node.name, ended=now())
            self._runs.keep(self._record)

    def end(self, outcome: Outcome, error: Exception | None, spending: RunBudget) -> None:
        """What became of the run, and what it cost."""
        from sage_dialog.lineage.masking import without
        from sage_dialog.lineage.records import Spent, now

        with self._lock:
            self._take_up_rest(done=outcome == "done")
            for name in self._record.reads:
                if opened := getattr(self._catalog.get(name), "opened", None):  # earlier tables, when asked for
                    self._change(reads={**self._record.reads, name: _of_earlier(self._record.reads[name], opened)})
            if budget := spending.budget:
                self._change(
                    spent={who: Spent(**budget.spent(who)) for who in budget.roles()},
                    answered={role: tuple(sorted(said)) for role, said in budget.served_models.items()},
                )
            told = without(_first_line(error), self._secrets)[:_LONGEST_ERROR] if error else None
            self._change(outcome=outcome, error=told, ended=now())
            with contextlib.suppress(OSError):  # a full disk, on which the run has failed, must not hide why
                self._runs.keep(self._record)
        atexit.unregister(self._interrupted)

    def _take_up_rest(self, done: bool) -> None:
        """Outputs that other processes saved. Raw data has no versions: it is this run's for certain when all is."""
        from kedro.io import DatasetError

        for node_name, node in self._record.nodes.items():
            for name in set(node.outputs) - set(self._record.writes):
                with contextlib.suppress(DatasetError, OSError):  # it was not written
                    written = written_of(self._catalog.get(name), node_name, self._digests)
                    if written and (written.version or done):
                        self._change(writes={**self._record.writes, name: written})

    def _interrupted(self) -> None:
        """The process ends, by Ctrl-C or otherwise, before the run did."""
        from sage_dialog.lineage.records import now

        if os.getpid() == self.pid and self._runs.file(self._record.run).exists():
            with self._lock, contextlib.suppress(OSError):
                self._change(outcome="stopped", error="it was interrupted", ended=now())
                self._runs.keep(self._record)

    def _change(self, **fields: Any) -> None:
        with self._lock:
            self._record = self._record.model_copy(update=fields)

    def _change_node(self, name: str, **fields: Any) -> None:
        with self._lock:
            changed = self._record.nodes[name].model_copy(update=fields)
            self._change(nodes={**self._record.nodes, name: changed})


def selection_of(run_params: Mapping[str, Any]) -> Selection:
    """What was asked of `kedro run`."""
    from sage_dialog.lineage.records import Selection

    def given(key: str) -> tuple[str, ...]:
        return tuple(map(str, run_params.get(key) or ()))

    runner = re.search(r"\w+Runner", str(run_params.get("runner")))
    return Selection(
        pipelines=given("pipeline_names") or ("__default__",),
        nodes=given("node_names"),
        **{key: given(key) for key in ("from_nodes", "to_nodes", "from_inputs", "to_outputs", "tags", "namespaces")},
        load_versions=dict(run_params.get("load_versions") or {}),
        only_missing_outputs=bool(run_params.get("only_missing_outputs")),
        runner=runner[0] if runner else "SequentialRunner",
    )


def nodes_of(pipeline: Pipeline, catalog: DataCatalog) -> tuple[dict[str, NodeRecord], dict[str, str]]:
    """The nodes of a pipeline with a digest of their code, and all that code by definition.

    A node's code is also that of the roles and engines that it takes.
    """
    from sage_dialog.datasets.factory import FactoryDataset
    from sage_dialog.lineage import code
    from sage_dialog.lineage.records import NodeRecord

    nodes: dict[str, NodeRecord] = {}
    everything: dict[str, str] = {}
    for node in pipeline.nodes:
        reached = dict(code.reached(node.func))
        for entry in (catalog.get(name) for name in node.inputs if not _is_parameter(name)):
            for path in entry.code_paths() if isinstance(entry, FactoryDataset) else ():
                reached |= code.named(path)
        everything |= reached
        nodes[node.name] = NodeRecord(
            inputs=tuple(sorted({name for name in node.inputs if not _is_parameter(name)})),
            outputs=tuple(node.outputs),
            parameters=tuple(sorted({name.removeprefix("params:") for name in node.inputs if _is_parameter(name)})),
            code=code.digest(reached),
        )
    return nodes, everything


def read_of(name: str, dataset: AbstractDataset | None, runs: RunFolder, digests: Digests) -> Read:
    """What an input holds now: its version, its files, or what is made of it."""
    from sage_dialog.datasets.atomic import AtomicMixin
    from sage_dialog.datasets.factory import FactoryDataset
    from sage_dialog.datasets.previous_tables import PreviousTables
    from sage_dialog.datasets.raw_folder import RawFolder
    from sage_dialog.lineage.masking import masked
    from sage_dialog.lineage.records import Read

    if isinstance(dataset, AtomicMixin) and (version := dataset.resolve_load_version()):
        return Read(version=version, sha256=_sha256_of(name, version, dataset, runs, digests))
    if isinstance(dataset, RawFolder):
        return Read(files=_raw_files(dataset, digests))
    if isinstance(dataset, FactoryDataset):
        return Read(made=dict(dataset.describe_input().definition or {}))
    if isinstance(dataset, PreviousTables):
        return Read(made=masked(dataset._describe()))  # a folder may be a URL with a login
    return Read()


def written_of(dataset: AbstractDataset | None, node: str, digests: Digests) -> Written | None:
    """What was just saved; None of what is not kept."""
    from sage_dialog.datasets.atomic import AtomicMixin
    from sage_dialog.datasets.raw_folder import RawFolder
    from sage_dialog.lineage.content import of_files
    from sage_dialog.lineage.records import Written, now

    if isinstance(dataset, AtomicMixin) and (version := dataset.resolve_save_version()):
        content = dataset.content(version)
        return Written(version=version, node=node, at=now(), **content._asdict())
    if isinstance(dataset, RawFolder):
        files = _raw_files(dataset, digests)
        return Written(version=None, node=node, at=now(), **of_files(files)._asdict(), files=files)
    return None


def _sha256_of(name: str, version: str, dataset: Any, runs: RunFolder, digests: Digests) -> str:
    """From the record of the run that wrote it, where the file is still as that run left it."""
    from sage_dialog.lineage.content import state_of

    path, local = Path(dataset._get_versioned_path(version)), dataset._protocol == "file"
    written = record.writes.get(name) if (record := runs.find(version)) else None
    if written and (not local or state_of(path) == (written.bytes, written.modified_ns)):
        return written.sha256
    return str((digests.content(path) if local else dataset.content(version)).sha256)


def _raw_files(dataset: Any, digests: Digests) -> dict[str, Any]:
    from sage_dialog.lineage.records import File

    paths = dataset.load()
    if dataset._local:
        return digests.files(paths)
    return {
        name: File(bytes=path.stat().st_size, modified_ns=int(path.stat().st_mtime * 1e9), sha256=None)
        for name, path in paths.items()
    }


def _of_earlier(read: Read, opened: Mapping[str, str]) -> Read:
    return read.model_copy(update={"made": {**(read.made or {}), "tables": dict(sorted(opened.items()))}})


def _credentials(loader: Any) -> dict[str, Any]:
    try:
        return dict(loader["credentials"])
    except Exception:  # none are configured, or a variable that holds one is not set; roles say so where they need it
        return {}


def _first_line(error: Exception) -> str:
    said = str(error).strip() or type(error).__name__
    return f"{type(error).__name__}: {said.splitlines()[0]}"


def _is_parameter(name: str) -> bool:
    return name == "parameters" or name.startswith("params:")
