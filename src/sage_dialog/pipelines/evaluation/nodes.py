"""Play held-out dialogues, judge them, and measure the replies."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.config import Evaluation, SacAugmentation
from sage_dialog.core.hub_models import BASE
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import Engine, OpenEngine
from sage_dialog.inference.external_models import ExternalModel, ExternalModelEngine
from sage_dialog.inference.external_policies import ExternalPolicy
from sage_dialog.roles.protocols import Judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sage_dialog.evaluation.bootstrap import Bootstrap
    from sage_dialog.studio.arena.vote_file import HumanVote
else:
    Figure = HumanVote = Any

logger = logging.getLogger(__name__)


def describe_policies(
    external_models: dict[str, ExternalModel], external_policies: dict[str, ExternalPolicy], **policies: Policy
) -> DataFrame:
    """Return the cards of all policies and external models, as `POLICIES`; weights are hashed, not loaded."""
    from sage_dialog.core.tables import from_rows
    from sage_dialog.schemas import POLICIES

    policies |= {name: one.resolve(policies[BASE])[1] for name, one in external_policies.items()}
    rows = [{**vars(policy.card), "policy": name, "revision": policy.revision()} for name, policy in policies.items()]
    external = {"kind": "external", "blocks": False, "base_revision": "not known"}
    rows += [
        {**external, "policy": name, "revision": model.model, "base": model.model}
        for name, model in external_models.items()
    ]
    return from_rows(rows, POLICIES)


def play_rollouts(
    base: Policy,
    agent: Policy,
    user: Policy,
    situations: DataFrame,
    engine: OpenEngine,
    evaluation: Evaluation,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    scratch: str,
) -> DataFrame:
    """Return a policy's dialogues with the simulated user on held-out situations, as `TRAJECTORIES` (paper §3.6)."""
    from sage_dialog.selfplay.search import rollout

    opened = engine(base, [agent, user], seed, threads)
    return rollout(opened, agent, user, situations, evaluation, sac_augmentation.system_prompts, seed, Path(scratch))


def play_external_models(
    base: Policy,
    user: Policy,
    situations: DataFrame,
    engine: OpenEngine,
    external_models: dict[str, ExternalModel],
    external_policies: dict[str, ExternalPolicy],
    evaluation: Evaluation,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    scratch: str,
) -> DataFrame:
    """Return dialogues of external models and policies with the same user on the same situations, as `ROLLOUTS`."""
    import pandas as pd

    from sage_dialog.core.tables import conform, from_rows
    from sage_dialog.schemas import ROLLOUTS
    from sage_dialog.selfplay.search import rollout

    rollouts = [from_rows([], ROLLOUTS)]

    def play(opened: Engine, player: ExternalModel | Policy, system_prompt: str | None) -> None:
        prompts = dict(sac_augmentation.system_prompts)
        if system_prompt is not None:
            prompts["listener"] = system_prompt
        played = rollout(opened, player, user, situations, evaluation, prompts, seed, Path(scratch))
        rollouts.append(conform(played.assign(policy=player.name), ROLLOUTS))

    for model in external_models.values():
        play(ExternalModelEngine(model, engine(base, [user], seed, threads), seed), model, None)
    for external in external_policies.values():
        play(*external.open(engine, base, [user], seed, threads), external.system_prompt)
    return pd.concat(rollouts, ignore_index=True)


def collect_rollouts(external_rollouts: DataFrame, **rollouts: DataFrame) -> DataFrame:
    """Return the rollouts of all policies and external models as one table of `schemas.ROLLOUTS`."""
    import pandas as pd

    from sage_dialog.core.tables import conform
    from sage_dialog.schemas import ROLLOUTS

    tables = [rows.assign(policy=policy) for policy, rows in rollouts.items()]
    return conform(pd.concat([*tables, external_rollouts]), ROLLOUTS)


def judge_pairs(evaluation: Evaluation, judges: list[Judge], rollouts: DataFrame) -> DataFrame:
    """Return the votes of every configured judge on the configured pairs, as a table of `schemas.JUDGE_VOTES`."""
    import pandas as pd

    from sage_dialog.core.tables import from_rows
    from sage_dialog.evaluation.judging.votes import collect_votes
    from sage_dialog.schemas import JUDGE_VOTES

    votes = [collect_votes(rollouts, evaluation.pairs, judge) for judge in judges]
    return pd.concat([from_rows([], JUDGE_VOTES), *votes], ignore_index=True)


def gather_votes(
    model_votes: DataFrame, human_votes: dict[str, list[HumanVote]], evaluation: Evaluation, rollouts: DataFrame
) -> tuple[DataFrame, DataFrame]:
    """Return the judges' and people's votes, as `JUDGE_VOTES`, and people's that are not valid, as `VOTE_REJECTS`."""
    import pandas as pd

    from sage_dialog.studio.arena.counting import count_votes

    counted, rejects = count_votes(human_votes, rollouts, evaluation.pairs)
    if human_votes:
        logger.info(
            "%d votes of people (%s); %d rejected: see vote_rejects", len(counted), ", ".join(human_votes), len(rejects)
        )
    return pd.concat([model_votes, counted], ignore_index=True), rejects


def count_wins(votes: DataFrame, evaluation: Evaluation) -> DataFrame:
    """Return a table of `schemas.WIN_RATES` from one of `schemas.JUDGE_VOTES`."""
    from sage_dialog.evaluation.judging.votes import win_rates

    return win_rates(votes, evaluation.confidence, evaluation.outcome_rule)


def rank_policies(votes: DataFrame, evaluation: Evaluation, seed: int) -> DataFrame:
    """Return each judge's ranking from all its pairs, as a table of `schemas.RANKING`."""
    from sage_dialog.evaluation.judging.ranking import ranking

    return ranking(votes, _bootstrap(evaluation, seed), evaluation.outcome_rule)


def plan_situations(win_rates: DataFrame, evaluation: Evaluation) -> DataFrame:
    """Return how many situations detect which difference, as a table of `schemas.SAMPLE_SIZES`."""
    from sage_dialog.evaluation.judging.power import sample_sizes

    return sample_sizes(win_rates, evaluation.true_shares, evaluation.confidence, evaluation.power)


def check_judges(
    votes: DataFrame,
    policy_cards: DataFrame,
    rollouts: DataFrame,
    evaluation: Evaluation,
    seed: int,
    external_votes: DataFrame | None = None,
) -> tuple[DataFrame, DataFrame, DataFrame, DataFrame]:
    """Return tables of `schemas.JUDGE_CHECKS`, `LENGTH_CONTROL`, `JUDGE_AGREEMENT`, `SELF_PREFERENCE`.

    `external_votes`, such as those by a generated world's truth, take part in the agreement only.
    """
    import pandas as pd

    from sage_dialog.evaluation.judging.agreement import judge_agreement
    from sage_dialog.evaluation.judging.judge_bias import judge_checks, self_preference
    from sage_dialog.evaluation.judging.length import count_words, length_control

    rule, bootstrap, words = evaluation.outcome_rule, _bootstrap(evaluation, seed), count_words(rollouts)
    return (
        judge_checks(votes, evaluation.confidence),
        length_control(votes, words, evaluation.confidence, rule),
        judge_agreement(pd.concat([votes, external_votes]), bootstrap, rule),
        self_preference(votes, policy_cards, bootstrap, rule),
    )


def compare_raters(votes: DataFrame, evaluation: Evaluation, seed: int) -> DataFrame:
    """Return how far the people who voted agree, as a table of `schemas.RATER_AGREEMENT`."""
    from sage_dialog.evaluation.judging.raters import rater_agreement

    return rater_agreement(votes, _bootstrap(evaluation, seed))


def parse_blocks(rollouts: DataFrame, policy_cards: DataFrame) -> DataFrame:
    """Return the agents' replies with their parsed blocks, as a table of `schemas.REPLIES`."""
    from sage_dialog.evaluation.rollouts import parse_replies

    return parse_replies(rollouts, policy_cards)


def score_emotions(
    replies: DataFrame, situations: DataFrame, evaluation: Evaluation
) -> tuple[DataFrame, DataFrame, DataFrame, DataFrame]:
    """Return tables of `schemas.EMOTION_ACCURACY`, `MAPPED_EMOTIONS`, `UNMAPPED_EMOTIONS`, `EMOTION_CONFUSION`."""
    from sage_dialog.evaluation.replies import emotions

    readings, confidence = emotions.read_emotions(replies, situations), evaluation.confidence
    return (
        emotions.emotion_accuracy(readings, situations, confidence),
        emotions.mapped_emotions(readings, confidence),
        emotions.unmapped_emotions(readings),
        emotions.emotion_confusion(readings, confidence),
    )


def score_guesses(evaluation: Evaluation, situations: DataFrame, **candidates: DataFrame) -> DataFrame:
    """Return how often the label is among the emotions that a policy's `candidates` name most, as `EMOTION_TOP_K`."""
    from sage_dialog.evaluation.replies.emotions import emotion_top_k

    return emotion_top_k(candidates, situations, evaluation.confidence)


def describe_replies(
    rollouts: DataFrame, replies: DataFrame, evaluation: Evaluation
) -> tuple[DataFrame, DataFrame, DataFrame]:
    """Return tables of `schemas.ACTION_DISTRIBUTION` (paper Figure 3), `ACTION_TRANSITIONS`, `REPLY_STATISTICS`."""
    from sage_dialog.evaluation.replies.replies import action_distribution, action_transitions, reply_statistics

    return (
        action_distribution(replies, evaluation.confidence),
        action_transitions(replies, evaluation.confidence),
        reply_statistics(rollouts, replies, evaluation.confidence),
    )


def measure_diversity(rollouts: DataFrame, replies: DataFrame, evaluation: Evaluation, seed: int) -> DataFrame:
    """Return the diversity of actions and replies, as a table of `schemas.DIVERSITY`."""
    from sage_dialog.evaluation.replies.diversity import diversity

    return diversity(rollouts, replies, evaluation.confidence, seed)


def find_failures(rollouts: DataFrame, replies: DataFrame, evaluation: Evaluation) -> tuple[DataFrame, DataFrame]:
    """Return the rates of failures and the failing replies, of `schemas.FAILURE_MODES` and `FAILING_REPLIES`."""
    from sage_dialog.evaluation.replies.failures import failure_modes

    return failure_modes(rollouts, replies, evaluation.confidence)


def measure_form(
    base: Policy,
    engine: OpenEngine,
    evaluation: Evaluation,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    **policies: Policy,
) -> DataFrame:
    """Return how often blocks parse on everyday openings, with and without a held form, as `FORM_VALIDITY`."""
    import pandas as pd

    from sage_dialog.core.tables import from_rows
    from sage_dialog.evaluation.replies.form import form_validity
    from sage_dialog.schemas import FORM_VALIDITY

    system_prompt = sac_augmentation.system_prompts.get("listener")
    measured = [
        form_validity(
            engine(base, [policy], seed, threads), policy.name, evaluation.agent, system_prompt, evaluation.confidence
        )
        for policy in policies.values()
        if policy.card.blocks
    ]
    return pd.concat([from_rows([], FORM_VALIDITY), *measured], ignore_index=True)


def score_benchmarks(
    base: Policy,
    benchmark_files: dict[str, Path],
    evaluation: Evaluation,
    seed: int,
    threads: int | None,
    **policies: Policy,
) -> DataFrame:
    """Return scores of standard benchmarks before and after training (paper Table 2), as `BENCHMARK_SCORES`."""
    from sage_dialog.evaluation.benchmarks.scores import benchmark_scores
    from sage_dialog.evaluation.benchmarks.scoring import score_policies

    scores = score_policies(base, policies, benchmark_files, evaluation.benchmarks, seed, threads)
    return benchmark_scores(scores, _bootstrap(evaluation, seed))


def draw_win_rates(win_rates: DataFrame, evaluation: Evaluation) -> Figure:
    """Return a figure of every judge's win rates with their intervals."""
    from sage_dialog.evaluation.report.figures import win_rate_figure

    return win_rate_figure(win_rates, evaluation.confidence)


def draw_confusion(emotion_confusion: DataFrame) -> Figure:
    """Return a figure of the last policy's predicted emotions by label."""
    from sage_dialog.evaluation.report.figures import confusion_figure

    return confusion_figure(emotion_confusion)


def draw_actions(action_distribution: DataFrame, action_transitions: DataFrame) -> tuple[Figure, Figure]:
    """Return figures of the distribution of actions (paper Figure 3) and of their transitions."""
    from sage_dialog.evaluation.report.figures import action_figure, transition_figure

    return action_figure(action_distribution), transition_figure(action_transitions)


def draw_training(**logs: DataFrame) -> Figure:
    """Return a figure of the curves of the trainings; `logs` are tables of `schemas.TRAINING_LOG` by policy."""
    from sage_dialog.evaluation.report.figures import training_figure

    return training_figure(logs)


def _bootstrap(evaluation: Evaluation, seed: int) -> Bootstrap:
    from sage_dialog.evaluation.bootstrap import Bootstrap

    return Bootstrap(evaluation.confidence, evaluation.replicates, seed)
