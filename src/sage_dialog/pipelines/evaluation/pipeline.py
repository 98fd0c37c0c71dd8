"""Every policy talks to the user model on held-out situations, judges compare the dialogues::

    sage_0 ┐
    policy ┼─> [rollout_{policy}] ─> rollouts_{policy} ┬─> [judge_pairs] ─> model_votes
    sage_1 ┘                                judges ────┤
    external_models ─> [rollout_external_models] ────────┤
     (as a policy; sage_0, sage_1)  external_rollouts   │
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
    policies, benchmark_files ─> [score_benchmarks] ─> benchmark_scores

    model_votes, human_votes, rollouts_{policy} ─> [gather_votes] ─> judge_votes, vote_rejects

    judge_votes ┬─> [count_wins] ────> win_rates ┬> [plan_situations] ─> sample_sizes
                │                              └> [draw_win_rates] ──> win_rate_figure
                ├─> [rank_policies] ─> ranking
                └─> [check_judges] ──> judge_checks, length_control, judge_agreement, self_preference
    rollouts_{policy}, policy_cards ┘

    all of these, rollouts_{policy}, training_rejects_{policy}, filter_report, filter_figure, candidates_{K}, trajectories_{K}
        ─> [write_report] ─> report

With a generated world, `truth_votes` are compared with the judges', and `truth_scores` and `truth_win_rates` stand in
the report too.
"""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline, node, pipeline

from sage_dialog.core.tables import on_arrow
from sage_dialog.pipelines.evaluation.nodes import (
    check_judges,
    collect_rollouts,
    count_guesses,
    count_wins,
    describe_policies,
    describe_replies,
    draw_training,
    draw_win_rates,
    find_failures,
    follow_actions,
    gather_votes,
    judge_pairs,
    map_emotions,
    measure_diversity,
    plan_situations,
    play_external_models,
    play_rollouts,
    rank_policies,
    score_benchmarks,
    score_emotions,
    write_report,
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
    """The evaluation of `policies`.

    Args:
        policies: names of their datasets, in the order they are made.
        iterations: how many self-play iterations there are; guesses are counted over the candidates of
            each, and the report shows a dialogue of the last.
        external_scores: whether `truth_scores`, `truth_votes` and `truth_win_rates` exist and belong into the report.
    """
    trained = [policy for policy in policies if policy != BASE]
    return pipeline(
        [
            *(_rollout(policy) for policy in policies),
            node(
                on_arrow(play_external_models),
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
                on_arrow(describe_policies),
                inputs={"external_models": "external_models", **{policy: policy for policy in policies}},
                outputs="policy_cards",
                name="describe_policies",
            ),
            node(
                on_arrow(judge_pairs),
                inputs={"evaluation": "params:evaluation", "judges": "judges", "rollouts": "rollouts"},
                outputs="model_votes",
                name="judge_pairs",
            ),
            node(
                on_arrow(gather_votes),
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
                on_arrow(count_wins),
                inputs=["judge_votes", "params:evaluation", "params:seed"],
                outputs="win_rates",
                name="count_wins",
            ),
            node(
                on_arrow(rank_policies),
                inputs=["judge_votes", "params:evaluation", "params:seed"],
                outputs="ranking",
                name="rank_policies",
            ),
            node(
                on_arrow(plan_situations),
                inputs=["win_rates", "params:evaluation"],
                outputs="sample_sizes",
                name="plan_situations",
            ),
            node(
                on_arrow(check_judges),
                inputs={
                    "votes": "judge_votes",
                    "policy_cards": "policy_cards",
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                    **({"external_votes": "truth_votes"} if external_scores else {}),
                    "rollouts": "rollouts",
                },
                outputs=["judge_checks", "length_control", "judge_agreement", "self_preference"],
                name="check_judges",
            ),
            node(
                on_arrow(score_emotions),
                inputs={
                    "evaluation": "params:evaluation",
                    "situations": "situations",
                    "policy_cards": "policy_cards",
                    "rollouts": "rollouts",
                },
                outputs="emotion_accuracy",
                name="score_emotions",
            ),
            node(
                on_arrow(describe_replies),
                inputs={"evaluation": "params:evaluation", "policy_cards": "policy_cards", "rollouts": "rollouts"},
                outputs=["action_distribution", "action_figure", "reply_statistics"],
                name="describe_replies",
            ),
            node(
                on_arrow(map_emotions),
                inputs={
                    "evaluation": "params:evaluation",
                    "situations": "situations",
                    "policy_cards": "policy_cards",
                    "rollouts": "rollouts",
                },
                outputs=["mapped_emotions", "unmapped_emotions", "emotion_confusion", "confusion_figure"],
                name="map_emotions",
            ),
            node(
                on_arrow(count_guesses),
                inputs={
                    "evaluation": "params:evaluation",
                    "situations": "situations",
                    **{f"sage_{k}": f"candidates_{k}" for k in range(1, iterations + 1)},
                },
                outputs="emotion_top_k",
                name="count_guesses",
            ),
            node(
                on_arrow(follow_actions),
                inputs={"evaluation": "params:evaluation", "policy_cards": "policy_cards", "rollouts": "rollouts"},
                outputs=["action_transitions", "transition_figure"],
                name="follow_actions",
            ),
            node(
                on_arrow(measure_diversity),
                inputs={
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                    "policy_cards": "policy_cards",
                    "rollouts": "rollouts",
                },
                outputs="diversity",
                name="measure_diversity",
            ),
            node(
                on_arrow(find_failures),
                inputs={
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                    "policy_cards": "policy_cards",
                    "rollouts": "rollouts",
                },
                outputs=["failure_modes", "failure_examples"],
                name="find_failures",
            ),
            node(
                on_arrow(draw_win_rates),
                inputs=["win_rates", "params:evaluation"],
                outputs="win_rate_figure",
                name="draw_win_rates",
            ),
            node(
                on_arrow(draw_training),
                inputs={policy: f"training_log_{policy}" for policy in trained},
                outputs="training_figure",
                name="draw_training",
            ),
            node(
                on_arrow(score_benchmarks),
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
            _report(trained, iterations, external_scores),
        ]
    )


def _rollout(policy: str) -> Node:
    return node(
        on_arrow(play_rollouts),
        inputs={"agent": policy, **_PLAYED_WITH},
        outputs=f"rollouts_{policy}",
        name=f"rollout_{policy}",
    )


def _report(trained: Sequence[str], iterations: int, external_scores: bool) -> Node:
    same_name = (
        "annotator", "selector", "judges", "situations", "judge_votes", "win_rates", "ranking",
        "judge_checks", "length_control", "judge_agreement", "self_preference", "sample_sizes", "emotion_accuracy",
        "mapped_emotions", "unmapped_emotions", "emotion_confusion", "confusion_figure", "emotion_top_k",
        "reply_statistics", "action_figure", "transition_figure", "diversity", "failure_modes", "failure_examples",
        "training_figure", "benchmark_scores", "filter_report", "filter_figure",
    )  # fmt: skip
    truth = {f"outside_{table}": f"truth_{table}" for table in ("scores", "votes", "win_rates")}
    return node(
        on_arrow(write_report),
        inputs={
            "evaluation": "params:evaluation",
            "seed": "params:seed",
            "policies": "policy_cards",
            **{name: name for name in same_name},
            "candidates": f"candidates_{iterations}",
            "trajectories": f"trajectories_{iterations}",
            **(truth if external_scores else {}),
            "rollouts": "rollouts",
            **{f"training_rejects_{policy}": f"training_rejects_{policy}" for policy in trained},
        },
        outputs="report",
        name="write_report",
    )
