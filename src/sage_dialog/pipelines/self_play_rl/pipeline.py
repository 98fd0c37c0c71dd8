"""Offline reinforcement learning after K iterations of self-play::

sage_0, sage_{K+1}, sage_1, situations ──> [play] ─────> rl_candidates, rl_rollouts
selector, rl_rollouts, rl_candidates ────> [compare] ──> rl_comparisons
rl_rollouts, rl_comparisons ─────────────> [reward] ───> rl_dialogues
sage_{K+1}, rl_dialogues ────────────────> [fit_critic] ─> rl_critic, rl_advantages, rl_critic_log
rl_dialogues, rl_advantages ─────────────> [weigh] ────> rl_weighted_conversations
sage_{K+1}, rl_weighted_conversations ───> [train_sage_rl] ─> sage_rl
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.core.hub_models import BASE, USER
from sage_dialog.core.recipe import REINFORCED
from sage_dialog.pipelines.offline_rl.nodes import fit_critic_into, train_weighted_into, weigh
from sage_dialog.pipelines.self_play_rl.nodes import compare, play, reward

ROLLOUTS, PARAMETERS = "params:rl_play", "params:self_play_rl"
MIX, SEED = "params:sac_augmentation", "params:seed"
THREADS, SCRATCH = "params:threads", "params:scratch"


def create_pipeline(iterations: int) -> Pipeline:
    """Return the pipeline after K self-play iterations."""
    agent = f"sage_{iterations + 1}"
    return Pipeline(
        [
            node(
                play,
                [BASE, agent, USER, "situations", "engine", ROLLOUTS, MIX, SEED, THREADS, SCRATCH],
                ["rl_candidates", "rl_rollouts"],
                name="play",
            ),
            node(compare, ["selector", "rl_rollouts", "rl_candidates", SEED], "rl_comparisons", name="compare"),
            node(
                reward,
                ["rl_rollouts", "rl_comparisons", ROLLOUTS, PARAMETERS, MIX, SEED],
                "rl_dialogues",
                name="reward",
            ),
            node(
                fit_critic_into("rl_critic"),
                [BASE, agent, "rl_dialogues", "engine", PARAMETERS, SEED, SCRATCH, THREADS],
                ["rl_critic_log", "rl_advantages", "rl_critic"],
                name="fit_critic",
            ),
            node(weigh, ["rl_dialogues", "rl_advantages", PARAMETERS], "rl_weighted_conversations", name="weigh"),
            node(
                train_weighted_into(REINFORCED),
                [BASE, agent, "rl_weighted_conversations", PARAMETERS, SEED, SCRATCH, THREADS, "params:launcher"],
                [f"training_log_{REINFORCED}", f"training_rejects_{REINFORCED}", REINFORCED],
                name="train_sage_rl",
            ),
        ]
    )
