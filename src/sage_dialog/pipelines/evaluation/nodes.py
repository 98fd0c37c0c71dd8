"""Policies become rollouts, votes, tables and the report."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from sage_dialog import schemas
from sage_dialog.parameters import Evaluation, SacAugmentation
from sage_dialog.policies import Policy
from sage_dialog.roles.protocols import Annotator, Judge, Selector


def describe_policies(**policies: Policy) -> pa.Table:
    """The cards of the evaluated policies, as a table of `schemas.POLICIES`; weights are hashed, not loaded."""
    rows = [
        {
            "policy": name,
            "kind": policy.card.kind,
            "blocks": policy.card.blocks,
            # A base carries its revision in its card, and may be large.
            "revision": policy.card.base_revision if policy.card.kind == "base" else policy.revision(),
            "base": policy.card.base,
            "base_revision": policy.card.base_revision,
            "parent": policy.card.parent,
            "parent_revision": policy.card.parent_revision,
        }
        for name, policy in policies.items()
    ]
    return pa.Table.from_pylist(rows, schema=schemas.POLICIES)


def play_rollouts(
    base: Policy,
    agent: Policy,
    user: Policy,
    situations: pa.Table,
    evaluation: Evaluation,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    scratch: str,
) -> pa.Table:
    """Dialogues of one policy with the simulated user on held-out situations (paper §3.6).

    Returns:
        A table of `schemas.TRAJECTORIES`.
    """
    from sage_dialog.generation.transformers_engine import TransformersEngine
    from sage_dialog.selfplay.play import rollout

    engine = TransformersEngine(base, [agent, user], seed, threads)
    return rollout(engine, agent, user, situations, evaluation, sac_augmentation.preambles, seed, Path(scratch))


def judge_pairs(evaluation: Evaluation, judge: Judge, **rollouts: pa.Table) -> pa.Table:
    """The judge's votes on the configured pairs, in both orders, as a table of `schemas.JUDGE_VOTES`."""
    from sage_dialog.evaluation.votes import collect_votes

    return pa.Table.from_pylist(collect_votes(rollouts, evaluation.pairs, judge), schema=schemas.JUDGE_VOTES)


def count_wins(votes: pa.Table, evaluation: Evaluation) -> pa.Table:
    """A table of `schemas.WIN_RATES` from one of `schemas.JUDGE_VOTES`."""
    from sage_dialog.evaluation.votes import win_rates

    return pa.Table.from_pylist(win_rates(votes.to_pylist(), evaluation.confidence), schema=schemas.WIN_RATES)


def score_emotions(
    evaluation: Evaluation, situations: pa.Table, policy_cards: pa.Table, **rollouts: pa.Table
) -> pa.Table:
    """Predicted against labelled user emotion, as a table of `schemas.EMOTION_ACCURACY`."""
    from sage_dialog.evaluation.emotions import emotion_accuracy

    rows = emotion_accuracy(rollouts, _with_blocks(policy_cards), situations, evaluation.confidence)
    return pa.Table.from_pylist(rows, schema=schemas.EMOTION_ACCURACY)


def describe_replies(
    evaluation: Evaluation, policy_cards: pa.Table, **rollouts: pa.Table
) -> tuple[pa.Table, bytes, pa.Table]:
    """What the replies mean to do and what they look like (paper Figure 3).

    Returns:
        A table of `schemas.ACTION_DISTRIBUTION`, its figure as PNG, a table of `schemas.REPLY_STATISTICS`.
    """
    from sage_dialog.evaluation.figures import action_figure
    from sage_dialog.evaluation.replies import action_distribution, reply_statistics

    with_blocks = _with_blocks(policy_cards)
    actions = action_distribution(rollouts, with_blocks, evaluation.confidence)
    statistics = reply_statistics(rollouts, with_blocks, evaluation.confidence)
    return (
        pa.Table.from_pylist(actions, schema=schemas.ACTION_DISTRIBUTION),
        action_figure(actions),
        pa.Table.from_pylist(statistics, schema=schemas.REPLY_STATISTICS),
    )


def write_report(
    evaluation: Evaluation,
    seed: int,
    annotator: Annotator,
    selector: Selector,
    judge: Judge,
    policy_cards: pa.Table,
    situations: pa.Table,
    judge_votes: pa.Table,
    win_rates: pa.Table,
    emotion_accuracy: pa.Table,
    reply_statistics: pa.Table,
    action_figure: bytes,
    filter_report: pa.Table,
    candidates: pa.Table,
    trajectories: pa.Table,
    outside_scores: pa.Table | None = None,
    outside_win_rates: pa.Table | None = None,
) -> str:
    """The HTML report; candidates and trajectories are those of the last self-play iteration."""
    from sage_dialog.evaluation.report import Contents, render_report

    return render_report(
        Contents(
            dials=evaluation,
            seed=seed,
            roles={"annotator": annotator.name, "selector": selector.name, "judge": judge.name},
            policies=policy_cards,
            situations=situations,
            judge_votes=judge_votes,
            win_rates=win_rates,
            emotion_accuracy=emotion_accuracy,
            reply_statistics=reply_statistics,
            action_figure=action_figure,
            filter_report=filter_report,
            candidates=candidates,
            trajectories=trajectories,
            outside_scores=outside_scores,
            outside_win_rates=outside_win_rates,
        )
    )


def _with_blocks(policy_cards: pa.Table) -> list[str]:
    return [row["policy"] for row in policy_cards.to_pylist() if row["blocks"]]
