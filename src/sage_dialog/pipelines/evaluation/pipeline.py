"""Every policy talks to the user model on held-out situations, judges compare the dialogues, replies are measured::

    sage_0, policy, sage_1 ─> [rollout_{policy}] ──────> rollouts_{policy} ┬─> [collect_rollouts] ─> rollouts
    external_models ───────> [rollout_external_models] ─> external_rollouts ┘
    policies, external_models ─> [describe_policies] ─> policy_cards

    rollouts, judges ─> [judge_pairs] ─> model_votes ┬─> [gather_votes] ─> judge_votes, vote_rejects
                                         human_votes ┘
    judge_votes ┬─> [count_wins] ────> win_rates ─> [plan_situations] ─> sample_sizes
                ├─> [rank_policies] ─> ranking
                └─> [check_judges] ──> judge_checks, length_control, judge_agreement, self_preference

    rollouts, policy_cards ─> [parse_blocks] ─> replies
    replies ┬─> [score_emotions] ────> emotion_accuracy, mapped_emotions, unmapped_emotions, emotion_confusion
            ├─> [describe_replies] ──> action_distribution, action_transitions, reply_statistics
            ├─> [measure_diversity] ─> diversity
            └─> [find_failures] ─────> failure_modes, failure_examples

    candidates_{k} ─> [score_guesses] ─> emotion_top_k
    policies, benchmark_files ─> [score_benchmarks] ─> benchmark_scores
    tables ─> [draw_…] ─> figures
    tables, figures ─> pipeline report ─> report

With a generated world, `truth_votes` are compared with the judges', and `truth_scores` and `truth_win_rates` are in the
report. A new metric is a function in `evaluation/replies`, its schema, its catalog entry, and a node here.
"""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline, node, pipeline

from sage_dialog.pipelines import report
from sage_dialog.pipelines.evaluation.nodes import (
    check_judges,
    collect_rollouts,
    count_wins,
    describe_policies,
    describe_replies,
    draw_actions,
    draw_confusion,
    draw_training,
    draw_win_rates,
    find_failures,
    gather_votes,
    judge_pairs,
    measure_diversity,
    parse_blocks,
    plan_situations,
    play_external_models,
    play_rollouts,
    rank_policies,
    score_benchmarks,
    score_emotions,
    score_guesses,
)

BASE = "sage_0"
USER = "sage_1"

_PLAYED_WITH = {
    "base": BASE,
    "user": USER,
    "situations": "situations",
    "engine": "engine",
    "evaluation": "params:evaluation",
    "sac_augmentation": "params:sac_augmentation",
    "seed": "params:seed",
    "threads": "params:threads",
    "scratch": "params:scratch",
}


def create_pipeline(policies: Sequence[str], iterations: int, external_scores: bool = False) -> Pipeline:
    """Return the evaluation of `policies`, with its report.

    Args:
        policies: names of their datasets, in the order of their training.
        iterations: number of self-play iterations; guesses are counted over the candidates of each.
        external_scores: whether `truth_scores`, `truth_votes` and `truth_win_rates` exist and belong into the report.
    """
    trained = [policy for policy in policies if policy != BASE]
    return pipeline(
        [
            *(_rollout(policy) for policy in policies),
            node(
                play_external_models,
                inputs={"external_models": "external_models", **_PLAYED_WITH},
                outputs="external_rollouts",
                name="rollout_external_models",
            ),
            node(
                collect_rollouts,
                inputs={
                    "external_rollouts": "external_rollouts",
                    **{policy: f"rollouts_{policy}" for policy in policies},
                },
                outputs="rollouts",
                name="collect_rollouts",
            ),
            node(
                describe_policies,
                inputs={"external_models": "external_models", **{policy: policy for policy in policies}},
                outputs="policy_cards",
                name="describe_policies",
            ),
            node(
                judge_pairs,
                inputs={"evaluation": "params:evaluation", "judges": "judges", "rollouts": "rollouts"},
                outputs="model_votes",
                name="judge_pairs",
            ),
            node(
                gather_votes,
                inputs={
                    "model_votes": "model_votes",
                    "human_votes": "human_votes",
                    "evaluation": "params:evaluation",
                    "rollouts": "rollouts",
                },
                outputs=["judge_votes", "vote_rejects"],
                name="gather_votes",
            ),
            node(
                count_wins,
                inputs=["judge_votes", "params:evaluation", "params:seed"],
                outputs="win_rates",
                name="count_wins",
            ),
            node(
                rank_policies,
                inputs=["judge_votes", "params:evaluation", "params:seed"],
                outputs="ranking",
                name="rank_policies",
            ),
            node(
                plan_situations,
                inputs=["win_rates", "params:evaluation"],
                outputs="sample_sizes",
                name="plan_situations",
            ),
            node(
                check_judges,
                inputs={
                    "votes": "judge_votes",
                    "policy_cards": "policy_cards",
                    "rollouts": "rollouts",
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                    **({"external_votes": "truth_votes"} if external_scores else {}),
                },
                outputs=["judge_checks", "length_control", "judge_agreement", "self_preference"],
                name="check_judges",
            ),
            node(parse_blocks, inputs=["rollouts", "policy_cards"], outputs="replies", name="parse_blocks"),
            node(
                score_emotions,
                inputs=["replies", "situations", "params:evaluation"],
                outputs=["emotion_accuracy", "mapped_emotions", "unmapped_emotions", "emotion_confusion"],
                name="score_emotions",
            ),
            node(
                score_guesses,
                inputs={
                    "evaluation": "params:evaluation",
                    "situations": "situations",
                    **{f"sage_{k}": f"candidates_{k}" for k in range(1, iterations + 1)},
                },
                outputs="emotion_top_k",
                name="score_guesses",
            ),
            node(
                describe_replies,
                inputs=["rollouts", "replies", "params:evaluation"],
                outputs=["action_distribution", "action_transitions", "reply_statistics"],
                name="describe_replies",
            ),
            node(
                measure_diversity,
                inputs=["rollouts", "replies", "params:evaluation", "params:seed"],
                outputs="diversity",
                name="measure_diversity",
            ),
            node(
                find_failures,
                inputs=["rollouts", "replies", "params:evaluation", "params:seed"],
                outputs=["failure_modes", "failure_examples"],
                name="find_failures",
            ),
            node(
                score_benchmarks,
                inputs={
                    "base": BASE,
                    "benchmark_files": "benchmark_files",
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                    "threads": "params:threads",
                    **{policy: policy for policy in policies},
                },
                outputs="benchmark_scores",
                name="score_benchmarks",
            ),
            node(draw_win_rates, ["win_rates", "params:evaluation"], "win_rate_figure", name="draw_win_rates"),
            node(draw_confusion, "emotion_confusion", "confusion_figure", name="draw_confusion"),
            node(
                draw_actions,
                inputs=["action_distribution", "action_transitions"],
                outputs=["action_figure", "transition_figure"],
                name="draw_actions",
            ),
            node(
                draw_training,
                inputs={policy: f"training_log_{policy}" for policy in trained},
                outputs="training_figure",
                name="draw_training",
            ),
        ]
    ) + report.create_pipeline(trained, iterations, external_scores)


def _rollout(policy: str) -> Node:
    return node(
        play_rollouts,
        inputs={"agent": policy, **_PLAYED_WITH},
        outputs=f"rollouts_{policy}",
        name=f"rollout_{policy}",
    )
