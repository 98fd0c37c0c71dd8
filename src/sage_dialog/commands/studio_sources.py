"""What the studio gets from the project: policies, tables, and the arena's ballots."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from kedro.io import DatasetError

from sage_dialog.commands.project import Project
from sage_dialog.commands.talking import LoadedPolicy, load_policy, settings_of
from sage_dialog.core.hub_models import BASE
from sage_dialog.core.policies import Policy
from sage_dialog.core.recipe import PREFERENCE
from sage_dialog.core.tables import DataFrame
from sage_dialog.datasets.external_models import ExternalModels
from sage_dialog.datasets.external_policies import ExternalPolicies
from sage_dialog.inference.engine import PolicyEngine

if TYPE_CHECKING:
    from sage_dialog.datasets.human_votes import HumanVotes
    from sage_dialog.studio.app.votes import Rater
    from sage_dialog.studio.chat.policies import TalkPolicies, TalkPolicy
    from sage_dialog.studio.explorer.tables import Tables

SHARED = "adapters of the project"
"""The engine of the base, with all LoRA adapters of the catalog on it."""


@contextlib.contextmanager
def _as_value_error() -> Iterator[None]:
    """Turn an error of the project, which is for people, into one that the library knows."""
    try:
        yield
    except click.ClickException as error:
        raise ValueError(error.format_message()) from error
    except DatasetError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class PolicySource:
    """The policies of the project, those from elsewhere, and one of folders.

    Attributes:
        hold_form: whether the text form of the blocks is held.
        outside: a policy of folders, as of `--base`.
    """

    project: Project
    seed: int
    hold_form: bool
    outside: LoadedPolicy | None

    def policies(self, first: str | None) -> TalkPolicies:
        """Return the policies; the default is `first`, else that of `--base`, else the last one of the recipe."""
        from sage_dialog.studio.chat.policies import TalkPolicies

        names = [self.outside.policy.name] if self.outside else []
        names += [PREFERENCE] if self.project.catalog.exists(PREFERENCE) else []
        names += [name for name in reversed(self.project.policies) if self.project.catalog.exists(name)]
        names += [*self._names("external_policies", ExternalPolicies), *self._model_names()]
        if first is not None:
            if first not in names:
                load_policy(self.project, first, None, None, None)  # raises, with the command that makes it
            names.insert(0, first)
        return TalkPolicies(tuple(dict.fromkeys(names)), self._find)

    def _names(self, entry: str, kind: type[ExternalPolicies]) -> list[str]:
        found = self.project.catalog.get(entry)
        return found.names() if isinstance(found, kind) else []

    def _model_names(self) -> list[str]:
        entry = self.project.catalog.get("external_models")
        return list(entry.entries) if isinstance(entry, ExternalModels) else []

    def _find(self, name: str) -> TalkPolicy:
        from sage_dialog.studio.chat.policies import TalkPolicy

        with _as_value_error():
            if name in self._model_names():
                return self._external_model(name)
            is_outside = self.outside is not None and name == self.outside.policy.name
            loaded = self.outside if is_outside else load_policy(self.project, name, None, None, None)
            assert loaded is not None
            settings, _ = settings_of(self.project, loaded, hold_form=self.hold_form)
            engine, open_engine = name, lambda: loaded.open_engine(self.seed)
            if not is_outside and name in self.project.policies and self._is_shared(loaded.policy):
                engine, open_engine = SHARED, self._open_shared
            return TalkPolicy(name, loaded.policy.card.blocks, settings, engine, _guarded(open_engine))

    def _external_model(self, name: str) -> TalkPolicy:
        from sage_dialog.config import SamplingConfig
        from sage_dialog.studio.chat.conversation import Settings
        from sage_dialog.studio.chat.external_models import ChatModelEngine
        from sage_dialog.studio.chat.policies import TalkPolicy

        entry = cast(ExternalModels, self.project.catalog.get("external_models"))
        entry.bind_budget(self.project.llm, self.project.budget)
        model = self.project.load("external_models")[name]
        prompts = self.project.parameters.sac_augmentation.system_prompts
        prompt = prompts.get("listener") if model.system_prompt is None else model.system_prompt
        sampling = SamplingConfig.model_validate(self.project.parameters.evaluation.agent.model_dump())
        settings = Settings(sampling=sampling, system_prompt=prompt or None)
        return TalkPolicy(name, False, settings, name, lambda: ChatModelEngine(model, self.seed), counts_tokens=False)

    def _is_shared(self, policy: Policy) -> bool:
        """Return whether a policy of the catalog is in the shared engine.

        Not one that has all weights (`sft.lora: null`), which needs memory of its own, and not one that was trained on
        an earlier base, which only it may be refused for.
        """
        base = self.project.policy(BASE)
        return policy.card.base_revision == base.card.base_revision and not policy.has_full_weights

    def _open_shared(self) -> PolicyEngine:
        others = [name for name in self.project.policies if name != BASE and self.project.catalog.exists(name)]
        policies = [policy for policy in map(self.project.policy, others) if self._is_shared(policy)]
        return self.project.engine(self.project.policy(BASE), policies, self.seed)


def _guarded(open_engine: Callable[[], PolicyEngine]) -> Callable[[], PolicyEngine]:
    def opened() -> PolicyEngine:
        with _as_value_error():
            return open_engine()

    return opened


def known_of(project: Project) -> Callable[[], Mapping[str, Sequence[str]]]:
    """Return a function that returns the values by field of annotated dialogues, read once."""
    known: dict[str, list[str]] = {}

    def values() -> Mapping[str, Sequence[str]]:
        from sage_dialog.studio.chat.terminal.completion import known_values

        if not known and project.catalog.exists("annotations"):
            with contextlib.suppress(DatasetError):  # such as a table of an earlier version of the project
                known.update(known_values(project.catalog.load("annotations")))
        return known

    return values


def tables_of(project: Project) -> Tables:
    """Return the tables of the explorer."""
    from sage_dialog.studio.explorer.tables import Tables

    def iterations() -> list[int]:
        found = []
        for k in count(1):
            if project.latest(f"candidates_{k}") and project.latest(f"trajectories_{k}"):
                found.append(k)
            elif k >= project.parameters.iterations:
                return found
        raise AssertionError

    def load(name: str, version: str) -> DataFrame:
        with _as_value_error():
            return project.load_version(name, version)

    def missing(name: str) -> str:
        return f"There is no table {name} yet: {project.explain_missing(name)}"

    return Tables(iterations, project.latest, load, missing)


def rater_of(
    project: Project, name: str | None, pairs: Sequence[tuple[str, str]], situations: int, check: bool
) -> Rater:
    """Return who votes.

    Args:
        pairs: policies to compare; empty for those of the parameters.
        situations: number for each pair.
        check: whether pairs without dialogues are an error now, not when the arena is opened.

    Raises:
        click.ClickException: if the rater's name is invalid or another process uses it.
    """
    from sage_dialog.studio.app.votes import Rater
    from sage_dialog.studio.arena.ballots import plan_ballots
    from sage_dialog.studio.arena.session import Session
    from sage_dialog.studio.arena.vote_file import VoteFile, VoteFileError

    folder = cast("HumanVotes", project.catalog.get("human_votes")).folder

    def plan(file: VoteFile) -> Session:
        with _as_value_error():
            rollouts = load_rollouts(project)
            compared = select_pairs(project, pairs, rollouts["policy"].unique().tolist())
            return Session(plan_ballots(rollouts, compared, situations, file.rater, project.parameters.seed), file)

    try:
        rater = Rater(lambda given: VoteFile(folder, given), plan, name)
    except VoteFileError as error:
        raise click.ClickException(str(error)) from error
    if check:
        try:
            rater.session()
        except ValueError as error:
            rater.close()
            raise click.ClickException(str(error)) from error
    return rater


def votes_folder(project: Project) -> Path:
    """Return the folder of people's votes."""
    return cast("HumanVotes", project.catalog.get("human_votes")).folder


def load_rollouts(project: Project) -> DataFrame:
    """Return the latest rollouts of all policies. Raises click.ClickException if there are none."""
    if not project.catalog.exists("rollouts"):
        demo = project.with_environment("`kedro run --pipelines demo` makes everything, from generated data.")
        raise click.ClickException(
            f"There are no dialogues to compare yet. rollouts: {project.explain_missing('rollouts')} {demo}"
        )
    return project.load("rollouts")


def select_pairs(project: Project, named: Sequence[tuple[str, str]], available: Sequence[str]) -> list[tuple[str, str]]:
    """Return the named pairs, or else those of the parameters, each once."""
    pairs: list[Any] = list({frozenset(pair): pair for pair in named or project.parameters.evaluation.pairs}.values())
    for pair in pairs:
        if pair[0] == pair[1]:
            raise click.UsageError(f"--pair: {pair[0]} cannot be compared with itself.")
        for policy in pair:
            if policy in available:
                continue
            if policy in project.policies:
                command = project.with_environment("`kedro run --pipelines evaluation`")
                raise click.ClickException(f"There are no dialogues of {policy} to compare; {command} makes them.")
            near = difflib.get_close_matches(policy, available, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(available)}."
            raise click.UsageError(f"--pair: no policy with dialogues is called {policy!r}; {hint}")
    if not pairs:
        raise click.UsageError("evaluation.pairs is empty; name a pair: --pair sage_0 sage_1")
    return pairs
