"""The parts of a run record, from catalog entries, nodes and configuration."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from kedro.framework.project import settings
from kedro.io import CatalogProtocol
from kedro.io.core import VersionNotFoundError
from kedro.pipeline.node import Node

from sage_dialog.datasets.atomic import AtomicMixin
from sage_dialog.datasets.factory import dotted_path
from sage_dialog.datasets.protocol import EntryState, TrackedDataset
from sage_dialog.lineage.code import code_of_callable, code_of_path
from sage_dialog.lineage.content import DigestCache, File, of_files, state_of
from sage_dialog.lineage.masking import environment_secrets, nested_texts
from sage_dialog.lineage.records import InputRecord, OutputRecord, now, version_sha256
from sage_dialog.lineage.run_folder import RunFolder
from sage_dialog.lineage.staleness import NodeSpec

DISTRIBUTION = "sage-dialog"


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


def node_spec(node: Node) -> NodeSpec:
    """Return a node by the names of its datasets and parameters."""
    inputs = set(node.inputs)
    parameters = {name for name in inputs if is_parameter(name)}
    return NodeSpec(
        name=node.name,
        inputs=tuple(sorted(inputs - parameters)),
        outputs=tuple(node.outputs),
        parameters=tuple(sorted(name.removeprefix("params:") for name in parameters)),
        arguments=tuple(_arguments(node)),
    )


def _arguments(node: Node) -> Iterator[tuple[str, str]]:
    """Yield the arguments of a node's function with the names of their datasets and parameters."""
    given = node._inputs
    if inspect.isbuiltin(node.func):  # may have no signature; Kedro does not check it either
        return
    signature = inspect.signature(node.func, follow_wrapped=False)
    positional = () if isinstance(given, dict) else [given] if isinstance(given, str) else given or ()
    bound = signature.bind(*positional, **(given if isinstance(given, dict) else {}))
    for name, value in bound.arguments.items():
        if isinstance(value, str):
            yield name, value
        else:  # of *args or **kwargs
            yield from (
                (f"{name}[{key}]", each)
                for key, each in (value.items() if isinstance(value, dict) else enumerate(value))
            )


def node_code(node: Node, catalog: CatalogProtocol) -> dict[str, str]:
    """Return the digests of all code that a node reaches, that of its roles and of the project's datasets included."""
    code = code_of_callable(node.func)
    spec = node_spec(node)
    packages = {name.partition(".")[0] for name in (__name__, *code)}
    for entry in map(catalog.get, (*spec.inputs, *spec.outputs)):
        if type(entry).__module__.partition(".")[0] in packages:
            code |= code_of_path(dotted_path(type(entry)))
    for entry in map(catalog.get, spec.inputs):
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
        version, path, versioned = state.version, state.path, cast(AtomicMixin, entry)
        sha256 = version_sha256(
            name,
            runs.find(version),
            state_of(path) if path else None,
            lambda: digests.content(path) if path else versioned.content(version),
        )
        return InputRecord(version=version, sha256=sha256)
    definition = None if state.definition is None else dict(state.definition)
    return InputRecord(files=_record_files(state, digests), definition=definition)


def latest_version(entry: object) -> str | None:
    """Return the latest complete version of a catalog entry, also if the entry is pinned to another."""
    try:
        return entry.find_latest_version() if isinstance(entry, AtomicMixin) and entry.is_versioned else None
    except VersionNotFoundError:
        return None


def record_output(entry: object, node: str, digests: DigestCache) -> OutputRecord | None:
    """Return the record of what was just saved; None for entries that keep nothing."""
    state = entry.describe_output() if isinstance(entry, TrackedDataset) else None
    if state and state.version:
        content = cast(AtomicMixin, entry).content(state.version)
        return OutputRecord(version=state.version, node=node, at=now(), **content._asdict())
    if state and (files := _record_files(state, digests)) is not None:
        return OutputRecord(version=None, node=node, at=now(), files=files, **of_files(files)._asdict())
    return None


def _record_files(state: EntryState, digests: DigestCache) -> dict[str, File] | None:
    if state.files is not None:
        return digests.files(state.files)
    if state.remote_files is not None:
        return {
            name: File(bytes=size, modified_ns=time, sha256=None) for name, (size, time) in state.remote_files.items()
        }
    return None
