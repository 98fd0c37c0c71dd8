"""The project as it is at this moment, held against the records of its runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from kedro.framework.project import pipelines

from sage_dialog.lineage.staleness import NodeNow

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata
    from kedro.io import CatalogProtocol, DataCatalog
    from kedro.pipeline.node import Node

    from sage_dialog.datasets.atomic import AtomicMixin
    from sage_dialog.lineage.content import Content, Digests
    from sage_dialog.lineage.records import Read, RunFolder


class Trouble(click.ClickException):
    """What a command was asked cannot be said or done; scripts tell it from an answer by the exit code."""

    exit_code = 2


@contextlib.contextmanager
def in_trouble() -> Iterator[None]:
    """Whatever refuses, or fails in words for people, ends with exit code 2."""
    from kedro.config import MissingConfigException
    from kedro.io import DatasetError
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from sage_dialog.lineage.records import NoSuchRunError

    try:
        yield
    except Trouble:
        raise
    except click.ClickException as error:
        raise Trouble(error.format_message()) from None
    except (DatasetError, NoSuchRunError, MissingConfigException, OmegaConfBaseException, YAMLError, OSError) as error:
        raise Trouble(str(error)) from None
    except click.Abort:
        raise Trouble("Nothing was run.") from None


class Project:
    """Configuration, catalog and pipelines of one environment: `lineage.staleness.Present`.

    Args:
        given: parameters in the place of configured ones, nested, as of `--params`.

    Raises:
        hooks.RunRefused: if a parameter is not right.
    """

    def __init__(self, metadata: ProjectMetadata, env: str | None, given: Mapping[str, Any] | None = None) -> None:
        from kedro.framework.session import KedroSession

        from sage_dialog.hooks.run_record import runs_of
        from sage_dialog.lineage.masking import masked, of_environment, texts_in

        self.path = Path(metadata.project_path)
        session = KedroSession.create(
            project_path=self.path, env=env, runtime_params=dict(given or {}), save_on_close=False
        )
        context = session.load_context()
        loader = context.config_loader
        self.catalog: CatalogProtocol[Any, Any] = context.catalog
        self.data = self.path / str(loader["globals"].get("data", "data"))
        self.runs: RunFolder = runs_of(self.path, loader["globals"])
        secrets = of_environment()
        with contextlib.suppress(Exception):  # none are configured, or a variable that holds one is not set
            secrets |= set(texts_in(loader["credentials"]))
        self.parameters: Mapping[str, Any] = masked(loader["parameters"], secrets)  # as the recorder has it
        self._nodes: dict[NodeNow, Node] = {}

    @cached_property
    def _digests(self) -> Digests:
        from sage_dialog.lineage.content import Digests

        return Digests(self.runs.path / "digests.json")

    @cached_property
    def flows(self) -> Mapping[str, Sequence[NodeNow]]:
        """See `Present.flows`."""
        return {name: [self._node_now(node) for node in flow.nodes] for name, flow in pipelines.items()}

    def _node_now(self, node: Node) -> NodeNow:
        parameters = {name for name in node.inputs if name == "parameters" or name.startswith("params:")}
        now = NodeNow(
            node.name,
            tuple(sorted(set(node.inputs) - parameters)),
            tuple(node.outputs),
            tuple(sorted(name.removeprefix("params:") for name in parameters)),
        )
        self._nodes.setdefault(now, node)
        return now

    def node(self, now: NodeNow) -> Node:
        """The node itself."""
        return self._nodes[now]

    def stage(self, now: NodeNow) -> str:
        """The stage it belongs to: its namespace, or else the pipeline that its function stands in."""
        node = self._nodes[now]
        return str(node.namespace or node.func.__module__.rpartition(".nodes")[0].rpartition(".")[2]).partition(".")[0]

    def versioned(self, dataset: str) -> AtomicMixin | None:
        """A catalog entry with versions; None of any other."""
        from sage_dialog.datasets.atomic import AtomicMixin

        entry = self.catalog.get(dataset)
        return entry if isinstance(entry, AtomicMixin) and entry._version is not None else None

    def is_versioned(self, dataset: str) -> bool:
        """See `Present.is_versioned`."""
        return self.versioned(dataset) is not None

    def latest(self, dataset: str) -> str | None:
        """See `Present.latest`."""
        from kedro.io.core import VersionNotFoundError

        entry = self.versioned(dataset)
        try:
            return str(entry.resolve_load_version()) if entry else None
        except VersionNotFoundError:
            return None

    def state(self, dataset: str, version: str) -> tuple[int, int] | None:
        """See `Present.state`."""
        from sage_dialog.lineage.content import state_of

        entry = self.versioned(dataset)
        if entry is None or entry._protocol != "file":
            return None
        return state_of(Path(entry._get_versioned_path(version)))

    def content(self, dataset: str, version: str) -> Content:
        """See `Present.content`."""
        entry = self.versioned(dataset)
        assert entry is not None
        if entry._protocol == "file":
            return self._digests.content(Path(entry._get_versioned_path(version)))
        return entry.content(version)

    def read(self, dataset: str) -> Read:
        """See `Present.read`."""
        from kedro.io import DatasetError

        from sage_dialog.datasets.previous_tables import PreviousTables
        from sage_dialog.hooks.run_record import read_of
        from sage_dialog.lineage.records import Read

        entry = self.catalog.get(dataset)
        try:
            return Read() if isinstance(entry, PreviousTables) else read_of(dataset, entry, self.runs, self._digests)
        except DatasetError:  # there is none
            return Read()

    def code(self, node: NodeNow) -> Mapping[str, str]:
        """See `Present.code`."""
        from kedro.pipeline import Pipeline

        from sage_dialog.hooks.run_record import nodes_of

        return nodes_of(Pipeline([self._nodes[node]]), cast("DataCatalog", self.catalog))[1]
