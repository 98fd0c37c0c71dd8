"""The project as commands use it: configuration, catalog, policies, engine, and its state compared with run records."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import click
from kedro.config import MissingConfigException
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import ProjectMetadata
from kedro.io import CatalogProtocol, DatasetError
from kedro.io.core import VersionNotFoundError
from kedro.pipeline.node import Node
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sage_dialog.config import Llm, Parameters
from sage_dialog.config.parameters import UNAFFECTING
from sage_dialog.core.hub_models import BASE
from sage_dialog.core.policies import Policy
from sage_dialog.core.recipe import policy_names
from sage_dialog.datasets.atomic import AtomicMixin
from sage_dialog.datasets.external_policies import ExternalPolicies
from sage_dialog.datasets.factory import FactoryDataset
from sage_dialog.datasets.hub_model import HubBase
from sage_dialog.datasets.policy import PolicyDirectory
from sage_dialog.hooks.errors import RunRefused, RunStopped, format_storage_error, with_environment
from sage_dialog.hooks.inputs import explain_missing
from sage_dialog.hooks.recording import (
    configured_secrets,
    latest_version,
    node_code,
    node_spec,
    record_input,
    run_folder,
)
from sage_dialog.inference.engine import PolicyEngine
from sage_dialog.inference.external_policies import ExternalPolicy
from sage_dialog.lineage.content import Content, DigestCache, state_of
from sage_dialog.lineage.masking import mask_secrets
from sage_dialog.lineage.records import InputRecord
from sage_dialog.lineage.run_folder import NoSuchRunError, RunFolder
from sage_dialog.lineage.staleness import NodeSpec
from sage_dialog.llm.budget import Budget


class CommandError(click.ClickException):
    """A command that could not do its work, for commands whose exit code 1 is an answer."""

    exit_code = 2


@contextlib.contextmanager
def command_errors() -> Iterator[None]:
    """Turn errors with a message for users into `CommandError`."""
    try:
        yield
    except CommandError:
        raise
    except click.ClickException as error:
        raise CommandError(error.format_message()) from None
    except (DatasetError, NoSuchRunError, MissingConfigException, OmegaConfBaseException, YAMLError, OSError) as error:
        raise CommandError(format_storage_error(error) or str(error)) from None
    except click.Abort:
        raise CommandError("Nothing was run.") from None


@contextlib.contextmanager
def click_errors(*errors: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turn these errors into `click.ClickException`."""
    try:
        yield
    except errors as error:
        raise click.ClickException(f"{prefix}{format_storage_error(error) or error}") from error


def run_nodes(
    metadata: ProjectMetadata,
    env: str | None,
    params: Mapping[str, Any],
    *hooks: object,
    conf_source: str | None = None,
    **options: Any,
) -> str:
    """Run a pipeline with the options of `KedroSession.run`, and return the id of the run."""
    with KedroSession.create(
        project_path=metadata.project_path, env=env, runtime_params=dict(params), conf_source=conf_source
    ) as session:
        assert isinstance(session, KedroSession)
        for hook in hooks:
            session._hook_manager.register(hook)
        try:
            session.run(**options)
        except (RunRefused, RunStopped) as error:
            raise type(error)(with_environment(error.message, env)) from error
        except Exception as error:
            if reason := format_storage_error(error):
                raise CommandError(f"The run failed. {reason} Then run the same command again.") from error
            raise CommandError(f"The run failed: {error}\nRun the same command again to go on.") from error
        return str(session.session_id)


class Project:
    """The project in one environment, and its current state for `lineage.staleness` and `lineage.replay_plan`.

    Opening it reads no weights and imports no torch.

    Args:
        params: nested parameters that override configured ones, as `--params` does.
        conf_source: where the configuration is, as `--conf-source` says; None for `conf`.

    Raises:
        hooks.RunRefused: if a parameter is invalid.
    """

    unaffecting: Collection[str] = UNAFFECTING

    def __init__(
        self,
        metadata: ProjectMetadata,
        env: str | None,
        params: Mapping[str, Any] | None = None,
        conf_source: str | None = None,
    ) -> None:
        self.path = Path(metadata.project_path)
        self._env = env
        session = KedroSession.create(
            project_path=self.path,
            env=env,
            runtime_params=dict(params or {}),
            conf_source=conf_source,
            save_on_close=False,
        )
        self._context = session.load_context()
        self.catalog: CatalogProtocol[Any, Any] = self._context.catalog
        self._nodes: dict[NodeSpec, Node] = {}

    @cached_property
    def parameters(self) -> Parameters:
        return Parameters.model_validate(self._context.params)

    @cached_property
    def policies(self) -> tuple[str, ...]:
        """The policies that the recipe makes, whether they exist or not."""
        return policy_names(self.parameters.iterations, self.parameters.reinforced)

    @cached_property
    def data(self) -> Path:
        """The data folder."""
        return self.runs.path.parent

    @cached_property
    def runs(self) -> RunFolder:
        return run_folder(self.path, self._context.config_loader["globals"])

    def policy(self, name: str) -> Policy:
        """Return the latest version of a policy of the catalog.

        Raises:
            click.ClickException: if there is none, with the command that makes it, or if it is damaged.
        """
        is_policy = isinstance(self.catalog.get(name), PolicyDirectory | HubBase)
        if not is_policy or not self.catalog.exists(name):
            reason = self.explain_missing(name) if is_policy else "no catalog entry of a policy has this name."
            existing = ", ".join(policy for policy in self.policies if self.catalog.exists(policy))
            suffix = f" Existing policies: {existing}." if existing else ""
            raise click.ClickException(f"There is no policy {name!r}: {reason}{suffix}")
        return self.load(name)

    def policy_or_external(self, name: str) -> Policy | ExternalPolicy:
        """Return a policy, or one of `external_policies`. Raises click.ClickException if there is none."""
        entry = self.catalog.get("external_policies")
        if isinstance(entry, ExternalPolicies) and name in entry.names():
            return cast(ExternalPolicy, self.load("external_policies")[name])
        return self.policy(name)

    def system_prompt(self, policy: Policy | ExternalPolicy) -> str | None:
        """Return the system message of an agent."""
        own = policy.system_prompt if isinstance(policy, ExternalPolicy) else None
        return (self.parameters.sac_augmentation.system_prompts.get("listener") if own is None else own) or None

    def open_policy(self, policy: Policy | ExternalPolicy, seed: int | None = None) -> tuple[PolicyEngine, Policy]:
        """Return the configured engine with a policy, and the policy.

        Raises:
            click.ClickException: if its base is missing, or the engine is not available.
        """
        if isinstance(policy, Policy):
            base = policy if policy.name == BASE else self.policy(BASE)
            return self.engine(base, [] if policy is base else [policy], seed), policy
        base = policy.base or self.policy(BASE)
        seed = self.parameters.seed if seed is None else seed
        with click_errors(ValueError, OSError):
            return policy.open(lambda *given: self.engine(*given[:3]), base, [], seed, None)

    def explain_missing(self, name: str) -> str:
        """Return what is missing of a catalog entry, and the command that makes it."""
        return self.with_environment(explain_missing(name, self.catalog))

    def with_environment(self, message: str) -> str:
        """Return a message whose commands in backticks name the environment of the project."""
        return with_environment(message, self._env)

    def load(self, name: str) -> Any:
        """Return the data of a catalog entry. Raises click.ClickException if it cannot be loaded."""
        with click_errors(DatasetError):
            return self.catalog.load(name)

    def engine(self, base: Policy, policies: Sequence[Policy], seed: int | None = None) -> PolicyEngine:
        """Return the configured engine with a base and adapters; `seed` overrides the parameter.

        Raises:
            click.ClickException: if a policy is not an adapter on the base, or the engine is not available.
        """
        entry = self.catalog.get("engine")
        if isinstance(entry, FactoryDataset) and entry.uses_server:
            entry.bind_budget(self.llm, self.budget)
        seed = self.parameters.seed if seed is None else seed
        with click_errors(DatasetError, ValueError, OSError):
            return self.catalog.load("engine")(base, policies, seed, self.parameters.threads)

    @cached_property
    def llm(self) -> Llm:
        return Llm.model_validate(self.catalog.load("params:llm"))

    @cached_property
    def budget(self) -> Budget:
        """The budget for all requests of this command."""
        return Budget(self.llm.caps, self.llm.role_caps, self.llm.prices)

    @cached_property
    def recorded_parameters(self) -> Mapping[str, Any]:
        loader = self._context.config_loader
        return dict(mask_secrets(loader["parameters"], configured_secrets(loader)))

    @cached_property
    def registered(self) -> Mapping[str, Sequence[NodeSpec]]:
        specs = {name: [(node_spec(node), node) for node in pipeline.nodes] for name, pipeline in pipelines.items()}
        self._nodes = {spec: node for pairs in reversed(specs.values()) for spec, node in pairs}
        return {name: [spec for spec, _ in pairs] for name, pairs in specs.items()}

    def stage(self, spec: NodeSpec) -> str:
        """Return the stage of a node: its namespace, or the pipeline package of its function."""
        node = self._nodes[spec]
        package = node.func.__module__.rpartition(".nodes")[0].rpartition(".")[2]
        return str(node.namespace or package).partition(".")[0]

    def versioned(self, dataset: str) -> AtomicMixin | None:
        """Return a versioned catalog entry; None for any other."""
        entry = self.catalog.get(dataset)
        return entry if isinstance(entry, AtomicMixin) and entry.is_versioned else None

    def is_versioned(self, dataset: str) -> bool:
        return self.versioned(dataset) is not None

    def latest(self, dataset: str) -> str | None:
        return latest_version(self.catalog.get(dataset))

    def versions(self, dataset: str) -> list[str]:
        """Return the versions of a catalog entry, the latest first; none for an unversioned entry."""
        entry = self.versioned(dataset)
        try:
            return entry.list_versions(full_path=False) if entry else []
        except VersionNotFoundError:
            return []

    def load_version(self, dataset: str, version: str) -> Any:
        """Return the data of a version of a catalog entry. Raises DatasetError if it is damaged."""
        entry = self.versioned(dataset)
        assert entry is not None
        return entry.at_version(version).load()

    def state(self, dataset: str, version: str) -> tuple[int, int] | None:
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
        from sage_dialog.datasets.previous_tables import PreviousTables

        entry = self.catalog.get(dataset)
        try:
            is_previous = isinstance(entry, PreviousTables)
            return InputRecord() if is_previous else record_input(dataset, entry, self.runs, self._digests)
        except DatasetError:
            return InputRecord()

    def code(self, node: NodeSpec) -> Mapping[str, str]:
        return node_code(self._nodes[node], self.catalog)

    @cached_property
    def _digests(self) -> DigestCache:
        return DigestCache(self.runs.path / "digests.json")
