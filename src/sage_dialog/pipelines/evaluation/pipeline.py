"""Every policy talks to the user model on held-out situations, judges compare the dialogues, replies are measured::

    sage_0, policy, sage_1 ─> [rollout_{policy}] ──────> rollouts_{policy} ┬─> [collect_rollouts] ─> rollouts
    external_models, external_policies ─> [rollout_external_models] ─> external_rollouts ┘
    policies, external_models, external_policies ─> [describe_policies] ─> policy_cards

    rollouts, judges ─> [judge_pairs] ─> model_votes ┬─> [gather_votes] ─> judge_votes, vote_rejects
                                         human_votes ┘
    judge_votes ┬─> [count_wins] ────> win_rates ─> [plan_situations] ─> sample_sizes
                ├─> [rank_policies] ─> ranking
                ├─> [compare_raters] ─> rater_agreement
                └─> [check_judges] ──> judge_checks, length_control, judge_agreement, self_preference

    rollouts, policy_cards ─> [parse_blocks] ─> replies
    replies ┬─> [score_emotions] ────> emotion_accuracy, mapped_emotions, unmapped_emotions, emotion_confusion
            ├─> [describe_replies] ──> action_distribution, action_transitions, reply_statistics
            ├─> [measure_diversity] ─> diversity
            └─> [find_failures] ─────> failure_modes, failing_replies
    policies ─> [measure_form] ──────> form_validity

    candidates_{k} ─> [score_guesses] ─> emotion_top_k
    policies, benchmark_files ─> [score_benchmarks] ─> benchmark_scores
    tables ─> [draw_…] ─> figures
    tables, figures ─> pipeline report ─> report

With a generated world, `truth_votes` are compared with the judges', and `truth_scores` and `truth_win_rates` are in the
report. A new metric is a function in `evaluation/replies`, its schema, its catalog entry, and a node here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kedro.pipeline import Node, Pipeline, node

from sage_dialog.core.hub_models import BASE, USER
from sage_dialog.pipelines import report
from sage_dialog.pipelines.evaluation import nodes

EVALUATION, SEED = "params:evaluation", "params:seed"

PLAYED_WITH = [EVALUATION, "params:sac_augmentation", SEED, "params:threads", "params:scratch"]


def create_pipeline(policies: Sequence[str], iterations: int, external_scores: bool = False) -> Pipeline:
    """Return the evaluation of `policies`, with its report.

    Args:
        policies: names of their datasets, in the order of their training.
        iterations: number of self-play iterations; guesses are counted over the candidates of each.
        external_scores: whether `truth_scores`, `truth_votes` and `truth_win_rates` exist and belong into the report.
    """
    trained = [policy for policy in policies if policy != BASE]
    by_name = {policy: policy for policy in policies}
    rollouts = {policy: f"rollouts_{policy}" for policy in policies}
    candidates = {f"sage_{k}": f"candidates_{k}" for k in range(1, iterations + 1)}
    external = {name: name for name in ("external_models", "external_policies")}
    truth = ["truth_votes"] if external_scores else []
    benchmarked = {"base": BASE, "evaluation": EVALUATION, "seed": SEED, "threads": "params:threads"}
    evaluation = [
        *(
            _node(
                nodes.play_rollouts,
                [BASE, policy, USER, "situations", "engine", *PLAYED_WITH],
                table,
                f"rollout_{policy}",
            )
            for policy, table in rollouts.items()
        ),
        _node(
            nodes.play_external_models,
            [BASE, USER, "situations", "engine", "external_models", "external_policies", *PLAYED_WITH],
            "external_rollouts",
            "rollout_external_models",
        ),
        _node(nodes.collect_rollouts, {"external_rollouts": "external_rollouts", **rollouts}, "rollouts"),
        _node(nodes.describe_policies, {**external, **by_name}, "policy_cards"),
        _node(nodes.judge_pairs, [EVALUATION, "judges", "rollouts"], "model_votes"),
        _node(
            nodes.gather_votes, ["model_votes", "human_votes", EVALUATION, "rollouts"], ["judge_votes", "vote_rejects"]
        ),
        _node(nodes.count_wins, ["judge_votes", EVALUATION], "win_rates"),
        _node(nodes.rank_policies, ["judge_votes", EVALUATION, SEED], "ranking"),
        _node(nodes.compare_raters, ["judge_votes", EVALUATION, SEED], "rater_agreement"),
        _node(nodes.plan_situations, ["win_rates", EVALUATION], "sample_sizes"),
        _node(
            nodes.check_judges,
            ["judge_votes", "policy_cards", "rollouts", EVALUATION, SEED, *truth],
            ["judge_checks", "length_control", "judge_agreement", "self_preference"],
        ),
        _node(nodes.parse_blocks, ["rollouts", "policy_cards"], "replies"),
        _node(
            nodes.score_emotions,
            ["replies", "situations", EVALUATION],
            ["emotion_accuracy", "mapped_emotions", "unmapped_emotions", "emotion_confusion"],
        ),
        _node(
            nodes.score_guesses, {"evaluation": EVALUATION, "situations": "situations", **candidates}, "emotion_top_k"
        ),
        _node(
            nodes.describe_replies,
            ["rollouts", "replies", EVALUATION],
            ["action_distribution", "action_transitions", "reply_statistics"],
        ),
        _node(nodes.measure_diversity, ["rollouts", "replies", EVALUATION, SEED], "diversity"),
        _node(nodes.find_failures, ["rollouts", "replies", EVALUATION], ["failure_modes", "failing_replies"]),
        _node(
            nodes.measure_form,
            {
                **{"base": BASE, "engine": "engine", "evaluation": EVALUATION, "seed": SEED},
                **{"sac_augmentation": "params:sac_augmentation", "threads": "params:threads", **by_name},
            },
            "form_validity",
        ),
        _node(
            nodes.score_benchmarks, {"benchmark_files": "benchmark_files", **benchmarked, **by_name}, "benchmark_scores"
        ),
        _node(nodes.draw_win_rates, ["win_rates", EVALUATION], "win_rate_figure"),
        _node(nodes.draw_confusion, "emotion_confusion", "confusion_figure"),
        _node(
            nodes.draw_actions, ["action_distribution", "action_transitions"], ["action_figure", "transition_figure"]
        ),
        _node(nodes.draw_training, {policy: f"training_log_{policy}" for policy in trained}, "training_figure"),
    ]
    return Pipeline([*evaluation, report.create_pipeline(trained, iterations, external_scores)])


def _node(
    func: Callable[..., Any],
    inputs: str | list[str] | dict[str, str],
    outputs: str | list[str],
    name: str | None = None,
) -> Node:
    """Return a node that has the name of its function unless another is given."""
    return node(func, inputs, outputs, name=name or func.__name__)
