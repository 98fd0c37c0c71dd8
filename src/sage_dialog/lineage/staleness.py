"""Which outputs are stale: what they were made from or by has changed since.

The record of the run that made the latest version of an output has the inputs, parameters and code of its node. If one
of them is different now, the output is stale, and so is everything made from it. Inputs are compared by content: one
that was made again with equal content is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, Protocol

from sage_dialog.lineage.code import digest
from sage_dialog.lineage.content import Content, changed_files
from sage_dialog.lineage.formatting import format_names, format_value, tree_differences
from sage_dialog.lineage.records import FORMAT, InputRecord, NodeRecord, RunRecord, version_sha256
from sage_dialog.lineage.run_folder import RunFolder

State = Literal["fresh", "stale", "missing", "no record", "being made"]
Kind = Literal["input", "parameter", "code", "altered", "together", "upstream"]

_RUNS_CHECKED = 20  # latest records that may be of running runs which have not written anything yet


@dataclass(frozen=True)
class NodeSpec:
    """A node as it is registered now; inputs are datasets only.

    Attributes:
        arguments: the arguments of its function, each with the name of its dataset or parameter.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]
    arguments: tuple[tuple[str, str], ...] = ()


class ProjectState(Protocol):
    """The current state of a project.

    Attributes:
        registered: the nodes of the registered pipelines.
        recorded_parameters: the parameters as a run records them, with secrets masked.
        unaffecting: dotted names of parameters that, with all below them, change no output, such as a scratch folder.
    """

    unaffecting: Collection[str]

    @property
    def registered(self) -> Mapping[str, Sequence[NodeSpec]]: ...

    @property
    def recorded_parameters(self) -> Mapping[str, Any]: ...

    def is_versioned(self, dataset: str) -> bool: ...

    def latest(self, dataset: str) -> str | None:
        """Return the latest complete version."""

    def state(self, dataset: str, version: str) -> tuple[int, int] | None:
        """Return bytes and time of change of a version; None where that takes reading it."""

    def content(self, dataset: str, version: str) -> Content: ...

    def read(self, dataset: str) -> InputRecord:
        """Return an input without versions as a run would record it; an empty record if it never makes anything stale.

        Empty for tables of previous runs: a mix may read trajectories of policies that were trained on it, so each run
        would make its own outputs stale.
        """

    def code(self, node: NodeSpec) -> Mapping[str, str]:
        """Return the digests of all definitions that a node can reach, those of its roles included."""


@dataclass(frozen=True)
class Reason:
    """A reason why an output is stale."""

    kind: Kind
    what: str
    words: str


@dataclass(frozen=True)
class OutputStatus:
    """The status of an output at its latest version.

    Attributes:
        run: the run that made it.
        node: the node of that run.
        spec: the node that would make it now.
    """

    dataset: str
    state: State
    version: str | None = None
    run: str | None = None
    node: str | None = None
    reasons: tuple[Reason, ...] = ()
    note: str | None = None
    spec: NodeSpec | None = field(default=None, repr=False)


def output_statuses(project: ProjectState, runs: RunFolder) -> list[OutputStatus]:
    """Return the status of every output of the registered pipelines, inputs before what is made from them.

    Opens only the records of current versions, and the latest few in search of running runs.
    """
    statuses = {status.dataset: status for status in _RecordCheck(project, runs).statuses()}
    stale = {name for name, status in statuses.items() if status.state == "stale"}
    fresh = {name for name, status in statuses.items() if status.state == "fresh"}
    while more := {name for name in fresh - stale if any(_inherited_reasons(statuses[name], stale))}:
        stale |= more  # along inputs, and across the outputs of a node
    for name in stale:
        status = statuses[name]
        inherited = (one for one in _inherited_reasons(status, stale) if name in fresh or one.kind == "upstream")
        statuses[name] = replace(status, state="stale", reasons=(*status.reasons, *inherited))
    return [statuses[name] for name in _sort_by_inputs(statuses)]


def certainly_stale(statuses: Sequence[OutputStatus], made: Collection[NodeSpec] = ()) -> list[OutputStatus]:
    """Return the stale outputs whose nodes have to run whatever other nodes give.

    The others are stale only because of stale inputs, and are fresh again if those come out the same.

    Args:
        statuses: inputs before what is made from them.
        made: nodes that have run meanwhile; they are not run twice.
    """
    own = {one.spec for one in statuses if one.spec and any(reason.kind != "upstream" for reason in one.reasons)}
    waiting: set[str] = set()
    found = []
    for one in statuses:
        if one.state == "stale" and one.spec and one.spec not in made:
            if one.spec in own and waiting.isdisjoint(one.spec.inputs):
                found.append(one)
            else:
                waiting.add(one.dataset)
    return found


def plan_refresh(
    statuses: Iterable[OutputStatus], registered: Mapping[str, Sequence[NodeSpec]]
) -> list[tuple[str, list[str]]]:
    """Return the runs that make stale outputs fresh and nothing else: a pipeline and names of its nodes, in order.

    One run where one pipeline has all these nodes.
    """
    runs: list[tuple[set[str], list[NodeSpec]]] = []
    for status in statuses:
        node = status.spec
        if status.state != "stale" or node is None or any(node in nodes for _, nodes in runs):
            continue
        having = {name for name, nodes in registered.items() if node in nodes}
        if runs and (shared := runs[-1][0] & having):
            runs[-1] = (shared, [*runs[-1][1], node])
        else:
            runs.append((having, [node]))
    return [
        (min(sorted(names), key=lambda name: len(registered[name])), [node.name for node in nodes])
        for names, nodes in runs
    ]


class _RecordCheck:
    """The outputs of a project, each compared with the record of the run that made it."""

    def __init__(self, project: ProjectState, runs: RunFolder) -> None:
        self._project = project
        self._runs = runs
        self._record = cache(runs.find)
        self._latest = cache(project.latest)
        self._input = cache(project.read)
        self._code = cache(project.code)
        self._sha256 = cache(self._version_sha256)
        self._makers: dict[str, list[tuple[str, NodeSpec]]] = {}
        for pipeline, nodes in sorted(project.registered.items(), key=lambda item: len(item[1])):
            for node in nodes:
                for output in node.outputs:
                    self._makers.setdefault(output, []).append((pipeline, node))
        self._running = dict(self._outputs_of_running_runs())

    def statuses(self) -> Iterator[OutputStatus]:
        for dataset in self._makers:
            if self._project.is_versioned(dataset):
                yield self._status(dataset, self._latest(dataset))
            elif status := self._raw_data_status(dataset):
                yield status

    def _status(self, dataset: str, version: str | None) -> OutputStatus:
        running = self._running.get(dataset)
        if running and running != version:
            return OutputStatus(dataset, "being made", version, running, note=f"by run {running}, which is running")
        spec = self._makers[dataset][0][1]
        if version is None:
            return OutputStatus(dataset, "missing", spec=spec)
        record = self._record(version)
        if record is None:
            return OutputStatus(dataset, "no record", version, spec=spec)
        name = record.node_of(dataset)
        if name is None:
            return OutputStatus(dataset, "no record", version, note=f"run {version} did not make it", spec=spec)
        spec = self._current_spec(dataset, record, name)
        versioned = [
            one
            for one in record.nodes[name].inputs
            if one in record.reads and record.reads[one].version and self._project.is_versioned(one)
        ]
        gone = [one for one in versioned if self._latest(one) is None]
        notes = [f"made from {', '.join(gone)}, which no longer exists"] if gone else []
        if record.format != FORMAT:
            notes.append("its code was recorded in an earlier form, and is not compared")
        note = "; ".join(notes) or None
        reasons = tuple(self._reasons(dataset, version, record, record.nodes[name], spec))
        return OutputStatus(dataset, "stale" if reasons else "fresh", version, version, name, reasons, note, spec)

    def _raw_data_status(self, dataset: str) -> OutputStatus | None:
        """Return the status of a generated raw folder, by the record of the versioned outputs of the same node.

        None if its files were replaced: no node makes such data, so it is not an output.
        """
        spec = self._makers[dataset][0][1]
        for sibling in spec.outputs:
            version = self._latest(sibling) if self._project.is_versioned(sibling) else None
            record = self._record(version) if version else None
            if version and record and (written := record.writes.get(dataset)):
                if changed_files(written.files, self._input(dataset).files):
                    return None
                return replace(self._status(dataset, version), version=None)
        return OutputStatus(dataset, "being made", spec=spec) if dataset in self._running else None

    def _reasons(
        self, dataset: str, version: str, record: RunRecord, recorded: NodeRecord, spec: NodeSpec
    ) -> Iterator[Reason]:
        for one in recorded.inputs:
            if one in spec.inputs and (words := self._input_change(one, record)):
                yield Reason("input", one, words)
        for one in sorted(set(spec.inputs) ^ set(recorded.inputs)):
            words = f"{one} is a new input" if one in spec.inputs else f"{one} is no longer an input"
            yield Reason("input", one, words)
        yield from _swapped(recorded, spec)
        for name in recorded.parameters:
            before, after = _lookup(record.parameters, name), _lookup(self._project.recorded_parameters, name)
            for key, was, now in tree_differences(before, after, name):
                if not is_covered(key, self._project.unaffecting):
                    yield Reason("parameter", key, f"{key} was {format_value(was)}, is {format_value(now)}")
        code = self._code(spec) if record.format == FORMAT else {}
        if code and digest(code) != recorded.code:
            yield Reason("code", spec.name, format_code_change(code, record.code))
        written = record.writes.get(dataset)
        if written and written.files is None and self._sha256(dataset, version) != written.sha256:
            yield Reason("altered", dataset, "it was altered after it was written")

    def _input_change(self, name: str, record: RunRecord) -> str | None:
        """Return how an input differs in content from the one that was read; None if it is the same, or gone."""
        read = record.reads.get(name) or record.output_as_input(name)
        if self._project.is_versioned(name):
            return self._version_change(name, read or InputRecord(version=record.run))
        now = self._input(name)
        files_known = read is not None and read.files is not None and now.files is not None
        if read and files_known and (changed := changed_files(read.files, now.files)):
            return f"{name} has changed: {format_names(changed)}"
        if read and read.definition is not None and now.definition is not None:
            before, after = (_without_places(one, files_known) for one in (read.definition, now.definition))
            changes = tree_differences(before, after)
            parts = [f"{key} was {format_value(was)}, is {format_value(new)}" for key, was, new in changes]
            return f"{name} has changed: {format_names(parts, '; ')}" if parts else None
        return None

    def _version_change(self, name: str, read: InputRecord) -> str | None:
        """Return how the latest version differs in content; in version where the content that was read is unknown."""
        latest = self._latest(name)
        if latest is None or read.version is None:
            return None
        if (self._sha256(name, latest) == read.sha256) if read.sha256 else latest == read.version:
            return None
        if latest == read.version:
            return f"{name} was altered after it was read"
        return f"{name} is of {latest} now, and was of {read.version}"

    def _version_sha256(self, name: str, version: str) -> str:
        state, project = self._project.state(name, version), self._project
        return version_sha256(name, self._record(version), state, lambda: project.content(name, version))

    def _current_spec(self, dataset: str, record: RunRecord, name: str) -> NodeSpec:
        """Return the node that would make it now: in the pipelines of its run, else in the smallest that has one."""
        makers = self._makers[dataset]
        of_run = [maker for maker in makers if maker[0] in record.selection.pipelines]
        inputs = set(record.nodes[name].inputs)
        same_inputs = [maker for maker in of_run or makers if set(maker[1].inputs) == inputs]
        return (same_inputs or of_run or makers)[0][1]

    def _outputs_of_running_runs(self) -> Iterator[tuple[str, str]]:
        """Yield datasets that a running run will write, with its id."""
        versioned = filter(self._project.is_versioned, self._makers)
        latest = {version for name in versioned if (version := self._latest(name))}
        for run in sorted({*self._runs.names()[:_RUNS_CHECKED], *latest}):
            record = self._record(run)
            if record and not record.replay_of and record.status == "running":
                for node in record.nodes.values():
                    yield from ((output, run) for output in node.outputs if output not in record.writes)


def _swapped(recorded: NodeRecord, spec: NodeSpec) -> Iterator[Reason]:
    """Yield a reason for each argument that takes another of the node's inputs, and for outputs in another order."""
    known = {*recorded.arguments.values()} & {name for _, name in spec.arguments}
    for argument, name in spec.arguments:
        before = recorded.arguments.get(argument, name)
        if before != name and {before, name} <= known:
            yield Reason("input", name, f"the argument {argument} was {before}, is {name}")
    if recorded.arguments and set(spec.outputs) == set(recorded.outputs) and spec.outputs != recorded.outputs:
        order = ", ".join(recorded.outputs)
        yield Reason("together", spec.name, f"its node gives {', '.join(spec.outputs)} now, and gave {order}")


def _without_places(definition: Mapping[str, Any], files_known: bool) -> dict[str, Any]:
    """Return a definition without the hosts of a server whose model is named, and the folder of known files."""
    kept = {
        name: _without_places(one, files_known) if isinstance(one, Mapping) else one for name, one in definition.items()
    }
    if kept.get("model"):
        kept.pop("hosts", None)
    if files_known:
        kept.pop("folder", None)
    return kept


def _inherited_reasons(status: OutputStatus, stale: Collection[str]) -> Iterator[Reason]:
    """Yield a reason for each stale input, or if there is none, for each stale output of the same node."""
    if status.spec is None:
        return
    upstream = [name for name in status.spec.inputs if name in stale]
    for name in upstream:
        yield Reason("upstream", name, f"{name} is stale")
    for name in status.spec.outputs if not upstream else ():
        if name != status.dataset and name in stale:
            yield Reason("together", name, f"it is made together with {name}, which is stale")


def _sort_by_inputs(statuses: Mapping[str, OutputStatus]) -> list[str]:
    """Return datasets after those that they are made from; the outputs of a node stay together."""
    order: dict[str, None] = {}

    def place(dataset: str, below: frozenset[str]) -> None:
        if dataset in order or dataset not in statuses or dataset in below:
            return
        spec = statuses[dataset].spec
        for one in spec.inputs if spec else ():
            place(one, below | {dataset})
        for one in (*(spec.outputs if spec else ()), dataset):
            if one in statuses:
                order.setdefault(one)

    for dataset in statuses:
        place(dataset, frozenset())
    return list(order)


def is_covered(key: str, names: Collection[str]) -> bool:
    """Return whether a dotted key is one of the names, or below one."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def _lookup(tree: Mapping[str, Any], dotted: str) -> Any:
    value: Any = tree
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def format_code_change(code: Mapping[str, str], recorded: Mapping[str, str]) -> str:
    """Return which definitions of a node's code have changed; new ones only where no known one has."""
    changed = [name for name, value in code.items() if recorded.get(name) != value]
    if not changed:
        return "its code uses fewer definitions"
    known = [name for name in changed if name in recorded]
    return f"code has changed: {format_names(known or changed)}"
