"""Plan a replay from a run record: nodes, pinned input versions, parameters, and what has changed since."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_dialog.lineage.code import digest
from sage_dialog.lineage.content import changed_files
from sage_dialog.lineage.formatting import format_names, format_value, tree_differences
from sage_dialog.lineage.masking import MASK
from sage_dialog.lineage.records import FORMAT, Git, InputRecord, NodeRecord, RunRecord
from sage_dialog.lineage.staleness import NodeSpec, ProjectState, format_code_change, is_covered


class CannotReplayError(ValueError):
    """A run cannot be replayed: something that it needs is gone or altered."""


@dataclass(frozen=True)
class ReplayPlan:
    """A replay.

    Attributes:
        nodes: the nodes as they are registered now.
        outputs: the outputs to compare.
        pins: the versions of inputs.
        changed_data: inputs without versions whose content has changed; with them the replay is a different run.
        changes: other changes since the run.
    """

    nodes: tuple[NodeSpec, ...]
    outputs: tuple[str, ...]
    pins: Mapping[str, str]
    changed_data: tuple[str, ...]
    changes: tuple[str, ...]


def plan_replay(record: RunRecord, project: ProjectState, only: Sequence[str] = ()) -> ReplayPlan:
    """Return the plan to replay a run, or `only` some nodes or namespaces of it.

    Raises:
        CannotReplayError: if a node or the version of an input no longer exists, or a version was altered.
    """
    recorded = _select_nodes(record, only)
    outputs = tuple(output for node in recorded.values() for output in node.outputs if output in record.writes)
    if not outputs:
        raise CannotReplayError(f"run {record.run} has no outputs to compare a replay with.")
    if missing := sorted(set(record.selection.pipelines) - set(project.registered)):
        raise CannotReplayError(f"the pipeline {', '.join(missing)} is no longer registered.{_revision(record.git)}")
    registered = [node for pipeline in record.selection.pipelines for node in project.registered[pipeline]]
    specs = {
        name: next((spec for spec in registered if set(node.outputs) <= set(spec.outputs)), None)
        for name, node in recorded.items()
    }
    if gone := [name for name, spec in specs.items() if spec is None]:
        raise CannotReplayError(f"no node makes the outputs of {format_names(gone)} any more.{_revision(record.git)}")
    nodes = tuple(spec for spec in specs.values() if spec)
    pins: dict[str, str] = {}
    changed_data: list[str] = []
    changes: list[str] = []
    for name in sorted({one for node in nodes for one in node.inputs}.difference(*(node.outputs for node in nodes))):
        read = record.reads.get(name) or record.output_as_input(name)
        if read is None:
            changes.append(f"{name} is a new input")
            continue
        if read.version:
            pins[name] = _pin(name, read, project)
            continue
        if read.files is not None and (other := changed_files(read.files, project.read(name).files)):
            changed_data.append(f"{name} has changed: {format_names(other)}")
        if read.definition is not None:
            changes += _definition_changes(name, read.definition, project)
    if record.format != FORMAT:
        changes.append("code: recorded in an earlier form, and not compared")
    for name, node in zip(recorded, nodes, strict=True) if record.format == FORMAT else ():
        code = project.code(node)
        if digest(code) != recorded[name].code:
            changes.append(f"{name}: {format_code_change(code, record.code)}")
    return ReplayPlan(nodes, outputs, pins, tuple(changed_data), tuple(changes))


def environment_changes(
    record: RunRecord, git: Git | None, python: str, platform: str, packages: Mapping[str, str]
) -> list[str]:
    """Return the differences between the environment of a run and the given one."""
    changes = []
    if git and record.git and git.revision != record.git.revision:
        changes.append(f"git revision: was {record.git.revision[:10]}, is {git.revision[:10]}")
    for when, state in (("then", record.git), ("now", git)):
        if state and state.changed:
            changes.append(f"files not committed {when}: {format_names(state.changed)}")
    before = {"Python": record.python, "machine": record.platform, **record.packages}
    after = {"Python": python, "machine": platform, **packages}
    differences = tree_differences(before, after)
    return changes + [f"{name}: was {format_value(was)}, is {format_value(now)}" for name, was, now in differences]


def parameter_overrides(
    recorded: Mapping[str, Any], current: Mapping[str, Any], unaffecting: Collection[str] = (), above: str = ""
) -> dict[str, Any]:
    """Return the parameters to override so that the current ones become the recorded ones.

    Masked secrets and the parameters `unaffecting` stay as they are. A new key cannot be removed this way. `above` is
    the dotted name of both trees, with a dot at its end.
    """
    overrides: dict[str, Any] = {}
    for key, value in recorded.items():
        now = current.get(key)
        if is_covered(above + key, unaffecting):
            continue
        if isinstance(value, Mapping) and isinstance(now, Mapping):
            if inner := parameter_overrides(value, now, unaffecting, f"{above}{key}."):
                overrides[key] = inner
        elif (key not in current or value != now) and not str(value).startswith(MASK):
            overrides[key] = _escape(value)
    return overrides


def merge_trees(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return two trees as one; the second overrides the first."""
    both = dict(under)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = merge_trees(both[key], value) if nested else value
    return both


def _escape(value: Any) -> Any:
    """Return a value in which no text is an OmegaConf interpolation."""
    if isinstance(value, Mapping):
        return {key: _escape(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_escape(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _select_nodes(record: RunRecord, only: Sequence[str]) -> dict[str, NodeRecord]:
    """Return the nodes to replay; for a run that failed, or left out existing outputs, those that wrote something."""
    chosen = {name: [node for node in record.nodes if f".{name}." in f".{node}."] for name in only}
    if unknown := [name for name, nodes in chosen.items() if not nodes]:
        raise CannotReplayError(
            f"run {record.run} has no node {', '.join(unknown)}; it has {', '.join(sorted(record.nodes))}."
        )
    if only:
        names = {node for nodes in chosen.values() for node in nodes}
    elif record.outcome == "done" and not record.selection.only_missing_outputs:
        names = set(record.nodes)
    else:
        names = {name for name, node in record.nodes.items() if not record.writes.keys().isdisjoint(node.outputs)}
    return {name: node for name, node in record.nodes.items() if name in names}


def _definition_changes(name: str, recorded: Mapping[str, Any], project: ProjectState) -> Iterator[str]:
    if current := project.read(name).definition:
        for key, was, now in tree_differences(recorded, current):
            yield f"{name}: {key} was {format_value(was)}, is {format_value(now)}"
    for table, version in recorded.get("tables", {}).items():  # of previous runs
        if (latest := project.latest(table)) != version:
            yield f"{name}: {table} was {version}, is {format_value(latest)}"


def _pin(name: str, read: InputRecord, project: ProjectState) -> str:
    """Return the version that was read, or the latest one if it has the same content."""
    version, problem = str(read.version), ""
    for candidate in filter(None, (version, project.latest(name))):
        try:
            sha256 = project.content(name, candidate).sha256
        except (OSError, ValueError):
            problem = problem or "no longer exists: it was pruned or moved away"
            continue
        if sha256 == read.sha256 or (read.sha256 is None and candidate == version):
            return candidate
        problem = problem or "was altered since"
    raise CannotReplayError(f"version {version} of {name}, which it read, {problem}.")


def _revision(git: Git | None) -> str:
    return f" The run was at git revision {git.revision[:10]}." if git else ""
