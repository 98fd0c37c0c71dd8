"""Dialogues of the last iteration's policy, and the verdicts on them."""

from __future__ import annotations

from pathlib import Path

from sage_dialog.config import OfflineRl, RlPlay, SacAugmentation
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import OpenEngine
from sage_dialog.roles.protocols import Judge


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
) -> DataFrame:
    """Return several dialogues of each of some train situations (schemas.TRAJECTORIES)."""
    from sage_dialog.selfplay.search import sample_dialogues

    opened, system_prompts = engine(base, [agent, user], seed, threads), sac_augmentation.system_prompts
    return sample_dialogues(opened, agent, user, situations, rl_play, system_prompts, seed, Path(scratch))


def compare(judges: list[Judge], rl_rollouts: DataFrame) -> DataFrame:
    """Return verdicts on every two dialogues of a situation (schemas.VERDICTS)."""
    from sage_dialog.offline_rl.self_play import compare_dialogues

    return compare_dialogues(judges, rl_rollouts)


def reward(
    rl_rollouts: DataFrame,
    rl_verdicts: DataFrame,
    self_play_rl: OfflineRl,
    sac_augmentation: SacAugmentation,
    seed: int,
) -> DataFrame:
    """Return the dialogues with their share of wins as reward (schemas.GOAL_DIALOGUES)."""
    from sage_dialog.offline_rl.self_play import judged_dialogues

    system_prompt = sac_augmentation.system_prompts.get("listener")
    return judged_dialogues(rl_rollouts, rl_verdicts, system_prompt, self_play_rl.held_out, seed)
