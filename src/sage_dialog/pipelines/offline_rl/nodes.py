"""Learn from dialogues with returns, and play the policies against the tasks' simulated partners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.config import Imagination, Launcher, OfflineRl
from sage_dialog.core.policies import Policy, fresh_folder
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import OpenEngine

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

Trained = tuple[DataFrame, DataFrame, Policy]
"""Tables of `schemas.TRAINING_LOG` and `schemas.TRAINING_REJECTS`, and the policy."""


def collect(
    personas: DataFrame,
    critiques: DataFrame,
    rewards: DataFrame,
    imagination: Imagination,
    offline_rl: OfflineRl,
    seed: int,
) -> DataFrame:
    """Return the dialogues as the agent sees them, with rewards and splits (schemas.GOAL_DIALOGUES)."""
    from sage_dialog.offline_rl.dialogues import goal_dialogues

    return goal_dialogues(personas, critiques, rewards, imagination, offline_rl.blocks, offline_rl.held_out, seed)


def clone_into(name: str) -> Callable[..., Trained]:
    """Return the node function that trains the policy `name` by behaviour cloning."""

    def clone(
        base: Policy,
        goal_dialogues: DataFrame,
        offline_rl: OfflineRl,
        seed: int,
        scratch: str,
        threads: int | None,
        launcher: Launcher,
    ) -> Trained:
        """Train a policy on all training dialogues: behaviour cloning."""
        from sage_dialog.offline_rl.dialogues import training_conversations
        from sage_dialog.training.sft import fine_tune

        conversations = training_conversations(goal_dialogues)
        return fine_tune(
            *(name, base, None, conversations, offline_rl.training, offline_rl.lora, seed, Path(scratch)),
            blocks=offline_rl.blocks,
            threads=threads,
            launcher=launcher,
        )

    return clone


def clone_best_into(name: str) -> Callable[..., Trained]:
    """Return the node function that trains the policy `name` by filtered behaviour cloning."""

    def clone_best(
        base: Policy,
        start: Policy,
        goal_dialogues: DataFrame,
        offline_rl: OfflineRl,
        seed: int,
        scratch: str,
        threads: int | None,
        launcher: Launcher,
    ) -> Trained:
        """Train the cloned policy further on the dialogues with the largest rewards: filtered behaviour cloning."""
        from sage_dialog.offline_rl.dialogues import training_conversations
        from sage_dialog.training.sft import fine_tune

        conversations = training_conversations(goal_dialogues, offline_rl.filtered_share)
        return fine_tune(
            *(name, base, start, conversations, offline_rl.refinement, None, seed, Path(scratch)),
            blocks=start.card.blocks,
            threads=threads,
            launcher=launcher,
        )

    return clone_best


def fit_critic_into(name: str) -> Callable[..., tuple[DataFrame, DataFrame, Policy]]:
    """Return the node function that trains the critic `name`."""

    def fit_critic(
        base: Policy,
        policy: Policy,
        goal_dialogues: DataFrame,
        engine: OpenEngine,
        offline_rl: OfflineRl,
        seed: int,
        scratch: str,
        threads: int | None,
    ) -> tuple[DataFrame, DataFrame, Policy]:
        """Train value heads on the states of a policy, and read every dialogue with them.

        Returns:
            Tables of `schemas.CRITIC_LOG` and `schemas.ADVANTAGES`, and the critic.
        """
        from sage_dialog.offline_rl.learning import draw_alternatives, train_critic

        config, alternatives = offline_rl.critic, None
        if config.conservative:
            opened = engine(base, [policy], seed, threads)
            alternatives = draw_alternatives(opened, policy, goal_dialogues, offline_rl.agent, config.alternatives)
        out = fresh_folder(scratch, name)
        return train_critic(base, policy, goal_dialogues, config, seed, out, alternatives, threads)

    return fit_critic


def weigh(goal_dialogues: DataFrame, advantages: DataFrame, offline_rl: OfflineRl) -> DataFrame:
    """Return the training dialogues with a weight for each reply (schemas.WEIGHTED_CONVERSATIONS)."""
    from sage_dialog.offline_rl import learning

    return learning.weighted_conversations(
        goal_dialogues, advantages, offline_rl.advantage_scale, offline_rl.max_weight
    )


def train_weighted_into(name: str) -> Callable[..., Trained]:
    """Return the node function that trains the policy `name` by advantage-weighted fine-tuning."""

    def train_weighted(
        base: Policy,
        start: Policy,
        weighted_conversations: DataFrame,
        offline_rl: OfflineRl,
        seed: int,
        scratch: str,
        threads: int | None,
        launcher: Launcher,
    ) -> Trained:
        """Train a policy further with each reply weighted by its advantage; it needs no critic to act."""
        from sage_dialog.training.sft import fine_tune

        return fine_tune(
            *(name, base, start, weighted_conversations, offline_rl.refinement, None, seed, Path(scratch)),
            blocks=start.card.blocks,
            threads=threads,
            launcher=launcher,
        )

    return train_weighted


def pair(goal_dialogues: DataFrame, offline_rl: OfflineRl, seed: int) -> DataFrame:
    """Return preference pairs of replies in equal states (schemas.DPO_PAIRS)."""
    from sage_dialog.offline_rl.learning import outcome_pairs

    return outcome_pairs(goal_dialogues, offline_rl.pairs_per_state, seed)


def prefer_into(name: str, part: str) -> Callable[..., Trained]:
    """Return the node function that trains the policy `name` by DPO on a part of the reply."""

    def prefer(
        base: Policy,
        start: Policy,
        goal_pairs: DataFrame,
        offline_rl: OfflineRl,
        seed: int,
        scratch: str,
        threads: int | None,
        launcher: Launcher,
    ) -> Trained:
        """Train `goal_bc` further by DPO, on whole messages or on the action block alone."""
        from sage_dialog.training.dpo import preference_tune

        config = offline_rl.preference.model_copy(update={"part": part})
        return preference_tune(
            name, base, start, goal_pairs, config, seed, Path(scratch), threads=threads, launcher=launcher
        )

    return prefer


def play_as(name: str) -> Callable[..., DataFrame]:
    """Return the node function that plays a policy, in the tables under `name`."""

    def play(
        base: Policy,
        policy: Policy,
        engine: OpenEngine,
        imagination: Imagination,
        offline_rl: OfflineRl,
        seed: int,
        threads: int | None,
        goal_critic: Policy | None = None,
        critic_policy: Policy | None = None,
    ) -> DataFrame:
        """Play new users of each task (schemas.GOAL_ROLLOUTS); with a critic, the best of several replies by Q - V.

        The critic reads the states of `critic_policy`.
        """
        from sage_dialog.offline_rl import play as playing
        from sage_dialog.offline_rl.critic import load_critic

        users = playing.situations(imagination, offline_rl.situations, seed)
        opened = engine(base, [policy], seed, threads)
        critic = None
        if goal_critic is not None and critic_policy is not None:
            critic = load_critic(base, critic_policy, goal_critic, threads)
        candidates = 1 if critic is None else offline_rl.candidates
        blocks = policy.card.blocks
        return playing.play(opened, policy.name, blocks, users, offline_rl.agent, seed, candidates, critic, name)

    return play


def concat(*rollouts: DataFrame) -> DataFrame:
    """Return the dialogues of all policies (schemas.GOAL_ROLLOUTS)."""
    from sage_dialog.offline_rl import evaluation

    return evaluation.concat(rollouts)


def score(
    goal_rollouts: DataFrame, advantages: DataFrame, offline_rl: OfflineRl, seed: int
) -> tuple[DataFrame, DataFrame, DataFrame, Figure]:
    """Score the policies and the critic.

    Returns:
        Tables of `schemas.GOAL_SCORES`, `schemas.GOAL_COMPARISONS` with `goal_filtered`, and
        `schemas.VALUE_CALIBRATION`, and the figure of the calibration.
    """
    from sage_dialog.offline_rl import evaluation

    settings = (offline_rl.confidence, offline_rl.replicates, seed)
    calibration = evaluation.value_calibration(advantages, goal_rollouts, *settings)
    return (
        evaluation.goal_scores(goal_rollouts, *settings),
        evaluation.goal_comparisons(goal_rollouts, "goal_filtered"),
        calibration,
        evaluation.calibration_figure(advantages, calibration),
    )
