"""Every policy talks to the user model on held-out situations, judges compare the dialogues::

    sage_0 ┐
    policy ┼─> [rollout_{policy}] ─> rollouts_{policy} ┬─> [judge_pairs] ─> judge_votes
    sage_1 ┘                                judges ────┤
                                                       ├─> [score_emotions]    ─> emotion_accuracy
                                                       ├─> [map_emotions]      ─> mapped_emotions, unmapped_emotions,
                                                       │                          emotion_confusion, confusion_figure
                                                       ├─> [describe_replies]  ─> action_distribution, action_figure,
                                                       │                          reply_statistics
                                                       ├─> [follow_actions]    ─> action_transitions, transition_figure
                                                       ├─> [measure_diversity] ─> diversity
    policies ─> [describe_policies] ─> policy_cards ───┴─> [find_failures]     ─> failure_modes, failure_examples

    candidates_{k} ─> [count_guesses] ─> emotion_top_k
    training_log_{policy} ─> [draw_training] ─> training_figure

    judge_votes ┬─> [count_wins] ────> win_rates ─> [plan_situations] ─> sample_sizes
                ├─> [rank_policies] ─> ranking
                └─> [check_judges] ──> judge_checks, length_control, judge_agreement, self_preference
    rollouts_{policy}, policy_cards ┘

    all of these, left_out_{policy}, filter_report, filter_figure, candidates_{K}, trajectories_{K}
        ─> [write_report] ─> report

With a generated world, `truth_votes` are compared with the judges', and `truth_scores` and `truth_win_rates` stand in
the report too.
"""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline, node, pipeline

from sage_dialog.pipelines.evaluation.nodes import (
    check_judges,
    count_guesses,
    count_wins,
    describe_policies,
    describe_replies,
    draw_training,
    find_failures,
    follow_actions,
    judge_pairs,
    map_emotions,
    measure_diversity,
    plan_situations,
    play_rollouts,
    rank_policies,
    score_emotions,
    write_report,
)

BASE = "sage_0"
USER = "sage_1"


def create_pipeline(policies: Sequence[str], iterations: int, outside_scores: bool = False) -> Pipeline:
    """The evaluation of `policies`.

    Args:
        policies: names of their datasets, in the order they are made.
        iterations: how many self-play iterations there are; guesses are counted over the candidates of
            each, and the report shows a dialogue of the last.
        outside_scores: whether `truth_scores`, `truth_votes` and `truth_win_rates` exist and belong into the report.
    """
    rollouts = {policy: f"rollouts_{policy}" for policy in policies}
    trained = [policy for policy in policies if policy != BASE]
    return pipeline(
        [
            *(_rollout(policy) for policy in policies),
            node(
                describe_policies,
                inputs={policy: policy for policy in policies},
                outputs="policy_cards",
                name="describe_policies",
            ),
            node(
                judge_pairs,
                inputs={"evaluation": "params:evaluation", "judges": "judges", **rollouts},
                outputs="judge_votes",
                name="judge_pairs",
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
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                    **({"outside_votes": "truth_votes"} if outside_scores else {}),
                    **rollouts,
                },
                outputs=["judge_checks", "length_control", "judge_agreement", "self_preference"],
                name="check_judges",
            ),
            node(
                score_emotions,
                inputs={
                    "evaluation": "params:evaluation",
                    "situations": "situations",
                    "policy_cards": "policy_cards",
                    **rollouts,
                },
                outputs="emotion_accuracy",
                name="score_emotions",
            ),
            node(
                describe_replies,
                inputs={"evaluation": "params:evaluation", "policy_cards": "policy_cards", **rollouts},
                outputs=["action_distribution", "action_figure", "reply_statistics"],
                name="describe_replies",
            ),
            node(
                map_emotions,
                inputs={
                    "evaluation": "params:evaluation",
                    "situations": "situations",
                    "policy_cards": "policy_cards",
                    **rollouts,
                },
                outputs=["mapped_emotions", "unmapped_emotions", "emotion_confusion", "confusion_figure"],
                name="map_emotions",
            ),
            node(
                count_guesses,
                inputs={
                    "evaluation": "params:evaluation",
                    "situations": "situations",
                    **{f"sage_{k}": f"candidates_{k}" for k in range(1, iterations + 1)},
                },
                outputs="emotion_top_k",
                name="count_guesses",
            ),
            node(
                follow_actions,
                inputs={"evaluation": "params:evaluation", "policy_cards": "policy_cards", **rollouts},
                outputs=["action_transitions", "transition_figure"],
                name="follow_actions",
            ),
            node(
                measure_diversity,
                inputs={
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                    "policy_cards": "policy_cards",
                    **rollouts,
                },
                outputs="diversity",
                name="measure_diversity",
            ),
            node(
                find_failures,
                inputs={
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                    "policy_cards": "policy_cards",
                    **rollouts,
                },
                outputs=["failure_modes", "failure_examples"],
                name="find_failures",
            ),
            node(
                draw_training,
                inputs={policy: f"training_log_{policy}" for policy in trained},
                outputs="training_figure",
                name="draw_training",
            ),
            _report(trained, iterations, outside_scores),
        ]
    )


def _rollout(policy: str) -> Node:
    return node(
        play_rollouts,
        inputs={
            "base": BASE,
            "agent": policy,
            "user": USER,
            "situations": "situations",
            "engine": "engine",
            "evaluation": "params:evaluation",
            "sac_augmentation": "params:sac_augmentation",
            "seed": "params:seed",
            "threads": "params:threads",
            "scratch": "params:scratch",
        },
        outputs=f"rollouts_{policy}",
        name=f"rollout_{policy}",
    )


def _report(trained: Sequence[str], iterations: int, outside_scores: bool) -> Node:
    same_name = (
        "annotator", "selector", "judges", "policy_cards", "situations", "judge_votes", "win_rates", "ranking",
        "judge_checks", "length_control", "judge_agreement", "self_preference", "sample_sizes", "emotion_accuracy",
        "mapped_emotions", "unmapped_emotions", "emotion_confusion", "confusion_figure", "emotion_top_k",
        "reply_statistics", "action_figure", "transition_figure", "diversity", "failure_modes", "failure_examples",
        "training_figure", "filter_report", "filter_figure",
    )  # fmt: skip
    outside = {"outside_scores": "truth_scores", "outside_win_rates": "truth_win_rates"} if outside_scores else {}
    return node(
        write_report,
        inputs={
            "evaluation": "params:evaluation",
            "seed": "params:seed",
            **{name: name for name in same_name},
            "candidates": f"candidates_{iterations}",
            "trajectories": f"trajectories_{iterations}",
            **outside,
            **{policy: f"left_out_{policy}" for policy in trained},
        },
        outputs="report",
        name="write_report",
    )
