"""Dialogues of the last iteration's policy, and how their replies compare with others."""

from __future__ import annotations

from pathlib import Path

from sage_dialog.config import OfflineRl, RlPlay, SacAugmentation
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import OpenEngine
from sage_dialog.roles.protocols import Selector


def play(
    base: Policy,
    agent: Policy,
    user: Policy,
    situations: DataFrame,
    engine: OpenEngine,
    rl_play: RlPlay,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    scratch: str,
) -> tuple[DataFrame, DataFrame]:
    """Play several dialogues of each of some train situations.

    Returns:
        Tables of `schemas.CANDIDATES` and `schemas.TRAJECTORIES`.
    """
    from sage_dialog.selfplay.search import sample_dialogues

    opened, system_prompts = engine(base, [agent, user], seed, threads), sac_augmentation.system_prompts
    return sample_dialogues(opened, agent, user, situations, rl_play, system_prompts, seed, Path(scratch))


def compare(selector: Selector, rl_rollouts: DataFrame, rl_candidates: DataFrame, seed: int) -> DataFrame:
    """Return how each reply compares with others of its policy (schemas.REPLY_COMPARISONS)."""
    from sage_dialog.offline_rl.self_play import compare_replies

    return compare_replies(selector, rl_rollouts, rl_candidates, seed)


def reward(
    rl_rollouts: DataFrame,
    rl_comparisons: DataFrame,
    rl_play: RlPlay,
    self_play_rl: OfflineRl,
    sac_augmentation: SacAugmentation,
    seed: int,
) -> DataFrame:
    """Return the dialogues with each reply's share of wins as its reward (schemas.GOAL_DIALOGUES)."""
    from sage_dialog.offline_rl.self_play import rewarded_dialogues

    system_prompt = sac_augmentation.system_prompts.get("listener")
    return rewarded_dialogues(
        rl_rollouts, rl_comparisons, system_prompt, self_play_rl.held_out, rl_play.max_dropped_share, seed
    )
