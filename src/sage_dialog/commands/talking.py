"""What `chat` and `serve` share: their policy, and its settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from kedro.io import DatasetError

from sage_dialog.commands.project import Project, click_errors
from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.hub_models import BASE
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import sample_ids
from sage_dialog.inference.engine import PolicyEngine

if TYPE_CHECKING:
    from sage_dialog.studio.chat.conversation import Settings

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a policy, in the catalog or outside, and how its blocks are written."""
    for option in (
        click.option(
            "--hold-form/--free-form",
            default=True,
            show_default=True,
            help="Hold the text form of the blocks, so that they always parse; labels stay free.",
        ),
        click.option(
            "--blocks/--no-blocks",
            default=None,
            help="With --base and without a policy card: whether it writes state and action blocks.",
        ),
        click.option("--adapter", type=_FOLDER, help="With --base: a LoRA adapter on it."),
        click.option("--base", type=_FOLDER, help="A model folder outside the catalog, in place of --policy."),
        click.option("--policy", "name", help="A policy of the catalog, or an external one.  [default: sage_dpo]"),
    ):
        command = option(command)
    return command


class LoadedPolicy(NamedTuple):
    """A policy, its system message, and a function from a seed to an engine with it."""

    policy: Policy
    system_prompt: str | None
    open_engine: Callable[[int], PolicyEngine]


def load_policy(
    project: Project, name: str | None, base: Path | None, adapter: Path | None, blocks: bool | None
) -> LoadedPolicy:
    """Return the policy that the options name. Raises click.ClickException if there is none."""
    if base is None and (adapter is not None or blocks is not None):
        raise click.UsageError("--adapter and --blocks go with --base.")
    if base is not None and name is not None:
        raise click.UsageError("--policy and --base exclude each other.")
    if base is not None:
        from sage_dialog.studio.chat.external_policies import external_policies

        with click_errors(ValueError, OSError):
            base_policy, policy = external_policies(base, adapter, blocks)
        policies = [] if policy is base_policy else [policy]
        system_prompt = project.system_prompt(policy)
        return LoadedPolicy(policy, system_prompt, lambda seed: project.engine(base_policy, policies, seed))
    named = project.policy_or_external(name or "sage_dpo")
    if isinstance(named, Policy):
        policy = named
    else:
        with click_errors(ValueError, OSError):
            _, policy = named.resolve(named.base or project.policy(BASE))
    return LoadedPolicy(policy, project.system_prompt(named), lambda seed: project.open_policy(named, seed)[0])


def settings_of(project: Project, loaded: LoadedPolicy, **overrides: float | None) -> tuple[Settings, str | None]:
    """Return the settings of evaluation.agent and evaluation.steering, and a note where the steering does not apply.

    Args:
        overrides: fields of the sampling; None leaves a field as it is.
    """
    from sage_dialog.studio.chat.conversation import Settings

    config = project.parameters.evaluation
    given = {name: value for name, value in overrides.items() if value is not None}
    sampling = SamplingConfig.model_validate(config.agent.model_dump() | given)
    steering, note = config.steering, None
    if steering and not loaded.policy.card.blocks:
        steering = Steering()
        note = f"{loaded.policy.name} writes no state and action blocks, so evaluation.steering does not apply."
    return Settings(sampling=sampling, system_prompt=loaded.system_prompt, steering=steering), note


def example_messages(project: Project, number: int) -> list[str]:
    """Return texts of held-out situations, drawn by seed, to begin a conversation with; none without their table."""
    with contextlib.suppress(DatasetError):  # such as a table of an earlier version of the project
        if project.catalog.exists("situations"):
            situations = project.catalog.load("situations")
            held_out = situations[situations["split"] == project.parameters.evaluation.split]
            texts = dict(zip(held_out["situation_id"], held_out["text"], strict=True))
            ids = sample_ids(list(texts), number, project.parameters.seed, "example messages")
            return [texts[id_] for id_ in ids]
    return []
