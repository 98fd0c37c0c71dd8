"""Policies become rollouts, votes, tables and the report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.config import Evaluation, SacAugmentation
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, Table, table
from sage_dialog.inference.engine import OpenEngine
from sage_dialog.inference.external_models import ExternalModel, ExternalModelEngine
from sage_dialog.roles.protocols import Annotator, Judge, Selector
from sage_dialog.studio.arena.vote_file import HumanVote

if TYPE_CHECKING:
    from sage_dialog.evaluation.bootstrap import Bootstrap

logger = logging.getLogger(__name__)


def describe_policies(external_models: dict[str, ExternalModel], **policies: Policy) -> Table:
    """The cards of all that is evaluated, as a table of `schemas.POLICIES`; weights are hashed, not loaded."""
    from sage_dialog.schemas import POLICIES

    rows = [
        {
            "policy": name,
            "kind": policy.card.kind,
            "blocks": policy.card.blocks,
            "revision": policy.revision(),
            "base": policy.card.base,
            "base_revision": policy.card.base_revision,
            "parent": policy.card.parent,
            "parent_revision": policy.card.parent_revision,
        }
        for name, policy in policies.items()
    ]
    rows += [
        {
            "policy": name,
            "kind": "outside",
            "blocks": False,
            "revision": model.model,
            "base": model.model,
            "base_revision": "not known",
        }
        for name, model in external_models.items()
    ]
    return table(rows, POLICIES)


def play_rollouts(
    base: Policy,
    agent: Policy,
    user: Policy,
    situations: Table,
    engine: OpenEngine,
    evaluation: Evaluation,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    scratch: str,
) -> Table:
    """Dialogues of one policy with the simulated user on held-out situations (paper §3.6).

    Returns:
        A table of `schemas.TRAJECTORIES`.
    """
    from sage_dialog.selfplay.search import rollout

    opened = engine(base, [agent, user], seed, threads)
    return rollout(opened, agent, user, situations, evaluation, sac_augmentation.system_prompts, seed, Path(scratch))


def play_external_models(
    base: Policy,
    user: Policy,
    situations: Table,
    engine: OpenEngine,
    external_models: dict[str, ExternalModel],
    evaluation: Evaluation,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    scratch: str,
) -> Table:
    """Dialogues of models of others with the same simulated user on the same situations.

    Returns:
        A table of `schemas.ROLLOUTS`, without rows where there are no such models.
    """
    from sage_dialog.schemas import ROLLOUTS
    from sage_dialog.selfplay.search import rollout

    rows = []
    for name, model in external_models.items():
        opened = ExternalModelEngine(model, engine(base, [user], seed, threads), seed)
        played = rollout(
            opened, model, user, situations, evaluation, sac_augmentation.system_prompts, seed, Path(scratch)
        )
        rows += [{"policy": name, **row} for row in played.to_pylist()]
    return table(rows, ROLLOUTS)


def collect_rollouts(external_rollouts: DataFrame, **rollouts: DataFrame) -> DataFrame:
    """Return the rollouts of all policies and external models as one table of `schemas.ROLLOUTS`."""
    from sage_dialog.evaluation.rollouts import concat_rollouts

    return concat_rollouts(rollouts, external_rollouts)


def judge_pairs(evaluation: Evaluation, judges: list[Judge], rollouts: Table) -> Table:
    """The votes of every configured judge on the configured pairs, in both orders: a table of `schemas.JUDGE_VOTES`."""
    from sage_dialog.evaluation.judging.votes import collect_votes
    from sage_dialog.schemas import JUDGE_VOTES

    votes = [vote for judge in judges for vote in collect_votes(by_policy(rollouts), evaluation.pairs, judge)]
    return table(votes, JUDGE_VOTES)


def gather_votes(
    model_votes: Table, human_votes: dict[str, list[HumanVote]], evaluation: Evaluation, rollouts: Table
) -> tuple[Table, Table]:
    """The configured judges' votes, and people's behind them.

    Returns:
        Tables of `schemas.JUDGE_VOTES` and, of people's votes that do not hold, `schemas.VOTE_REJECTS`.
    """
    import pyarrow as pa

    from sage_dialog.schemas import JUDGE_VOTES, VOTE_REJECTS
    from sage_dialog.studio.arena.counting import count_votes

    counted, rejects = count_votes(human_votes, by_policy(rollouts), evaluation.pairs)
    if human_votes:
        raters, away = ", ".join(human_votes), len(rejects)
        logger.info("%d votes of people (%s), %d more set aside: see vote_rejects", len(counted), raters, away)
    return pa.concat_tables([model_votes, table(counted, JUDGE_VOTES)]), table(rejects, VOTE_REJECTS)


def count_wins(votes: Table, evaluation: Evaluation, seed: int) -> Table:
    """A table of `schemas.WIN_RATES` from one of `schemas.JUDGE_VOTES`."""
    from sage_dialog.evaluation.judging.votes import win_rates
    from sage_dialog.schemas import WIN_RATES

    return table(win_rates(_answers(votes), _bootstrap(evaluation, seed), evaluation.outcome_rule), WIN_RATES)


def rank_policies(votes: Table, evaluation: Evaluation, seed: int) -> Table:
    """One ranking a judge, from all its pairs, as a table of `schemas.RANKING`."""
    from sage_dialog.evaluation.judging.ranking import ranking
    from sage_dialog.schemas import RANKING

    return table(ranking(_answers(votes), _bootstrap(evaluation, seed), evaluation.outcome_rule), RANKING)


def plan_situations(win_rates: Table, evaluation: Evaluation) -> Table:
    """How many situations would show what, as a table of `schemas.SAMPLE_SIZES`."""
    from sage_dialog.evaluation.judging.power import sample_sizes
    from sage_dialog.schemas import SAMPLE_SIZES

    config = (evaluation.true_shares, evaluation.confidence, evaluation.power)
    return table(sample_sizes(win_rates.to_pylist(), *config), SAMPLE_SIZES)


def check_judges(
    votes: Table,
    policy_cards: Table,
    rollouts: Table,
    evaluation: Evaluation,
    seed: int,
    external_votes: Table | None = None,
) -> tuple[Table, Table, Table, Table]:
    """What kind of judges these are; `external_votes`, such as a generated world's truth, are compared with theirs.

    Returns:
        Tables of `schemas.JUDGE_CHECKS`, `LENGTH_CONTROL`, `JUDGE_AGREEMENT`, `SELF_PREFERENCE`.
    """
    from sage_dialog import schemas
    from sage_dialog.evaluation.judging.agreement import judge_agreement
    from sage_dialog.evaluation.judging.judge_bias import judge_checks, self_preference
    from sage_dialog.evaluation.judging.length import length_control, words_said

    rule, bootstrap, words = evaluation.outcome_rule, _bootstrap(evaluation, seed), words_said(by_policy(rollouts))
    judged = _answers(votes)
    compared = judged if external_votes is None else judged + _answers(external_votes)
    return (
        table(judge_checks(judged, words, evaluation.confidence), schemas.JUDGE_CHECKS),
        table(length_control(judged, words, evaluation.confidence, rule), schemas.LENGTH_CONTROL),
        table(judge_agreement(compared, bootstrap, rule), schemas.JUDGE_AGREEMENT),
        table(self_preference(judged, policy_cards.to_pylist(), bootstrap, rule), schemas.SELF_PREFERENCE),
    )


def score_emotions(evaluation: Evaluation, situations: Table, policy_cards: Table, rollouts: Table) -> Table:
    """Predicted against labelled user emotion, as a table of `schemas.EMOTION_ACCURACY`."""
    from sage_dialog.evaluation.replies.emotions import emotion_accuracy
    from sage_dialog.schemas import EMOTION_ACCURACY

    rows = emotion_accuracy(by_policy(rollouts), _with_blocks(policy_cards), situations, evaluation.confidence)
    return table(rows, EMOTION_ACCURACY)


def map_emotions(
    evaluation: Evaluation, situations: Table, policy_cards: Table, rollouts: Table
) -> tuple[Table, Table, Table, bytes]:
    """What the policies' free emotion words mean, against the label.

    Returns:
        Tables of `schemas.MAPPED_EMOTIONS`, `UNMAPPED_EMOTIONS`, `EMOTION_CONFUSION`, and the last one's figure as PNG.
    """
    from sage_dialog import schemas
    from sage_dialog.evaluation.replies.emotions import (
        emotion_confusion,
        mapped_emotions,
        read_emotions,
        unmapped_emotions,
    )
    from sage_dialog.evaluation.report.figures import confusion_figure

    readings = read_emotions(by_policy(rollouts), _with_blocks(policy_cards), situations)
    confusion = emotion_confusion(readings, evaluation.confidence)
    return (
        table(mapped_emotions(readings, evaluation.confidence), schemas.MAPPED_EMOTIONS),
        table(unmapped_emotions(readings), schemas.UNMAPPED_EMOTIONS),
        table(confusion, schemas.EMOTION_CONFUSION),
        confusion_figure(confusion),
    )


def count_guesses(evaluation: Evaluation, situations: Table, **candidates: Table) -> Table:
    """Whether the label is among the emotions that a policy's candidates name most, as `schemas.EMOTION_TOP_K`.

    `candidates` are given by the policy that they were drawn from.
    """
    from sage_dialog.evaluation.replies.emotions import emotion_top_k
    from sage_dialog.schemas import EMOTION_TOP_K

    return table(emotion_top_k(candidates, situations, evaluation.confidence), EMOTION_TOP_K)


def describe_replies(evaluation: Evaluation, policy_cards: Table, rollouts: Table) -> tuple[Table, bytes, Table]:
    """What the replies mean to do and what they look like (paper Figure 3).

    Returns:
        A table of `schemas.ACTION_DISTRIBUTION`, its figure as PNG, a table of `schemas.REPLY_STATISTICS`.
    """
    from sage_dialog.evaluation.replies.replies import action_distribution, reply_statistics
    from sage_dialog.evaluation.report.figures import action_figure
    from sage_dialog.schemas import ACTION_DISTRIBUTION, REPLY_STATISTICS

    with_blocks = _with_blocks(policy_cards)
    actions = action_distribution(by_policy(rollouts), with_blocks, evaluation.confidence)
    statistics = reply_statistics(by_policy(rollouts), evaluation.confidence)
    return table(actions, ACTION_DISTRIBUTION), action_figure(actions), table(statistics, REPLY_STATISTICS)


def follow_actions(evaluation: Evaluation, policy_cards: Table, rollouts: Table) -> tuple[Table, bytes]:
    """What follows what along a dialogue: a table of `schemas.ACTION_TRANSITIONS` and its figure as PNG."""
    from sage_dialog.evaluation.replies.replies import action_transitions
    from sage_dialog.evaluation.report.figures import transition_figure
    from sage_dialog.schemas import ACTION_TRANSITIONS

    steps = action_transitions(by_policy(rollouts), _with_blocks(policy_cards), evaluation.confidence)
    return table(steps, ACTION_TRANSITIONS), transition_figure(steps)


def measure_diversity(evaluation: Evaluation, seed: int, policy_cards: Table, rollouts: Table) -> Table:
    """How much a policy varies what it does and says, as a table of `schemas.DIVERSITY`."""
    from sage_dialog.evaluation.replies.diversity import diversity
    from sage_dialog.schemas import DIVERSITY

    return table(diversity(by_policy(rollouts), _with_blocks(policy_cards), evaluation.confidence, seed), DIVERSITY)


def find_failures(evaluation: Evaluation, seed: int, policy_cards: Table, rollouts: Table) -> tuple[Table, Table]:
    """How policies fail, with examples: tables of `schemas.FAILURE_MODES` and `schemas.FAILURE_EXAMPLES`."""
    from sage_dialog.evaluation.replies.failures import failure_modes
    from sage_dialog.schemas import FAILURE_EXAMPLES, FAILURE_MODES

    modes, examples = failure_modes(by_policy(rollouts), _with_blocks(policy_cards), evaluation.confidence, seed)
    return table(modes, FAILURE_MODES), table(examples, FAILURE_EXAMPLES)


def score_benchmarks(
    base: Policy,
    benchmark_files: dict[str, Path],
    evaluation: Evaluation,
    seed: int,
    threads: int | None,
    **policies: Policy,
) -> Table:
    """Standard benchmarks before and after training (paper Table 2), as a table of `schemas.BENCHMARK_SCORES`."""
    from sage_dialog.evaluation.benchmarks.scores import benchmark_scores
    from sage_dialog.evaluation.benchmarks.scoring import score_policies
    from sage_dialog.schemas import BENCHMARK_SCORES

    scores = score_policies(base, policies, benchmark_files, evaluation.benchmarks, seed, threads)
    return table(benchmark_scores(scores, _bootstrap(evaluation, seed)), BENCHMARK_SCORES)


def draw_win_rates(win_rates: Table, evaluation: Evaluation) -> bytes:
    """Every judge's win rates with their intervals, as PNG."""
    from sage_dialog.evaluation.report.figures import win_rate_figure

    return win_rate_figure(win_rates.to_pylist(), evaluation.confidence)


def draw_training(**logs: Table) -> bytes:
    """The curves of the trainings, as PNG; `logs` are `schemas.TRAINING_LOG` by policy."""
    from sage_dialog.evaluation.report.figures import training_figure

    return training_figure({policy: log.to_pylist() for policy, log in logs.items()})


def write_report(
    evaluation: Evaluation, seed: int, annotator: Annotator, selector: Selector, judges: list[Judge], **shown: Any
) -> str:
    """The HTML report.

    `shown` are the other fields of `report.Contents`, of which candidates and trajectories are those of the last
    self-play iteration; `training_rejects_{policy}`, tables of `schemas.TRAINING_REJECTS`.
    """
    from dataclasses import fields

    from sage_dialog.evaluation.report.report import Contents, render_report

    prefix = "training_rejects_"
    training_rejects = {name.removeprefix(prefix): rows for name, rows in shown.items() if name.startswith(prefix)}
    contents = {field.name: shown[field.name] for field in fields(Contents) if field.name in shown}
    return render_report(
        Contents(
            config=evaluation,
            seed=seed,
            roles={"annotator": annotator.name, "selector": selector.name},
            judges=[judge.name for judge in judges],
            training_rejects=training_rejects,
            **{**contents, "rollouts": by_policy(shown["rollouts"])},
        )
    )


def _answers(votes: Table) -> list[dict[str, Any]]:
    """Votes without what the judge wrote, which may be long."""
    return votes.drop_columns("raw_response").to_pylist()


def _bootstrap(evaluation: Evaluation, seed: int) -> Bootstrap:
    from sage_dialog.evaluation.bootstrap import Bootstrap

    return Bootstrap(evaluation.confidence, evaluation.replicates, seed)


def by_policy(rollouts: Any) -> dict[str, Table]:
    """Return rollouts as Arrow tables of `schemas.TRAJECTORIES` by policy, for code that takes them so."""
    from sage_dialog.core.tables import from_arrow, to_arrow
    from sage_dialog.schemas import TRAJECTORIES

    frame = rollouts if type(rollouts).__name__ == "DataFrame" else from_arrow(rollouts)
    return {policy: to_arrow(rows, TRAJECTORIES) for policy, rows in frame.groupby("policy", sort=False)}


def _with_blocks(policy_cards: Table) -> list[str]:
    return [row["policy"] for row in policy_cards.to_pylist() if row["blocks"]]
