"""The project as commands use it: configuration, catalog, policies, engine, and its state compared with run records."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sage_dialog.hooks.inputs import explain_missing

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata
    from kedro.io import CatalogProtocol
    from kedro.pipeline.node import Node

    from sage_dialog.config import Llm, Parameters
    from sage_dialog.core.policies import Policy
    from sage_dialog.datasets.atomic import AtomicMixin
    from sage_dialog.inference.engine import Engine
    from sage_dialog.lineage.content import Content, DigestCache
    from sage_dialog.lineage.records import InputRecord, RunFolder
    from sage_dialog.lineage.staleness import NodeSpec
    from sage_dialog.llm.budget import Budget


class CommandError(click.ClickException):
    """A command that could not do its work, for commands whose exit code 1 is an answer."""

    exit_code = 2


@contextlib.contextmanager
def command_errors() -> Iterator[None]:
    """Turn errors with a message for users into `CommandError`."""
    from kedro.config import MissingConfigException
    from kedro.io import DatasetError
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from sage_dialog.lineage.records import NoSuchRunError

    try:
        yield
    except CommandError:
        raise
    except click.ClickException as error:
        raise CommandError(error.format_message()) from None
    except (DatasetError, NoSuchRunError, MissingConfigException, OmegaConfBaseException, YAMLError, OSError) as error:
        raise CommandError(str(error)) from None
    except click.Abort:
        raise CommandError("Nothing was run.") from None


class Project:
    """The project in one environment, and its current state for `lineage.staleness` and `lineage.replay_plan`.

    Opening it reads no weights and imports no torch.

    Args:
        params: nested parameters that override configured ones, as `--params` does.

    Raises:
        hooks.RunRefused: if a parameter is invalid.
    """

    unaffecting: Collection[str] = frozenset({"scratch", "llm", "mix_versions"})
    """Parameters that set where work is stored, what may be spent and what is allowed, and change no output."""

    def __init__(self, metadata: ProjectMetadata, env: str | None, params: Mapping[str, Any] | None = None) -> None:
        from kedro.framework.session import KedroSession

        self.path = Path(metadata.project_path)
        session = KedroSession.create(
            project_path=self.path, env=env, runtime_params=dict(params or {}), save_on_close=False
        )
        self._context = session.load_context()
        self.catalog: CatalogProtocol[Any, Any] = self._context.catalog
        self._nodes: dict[NodeSpec, Node] = {}

    @cached_property
    def parameters(self) -> Parameters:
        from sage_dialog.config import Parameters

        return Parameters.model_validate(self._context.params)

    @cached_property
    def data(self) -> Path:
        """The data folder."""
        return self.runs.path.parent

    @cached_property
    def runs(self) -> RunFolder:
        from sage_dialog.hooks.recording import run_folder

        return run_folder(self.path, self._context.config_loader["globals"])

    def policy(self, name: str) -> Policy:
        """Return the latest version of a policy of the catalog.

        Raises:
            click.ClickException: if there is none, with the command that makes it, or if it is damaged.
        """
        from kedro.io import DatasetError

        from sage_dialog.datasets.hub_model import HubBase
        from sage_dialog.datasets.policy import PolicyDirectory
        from sage_dialog.pipeline_registry import POLICIES

        is_policy = isinstance(self.catalog.get(name), PolicyDirectory | HubBase)
        if not is_policy or not self.catalog.exists(name):
            reason = explain_missing(name, self.catalog) if is_policy else "no catalog entry of a policy has this name."
            existing = ", ".join(policy for policy in POLICIES if self.catalog.exists(policy))
            suffix = f" Existing policies: {existing}." if existing else ""
            raise click.ClickException(f"There is no policy {name!r}: {reason}{suffix}")
        try:
            policy: Policy = self.catalog.load(name)
        except DatasetError as error:
            raise click.ClickException(str(error)) from error
        return policy

    def engine(self, base: Policy, policies: Sequence[Policy], seed: int | None = None) -> Engine:
        """Return the configured engine with a base and adapters; `seed` overrides the parameter.

        Raises:
            click.ClickException: if a policy is not an adapter on the base, or the engine is not available.
        """
        from kedro.io import DatasetError

        from sage_dialog.datasets.factory import FactoryDataset

        entry = self.catalog.get("engine")
        if isinstance(entry, FactoryDataset) and entry.uses_server:
            entry.bind_budget(self.llm, self.budget)
        seed = self.parameters.seed if seed is None else seed
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations between libraries
                engine: Engine = self.catalog.load("engine")(base, policies, seed, self.parameters.threads)
        except (DatasetError, ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error
        return engine

    @cached_property
    def llm(self) -> Llm:
        from sage_dialog.config import Llm

        return Llm.model_validate(self.catalog.load("params:llm"))

    @cached_property
    def budget(self) -> Budget:
        """The budget for all requests of this command."""
        from sage_dialog.llm.budget import Budget

        return Budget(self.llm.caps, self.llm.role_caps, self.llm.prices)

    @cached_property
    def recorded_parameters(self) -> Mapping[str, Any]:
        from sage_dialog.hooks.recording import configured_secrets
        from sage_dialog.lineage.masking import mask_secrets

        loader = self._context.config_loader
        tree: Mapping[str, Any] = mask_secrets(loader["parameters"], configured_secrets(loader))
        return tree

    @cached_property
    def registered(self) -> Mapping[str, Sequence[NodeSpec]]:
        from kedro.framework.project import pipelines

        return {name: [self._spec(node) for node in pipeline.nodes] for name, pipeline in pipelines.items()}

    def _spec(self, node: Node) -> NodeSpec:
        from sage_dialog.hooks.recording import is_parameter
        from sage_dialog.lineage.staleness import NodeSpec

        spec = NodeSpec(
            node.name,
            tuple(sorted({name for name in node.inputs if not is_parameter(name)})),
            tuple(node.outputs),
            tuple(sorted({name.removeprefix("params:") for name in node.inputs if is_parameter(name)})),
        )
        self._nodes.setdefault(spec, node)
        return spec

    def stage(self, spec: NodeSpec) -> str:
        """Return the stage of a node: its namespace, or the pipeline package of its function."""
        node = self._nodes[spec]
        package = node.func.__module__.rpartition(".nodes")[0].rpartition(".")[2]
        return str(node.namespace or package).partition(".")[0]

    def versioned(self, dataset: str) -> AtomicMixin | None:
        """Return a versioned catalog entry; None for any other."""
        from sage_dialog.datasets.atomic import AtomicMixin

        entry = self.catalog.get(dataset)
        return entry if isinstance(entry, AtomicMixin) and entry.is_versioned else None

    def is_versioned(self, dataset: str) -> bool:
        return self.versioned(dataset) is not None

    def latest(self, dataset: str) -> str | None:
        from kedro.io.core import VersionNotFoundError

        entry = self.versioned(dataset)
        try:
            return str(entry.resolve_load_version()) if entry else None
        except VersionNotFoundError:
            return None

    def state(self, dataset: str, version: str) -> tuple[int, int] | None:
        from sage_dialog.lineage.content import state_of

        path = self.version_path(dataset, version)
        return state_of(path) if path else None

    def content(self, dataset: str, version: str) -> Content:
        entry = self.versioned(dataset)
        assert entry is not None
        path = self.version_path(dataset, version)
        return self._digests.content(path) if path else entry.content(version)

    def version_path(self, dataset: str, version: str) -> Path | None:
        """Return the local path of a version; None on an object store."""
        entry = self.versioned(dataset)
        folder = entry.versions_folder if entry else None
        return folder / version / folder.name if folder else None

    def read(self, dataset: str) -> InputRecord:
        from kedro.io import DatasetError

        from sage_dialog.datasets.previous_tables import PreviousTables
        from sage_dialog.hooks.recording import record_input
        from sage_dialog.lineage.records import InputRecord

        entry = self.catalog.get(dataset)
        try:
            is_previous = isinstance(entry, PreviousTables)
            return InputRecord() if is_previous else record_input(dataset, entry, self.runs, self._digests)
        except DatasetError:
            return InputRecord()

    def code(self, node: NodeSpec) -> Mapping[str, str]:
        from kedro.pipeline import Pipeline

        from sage_dialog.hooks.recording import record_nodes

        return record_nodes(Pipeline([self._nodes[node]]), self.catalog)[1]

    @cached_property
    def _digests(self) -> DigestCache:
        from sage_dialog.lineage.content import DigestCache

        return DigestCache(self.runs.path / "digests.json")
