"""The project's policies and its engine, opened for a command."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import click

from sage_dialog.core.hub_models import BASE
from sage_dialog.hooks.inputs import explain_missing

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata
    from kedro.io import CatalogProtocol

    from sage_dialog.config import Llm, Parameters
    from sage_dialog.core.policies import Policy
    from sage_dialog.inference.engine import Engine
    from sage_dialog.llm.budget import Budget


@dataclass(frozen=True)
class Project:
    """What a command finds in the configuration. Opening it reads no weights and imports no torch."""

    catalog: CatalogProtocol
    parameters: Parameters

    @classmethod
    def open(cls, metadata: ProjectMetadata, env: str | None) -> Project:
        """Raises hooks.RunRefused if a parameter is not right."""
        from kedro.framework.session import KedroSession

        from sage_dialog.config import Parameters

        session = KedroSession.create(project_path=metadata.project_path, env=env, save_on_close=False)
        context = session.load_context()
        return cls(context.catalog, Parameters.model_validate(context.params))

    def policy(self, name: str) -> Policy:
        """The latest version of a policy of the catalog.

        Raises:
            click.ClickException: if there is none, saying which command makes it, or if it is damaged.
        """
        from kedro.io import DatasetError

        from sage_dialog.datasets.hub_model import HubBase
        from sage_dialog.datasets.policy import PolicyDirectory

        is_policy = isinstance(self.catalog.get(name), PolicyDirectory | HubBase)
        if not is_policy or not self.catalog.exists(name):
            why = explain_missing(name, self.catalog) if is_policy else "no catalog entry of a policy has this name."
            there = f" Policies that are there: {', '.join(found)}." if (found := self._there()) else ""
            raise click.ClickException(f"There is no policy {name!r}: {why}{there}")
        try:
            policy: Policy = self.catalog.load(name)
        except DatasetError as error:
            raise click.ClickException(str(error)) from error
        return policy

    def engine(self, base: Policy, policies: Sequence[Policy], seed: int | None = None) -> Engine:
        """The configured engine on a base and adapters on it; `seed` takes the place of the parameter of that name.

        Raises:
            click.ClickException: if they do not belong together, or the engine cannot be had.
        """
        from kedro.io import DatasetError

        from sage_dialog.datasets.factory import FactoryDataset

        entry = self.catalog.get("engine")
        if isinstance(entry, FactoryDataset) and entry.uses_server:
            entry.bind_budget(self.llm, self.budget)
        seed = self.parameters.seed if seed is None else seed
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # libraries of one another's deprecations, amid what is shown
                engine: Engine = self.catalog.load("engine")(base, policies, seed, self.parameters.threads)
        except (DatasetError, ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error
        return engine

    @cached_property
    def llm(self) -> Llm:
        """What may be spent on servers, its response cache where the project keeps it."""
        from sage_dialog.config import Llm

        return Llm.model_validate(self.catalog.load("params:llm"))

    @cached_property
    def budget(self) -> Budget:
        """One for all that this command asks servers."""
        from sage_dialog.llm.budget import Budget

        return Budget(self.llm.caps, self.llm.role_caps, self.llm.prices)

    def _there(self) -> list[str]:
        from sage_dialog.pipeline_registry import POLICIES

        return [name for name in POLICIES if self.catalog.exists(name)]


@dataclass(frozen=True)
class Opened:
    """An engine that holds `policies`, which are in the order in which they were named."""

    project: Project
    engine: Engine
    policies: tuple[Policy, ...]


def open_policies(metadata: ProjectMetadata, env: str | None, names: Sequence[str], seed: int | None = None) -> Opened:
    """The named policies of the catalog on the base `sage_0`, and the engine of the environment that holds them.

    Every policy is looked up before the engine loads any weights.

    Raises:
        click.ClickException: if a policy is missing or does not belong to the base, in words for who typed the command.
    """
    project = Project.open(metadata, env)
    policies = tuple(project.policy(name) for name in names)
    return Opened(project, project.engine(project.policy(BASE), policies, seed), policies)
