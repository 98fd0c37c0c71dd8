"""What it takes to run again what a record tells of: nodes, inputs, parameters, and what is not as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage_dialog.lineage.code import digest
from sage_dialog.lineage.staleness import DECIDE_NOTHING, NodeNow, Present, differences, listed, other_files, shown

if TYPE_CHECKING:  # pydantic comes in with the records
    from sage_dialog.lineage.records import Git, NodeRecord, Read, RunRecord

_SECRET = "(secret "  # how a record begins what it does not tell


class CannotReplayError(ValueError):
    """What it would take is not there; the message says what."""


@dataclass(frozen=True)
class Again:
    """A run to repeat: nodes as they are now, versions to pin, and in words all that is not as it was.

    `changed` are inputs without versions that hold something else now: with them the replay is another run.
    """

    nodes: tuple[NodeNow, ...]
    outputs: tuple[str, ...]
    pins: Mapping[str, str]
    changed: tuple[str, ...]
    named: tuple[str, ...]


def again(record: RunRecord, present: Present, only: Sequence[str] = ()) -> Again:
    """What of a run can be repeated, `only` these nodes of it where any are given, or all in these namespaces.

    Raises:
        CannotReplayError: if a node or the version of an input is not there any more, or was altered.
    """
    then = _repeated(record, only)
    outputs = tuple(output for node in then.values() for output in node.outputs if output in record.writes)
    if not outputs:
        raise CannotReplayError(f"run {record.run} has made nothing that a replay could be compared with.")
    if unregistered := sorted(set(record.selection.pipelines) - set(present.flows)):
        raise CannotReplayError(f"there is no pipeline {', '.join(unregistered)} any more.{_at(record.git)}")
    registered = [node for flow in record.selection.pipelines for node in present.flows[flow]]
    now = {
        name: next((other for other in registered if set(node.outputs) <= set(other.outputs)), None)
        for name, node in then.items()
    }
    if gone := [name for name, node in now.items() if node is None]:
        raise CannotReplayError(f"no node makes what {listed(gone)} made.{_at(record.git)}")
    nodes = tuple(node for node in now.values() if node)
    pins, changed, named = {}, [], []
    for name in sorted(
        {one for node in nodes for one in node.inputs} - {one for node in nodes for one in node.outputs}
    ):
        read = record.reads.get(name) or _made_by_itself(record, name)
        if read is None:
            named.append(f"{name} was not read then, and is now")
        elif read.version:
            pins[name] = _pin(name, read, present)
        elif read.files is not None:
            if other := other_files(read.files, present.read(name).files):
                changed.append(f"{name} has changed: {listed(other)}")
        elif read.made is not None:
            named += _made_otherwise(name, read.made, present)
    for name, node in zip(then, nodes, strict=True):
        code = present.code(node)
        if digest(code) != then[name].code:
            other = [one for one, value in code.items() if record.code.get(one) != value]
            named.append(f"code of {name}: {listed(other) or 'it uses less than it did'}")
    return Again(nodes, outputs, pins, tuple(changed), tuple(named))


def surroundings(
    record: RunRecord, git: Git | None, python: str, platform: str, packages: Mapping[str, str]
) -> list[str]:
    """In words, what around the project is not as the run had it."""
    told = []
    if git and record.git and git.revision != record.git.revision:
        told.append(f"git revision: was {record.git.revision[:10]}, is {git.revision[:10]}")
    for was, known in ((True, record.git), (False, git)):
        if known and known.changed:
            told.append(f"files not committed {'then' if was else 'now'}: {listed(known.changed)}")
    for what, before, now in (("Python", record.python, python), ("machine", record.platform, platform)):
        if before != now:
            told.append(f"{what}: was {before}, is {now}")
    return told + [
        f"{key}: was {shown(was)}, is {shown(now)}" for key, was, now in differences(record.packages, packages)
    ]


def overrides(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What to give in place of configured parameters so that they are those of `then`.

    What a run may spend, and where it works, stay as they are; a key that is new cannot be taken away by giving others.
    """
    return {key: value for key, value in _overrides(then, now).items() if key not in DECIDE_NOTHING}


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both have a value, the second's."""
    both = {
        key: merged(under[key], value) if isinstance(value, Mapping) and isinstance(under.get(key), Mapping) else value
        for key, value in over.items()
    }
    return {**under, **both}


def _overrides(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key, value in then.items():
        current = now.get(key)
        if isinstance(value, Mapping) and isinstance(current, Mapping):
            if inner := _overrides(value, current):
                given[key] = inner
        elif (key not in now or value != current) and not str(value).startswith(_SECRET):
            given[key] = _literally(value)
    return given


def _literally(value: Any) -> Any:
    """Texts so that nothing in them is taken for a reference to another parameter."""
    if isinstance(value, Mapping):
        return {key: _literally(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_literally(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _repeated(record: RunRecord, only: Sequence[str]) -> dict[str, NodeRecord]:
    """The nodes of a run that were run: of one that did not end, or left out what was there, those that wrote."""
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


def _made_by_itself(record: RunRecord, name: str) -> Read | None:
    from sage_dialog.lineage.records import Read

    written = record.writes.get(name)
    return Read(version=written.version, sha256=written.sha256, files=written.files) if written else None


def _made_otherwise(name: str, was: Mapping[str, Any], present: Present) -> Iterator[str]:
    if now := present.read(name).made:
        for key, one, other in differences(was, now):
            yield f"{name}: {key} was {shown(one)}, is {shown(other)}"
    for table, version in was.get("tables", {}).items():  # of earlier runs
        if (latest := present.latest(table)) != version:
            yield f"{name}: {table} was {version}, is {shown(latest)}"


def _pin(name: str, read: Read, present: Present) -> str:
    version = str(read.version)
    try:
        content = present.content(name, version)
    except (OSError, ValueError):
        raise CannotReplayError(
            f"version {version} of {name}, which it read, is not there any more: pruned, or moved away."
        ) from None
    if read.sha256 and content.sha256 != read.sha256:
        raise CannotReplayError(f"version {version} of {name}, which it read, has been altered since.")
    return version


def _at(git: Git | None) -> str:
    return f" It was run at git revision {git.revision[:10]}." if git else ""
