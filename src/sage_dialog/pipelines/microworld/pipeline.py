"""Generate the demo world and train its base model; later, score the policies by the world's truth::

    [write_raw_data] ──> reddit_dumps, empathetic_dialogues, instructions, benchmark_files, world_truth
    [write_base_corpus] ──> base_corpus ──> [train_sage_0] ──> sage_0

    rollouts ────┬─> [score_by_truth] ──> truth_scores ──> [vote_by_truth] ──> truth_votes
    world_truth ─┘                                           └─> [count_truth_votes] ──> truth_win_rates

No training stage reads `world_truth`.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.evaluation.nodes import count_wins
from sage_dialog.pipelines.microworld.nodes import (
    score_by_truth,
    train_goal_base,
    train_negotiation_base_as,
    train_sage_0,
    vote_by_truth,
    write_base_corpus,
    write_raw_data,
)


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                write_raw_data,
                inputs=["params:microworld", "params:seed"],
                outputs=["reddit_dumps", "empathetic_dialogues", "instructions", "benchmark_files", "world_truth"],
                name="write_raw_data",
            ),
            node(
                write_base_corpus,
                inputs=["params:microworld", "params:seed"],
                outputs="base_corpus",
                name="write_base_corpus",
            ),
            node(
                train_sage_0,
                inputs=["base_corpus", "params:microworld", "params:seed", "params:scratch", "params:threads"],
                outputs="sage_0",
                name="train_sage_0",
            ),
        ]
    )


def create_goal_base_pipeline() -> Pipeline:
    """Return the training of the base of goal-directed policies."""
    return Pipeline(
        [
            node(
                train_goal_base,
                inputs=[
                    *("params:imagination", "params:microworld"),
                    *("params:seed", "params:scratch", "params:threads"),
                ],
                outputs="goal_base",
                name="train_goal_base",
            )
        ]
    )


def create_negotiation_base_pipeline() -> Pipeline:
    """Return the training of the base of negotiating policies, and of their partner."""
    inputs = [
        *("negotiations", "negotiation_dialogues", "params:negotiation", "params:microworld"),
        *("params:seed", "params:scratch", "params:threads"),
    ]
    return Pipeline(
        [
            node(train_negotiation_base_as(name), inputs, name, name=f"train_{name}")
            for name in ("negotiation_base", "negotiation_partner")
        ]
    )


def create_truth_pipeline() -> Pipeline:
    """Return the scoring of rollouts by the world's truth."""
    return Pipeline(
        [
            node(score_by_truth, inputs=["world_truth", "rollouts"], outputs="truth_scores", name="score_by_truth"),
            node(
                vote_by_truth,
                inputs=["truth_scores", "params:evaluation"],
                outputs="truth_votes",
                name="vote_by_truth",
            ),
            node(
                count_wins,
                inputs=["truth_votes", "params:evaluation"],
                outputs="truth_win_rates",
                name="count_truth_votes",
            ),
        ]
    )
