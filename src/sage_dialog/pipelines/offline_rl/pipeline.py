"""From dialogues with rewards to policies, and their play with simulated partners::

personas, critiques, rewards ──> [collect] ──> goal_dialogues
goal_base, goal_dialogues ─────> [clone] ────> goal_bc
goal_bc, goal_dialogues ─┬─────> [clone_best] ─> goal_filtered
                         ├─────> [fit_critic] ─> goal_critic, advantages, critic_log
                         └─────> [pair] ─> goal_pairs ─> [prefer, prefer_action] ─> goal_dpo, goal_dpo_action
goal_dialogues, advantages ────> [weigh] ─> weighted_conversations ─> [train_weighted] ─> goal_awr

each policy, and goal_bc with goal_critic ─> [play_…] ─> goal_rollouts_{policy} ─> [concat] ─> goal_rollouts
goal_rollouts, advantages ─> [score] ─> goal_scores, goal_comparisons, value_calibration, value_calibration_figure
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.offline_rl.nodes import (
    clone_best_into,
    clone_into,
    collect,
    concat,
    fit_critic_into,
    pair,
    play_as,
    prefer_into,
    score,
    train_weighted_into,
    weigh,
)

POLICIES = ("goal_bc", "goal_filtered", "goal_dpo", "goal_dpo_action", "goal_awr")
"""The policies that are played by themselves."""

RERANKED = "goal_rerank"
"""`goal_bc` whose replies the critic chooses."""


def create_pipeline() -> Pipeline:
    dialogues, parameters = "goal_dialogues", "params:offline_rl"
    training = [parameters, "params:seed", "params:scratch", "params:threads", "params:launcher"]
    play = ["engine", "params:imagination", parameters, "params:seed", "params:threads"]
    rollouts = {name: f"goal_rollouts_{name}" for name in (*POLICIES, RERANKED)}
    return Pipeline(
        [
            node(
                collect,
                ["personas", "critiques", "rewards", "params:imagination", parameters, "params:seed"],
                dialogues,
                name="collect",
            ),
            node(clone_into("goal_bc"), ["goal_base", dialogues, *training], _trained("goal_bc"), name="clone"),
            node(
                clone_best_into("goal_filtered"),
                ["goal_base", "goal_bc", dialogues, *training],
                _trained("goal_filtered"),
                name="clone_best",
            ),
            node(
                fit_critic_into("goal_critic"),
                [
                    *("goal_base", "goal_filtered", dialogues, "engine"),
                    *(parameters, "params:seed", "params:scratch", "params:threads"),
                ],
                ["critic_log", "advantages", "goal_critic"],
                name="fit_critic",
            ),
            node(weigh, [dialogues, "advantages", parameters], "weighted_conversations", name="weigh"),
            node(
                train_weighted_into("goal_awr"),
                ["goal_base", "goal_bc", "weighted_conversations", *training],
                _trained("goal_awr"),
                name="train_weighted",
            ),
            node(pair, [dialogues, parameters, "params:seed"], "goal_pairs", name="pair"),
            node(
                prefer_into("goal_dpo", "message"),
                ["goal_base", "goal_bc", "goal_pairs", *training],
                _trained("goal_dpo"),
                name="prefer",
            ),
            node(
                prefer_into("goal_dpo_action", "action"),
                ["goal_base", "goal_bc", "goal_pairs", *training],
                _trained("goal_dpo_action"),
                name="prefer_action",
            ),
            *(
                node(play_as(name), ["goal_base", name, *play], rollouts[name], name=f"play_{name}")
                for name in POLICIES
            ),
            node(
                play_as(RERANKED),
                ["goal_base", "goal_bc", *play, "goal_critic", "goal_filtered"],
                rollouts[RERANKED],
                name=f"play_{RERANKED}",
            ),
            node(concat, list(rollouts.values()), "goal_rollouts", name="concat"),
            node(
                score,
                ["goal_rollouts", "advantages", parameters, "params:seed"],
                ["goal_scores", "goal_comparisons", "value_calibration", "value_calibration_figure"],
                name="score",
            ),
        ]
    )


def _trained(name: str) -> list[str]:
    return [f"training_log_{name}", f"training_rejects_{name}", name]
