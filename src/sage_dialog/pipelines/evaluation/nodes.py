"""Policies become rollouts, votes, tables and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.generation.engine import OpenEngine
from sage_dialog.parameters import Evaluation, SacAugmentation
from sage_dialog.policies import Policy
from sage_dialog.roles.protocols import Annotator, Judge, Selector
from sage_dialog.tables import Table, table

if TYPE_CHECKING:
    from sage_dialog.evaluation.resampling import Bootstrap


def describe_policies(**policies: Policy) -> Table:
    """The cards of the evaluated policies, as a table of `schemas.POLICIES`; weights are hashed, not loaded."""
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
    from sage_dialog.selfplay.play import rollout

    opened = engine(base, [agent, user], seed, threads)
    return rollout(opened, agent, user, situations, evaluation, sac_augmentation.preambles, seed, Path(scratch))


def judge_pairs(evaluation: Evaluation, judges: list[Judge], **rollouts: Table) -> Table:
    """The votes of every judge on the configured pairs, in both orders, as a table of `schemas.JUDGE_VOTES`."""
    from sage_dialog.evaluation.votes import collect_votes
    from sage_dialog.schemas import JUDGE_VOTES

    votes = [vote for judge in judges for vote in collect_votes(rollouts, evaluation.pairs, judge)]
    return table(votes, JUDGE_VOTES)


def count_wins(votes: Table, evaluation: Evaluation, seed: int) -> Table:
    """A table of `schemas.WIN_RATES` from one of `schemas.JUDGE_VOTES`."""
    from sage_dialog.evaluation.votes import win_rates
    from sage_dialog.schemas import WIN_RATES

    return table(win_rates(_answers(votes), _bootstrap(evaluation, seed), evaluation.outcome_rule), WIN_RATES)


def rank_policies(votes: Table, evaluation: Evaluation, seed: int) -> Table:
    """One ranking a judge, from all its pairs, as a table of `schemas.RANKING`."""
    from sage_dialog.evaluation.ranking import ranking
    from sage_dialog.schemas import RANKING

    return table(ranking(_answers(votes), _bootstrap(evaluation, seed), evaluation.outcome_rule), RANKING)


def plan_situations(win_rates: Table, evaluation: Evaluation) -> Table:
    """How many situations would show what, as a table of `schemas.SAMPLE_SIZES`."""
    from sage_dialog.evaluation.power import sample_sizes
    from sage_dialog.schemas import SAMPLE_SIZES

    dials = (evaluation.true_shares, evaluation.confidence, evaluation.power)
    return table(sample_sizes(win_rates.to_pylist(), *dials), SAMPLE_SIZES)


def check_judges(
    votes: Table,
    policy_cards: Table,
    evaluation: Evaluation,
    seed: int,
    outside_votes: Table | None = None,
    **rollouts: Table,
) -> tuple[Table, Table, Table, Table]:
    """What kind of judges these are; `outside_votes`, such as a generated world's truth, are compared with theirs.

    Returns:
        Tables of `schemas.JUDGE_CHECKS`, `LENGTH_CONTROL`, `JUDGE_AGREEMENT`, `SELF_PREFERENCE`.
    """
    from sage_dialog import schemas
    from sage_dialog.evaluation.agreement import judge_agreement
    from sage_dialog.evaluation.judges import judge_checks, self_preference
    from sage_dialog.evaluation.length import length_control, words_said

    rule, bootstrap, words = evaluation.outcome_rule, _bootstrap(evaluation, seed), words_said(rollouts)
    judged = _answers(votes)
    compared = judged if outside_votes is None else judged + _answers(outside_votes)
    return (
        table(judge_checks(judged, words, evaluation.confidence), schemas.JUDGE_CHECKS),
        table(length_control(judged, words, evaluation.confidence, rule), schemas.LENGTH_CONTROL),
        table(judge_agreement(compared, bootstrap, rule), schemas.JUDGE_AGREEMENT),
        table(self_preference(judged, policy_cards.to_pylist(), bootstrap, rule), schemas.SELF_PREFERENCE),
    )


def score_emotions(evaluation: Evaluation, situations: Table, policy_cards: Table, **rollouts: Table) -> Table:
    """Predicted against labelled user emotion, as a table of `schemas.EMOTION_ACCURACY`."""
    from sage_dialog.evaluation.emotions import emotion_accuracy
    from sage_dialog.schemas import EMOTION_ACCURACY

    rows = emotion_accuracy(rollouts, _with_blocks(policy_cards), situations, evaluation.confidence)
    return table(rows, EMOTION_ACCURACY)


def map_emotions(
    evaluation: Evaluation, situations: Table, policy_cards: Table, **rollouts: Table
) -> tuple[Table, Table, Table, bytes]:
    """What the policies' free emotion words mean, against the label.

    Returns:
        Tables of `schemas.MAPPED_EMOTIONS`, `UNMAPPED_EMOTIONS`, `EMOTION_CONFUSION`, and the last one's figure as PNG.
    """
    from sage_dialog import schemas
    from sage_dialog.evaluation.emotions import emotion_confusion, mapped_emotions, read_emotions, unmapped_emotions
    from sage_dialog.evaluation.figures import confusion_figure

    readings = read_emotions(rollouts, _with_blocks(policy_cards), situations)
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
    from sage_dialog.evaluation.emotions import emotion_top_k
    from sage_dialog.schemas import EMOTION_TOP_K

    return table(emotion_top_k(candidates, situations, evaluation.confidence), EMOTION_TOP_K)


def describe_replies(evaluation: Evaluation, policy_cards: Table, **rollouts: Table) -> tuple[Table, bytes, Table]:
    """What the replies mean to do and what they look like (paper Figure 3).

    Returns:
        A table of `schemas.ACTION_DISTRIBUTION`, its figure as PNG, a table of `schemas.REPLY_STATISTICS`.
    """
    from sage_dialog.evaluation.figures import action_figure
    from sage_dialog.evaluation.replies import action_distribution, reply_statistics
    from sage_dialog.schemas import ACTION_DISTRIBUTION, REPLY_STATISTICS

    with_blocks = _with_blocks(policy_cards)
    actions = action_distribution(rollouts, with_blocks, evaluation.confidence)
    statistics = reply_statistics(rollouts, evaluation.confidence)
    return table(actions, ACTION_DISTRIBUTION), action_figure(actions), table(statistics, REPLY_STATISTICS)


def follow_actions(evaluation: Evaluation, policy_cards: Table, **rollouts: Table) -> tuple[Table, bytes]:
    """What follows what along a dialogue: a table of `schemas.ACTION_TRANSITIONS` and its figure as PNG."""
    from sage_dialog.evaluation.figures import transition_figure
    from sage_dialog.evaluation.replies import action_transitions
    from sage_dialog.schemas import ACTION_TRANSITIONS

    steps = action_transitions(rollouts, _with_blocks(policy_cards), evaluation.confidence)
    return table(steps, ACTION_TRANSITIONS), transition_figure(steps)


def measure_diversity(evaluation: Evaluation, seed: int, policy_cards: Table, **rollouts: Table) -> Table:
    """How much a policy varies what it does and says, as a table of `schemas.DIVERSITY`."""
    from sage_dialog.evaluation.diversity import diversity
    from sage_dialog.schemas import DIVERSITY

    return table(diversity(rollouts, _with_blocks(policy_cards), evaluation.confidence, seed), DIVERSITY)


def find_failures(evaluation: Evaluation, seed: int, policy_cards: Table, **rollouts: Table) -> tuple[Table, Table]:
    """How policies fail, with examples: tables of `schemas.FAILURE_MODES` and `schemas.FAILURE_EXAMPLES`."""
    from sage_dialog.evaluation.failures import failure_modes
    from sage_dialog.schemas import FAILURE_EXAMPLES, FAILURE_MODES

    modes, examples = failure_modes(rollouts, _with_blocks(policy_cards), evaluation.confidence, seed)
    return table(modes, FAILURE_MODES), table(examples, FAILURE_EXAMPLES)


def draw_training(**logs: Table) -> bytes:
    """The curves of the trainings, as PNG; `logs` are `schemas.TRAINING_LOG` by policy."""
    from sage_dialog.evaluation.figures import training_figure

    return training_figure({policy: log.to_pylist() for policy, log in logs.items()})


def write_report(
    evaluation: Evaluation,
    seed: int,
    annotator: Annotator,
    selector: Selector,
    judges: list[Judge],
    policy_cards: Table,
    situations: Table,
    judge_votes: Table,
    win_rates: Table,
    ranking: Table,
    judge_checks: Table,
    length_control: Table,
    judge_agreement: Table,
    self_preference: Table,
    sample_sizes: Table,
    emotion_accuracy: Table,
    mapped_emotions: Table,
    unmapped_emotions: Table,
    emotion_confusion: Table,
    confusion_figure: bytes,
    emotion_top_k: Table,
    reply_statistics: Table,
    action_figure: bytes,
    transition_figure: bytes,
    diversity: Table,
    failure_modes: Table,
    failure_examples: Table,
    training_figure: bytes,
    filter_report: Table,
    filter_figure: bytes,
    candidates: Table,
    trajectories: Table,
    outside_scores: Table | None = None,
    outside_win_rates: Table | None = None,
    **left_out: Table,
) -> str:
    """The HTML report; candidates and trajectories are those of the last self-play iteration.

    `left_out` are tables of `schemas.LEFT_OUT` by policy.
    """
    from sage_dialog.evaluation.report import Contents, render_report

    return render_report(
        Contents(
            dials=evaluation,
            seed=seed,
            roles={"annotator": annotator.name, "selector": selector.name},
            judges=[judge.name for judge in judges],
            policies=policy_cards,
            situations=situations,
            judge_votes=judge_votes,
            win_rates=win_rates,
            ranking=ranking,
            judge_checks=judge_checks,
            length_control=length_control,
            judge_agreement=judge_agreement,
            self_preference=self_preference,
            sample_sizes=sample_sizes,
            emotion_accuracy=emotion_accuracy,
            mapped_emotions=mapped_emotions,
            unmapped_emotions=unmapped_emotions,
            emotion_confusion=emotion_confusion,
            confusion_figure=confusion_figure,
            emotion_top_k=emotion_top_k,
            reply_statistics=reply_statistics,
            action_figure=action_figure,
            transition_figure=transition_figure,
            diversity=diversity,
            failure_modes=failure_modes,
            failure_examples=failure_examples,
            training_figure=training_figure,
            left_out=left_out,
            filter_report=filter_report,
            filter_figure=filter_figure,
            candidates=candidates,
            trajectories=trajectories,
            outside_scores=outside_scores,
            outside_win_rates=outside_win_rates,
        )
    )


def _answers(votes: Table) -> list[dict[str, Any]]:
    """Votes without what the judge wrote, which may be long."""
    return votes.drop_columns("raw_reply").to_pylist()


def _bootstrap(evaluation: Evaluation, seed: int) -> Bootstrap:
    from sage_dialog.evaluation.resampling import Bootstrap

    return Bootstrap(evaluation.confidence, evaluation.replicates, seed)


def _with_blocks(policy_cards: Table) -> list[str]:
    return [row["policy"] for row in policy_cards.to_pylist() if row["blocks"]]
