"""Play the valid split with two policies in a row, judge them, and conclude which is better."""

from __future__ import annotations

from sage_dialog.config import Evaluation, SacAugmentation, StopRule
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import OpenEngine
from sage_dialog.roles.protocols import Judge


def play_valid_situations(
    base: Policy,
    agent: Policy,
    user: Policy,
    situations: DataFrame,
    engine: OpenEngine,
    evaluation: Evaluation,
    size: int | None,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    scratch: str,
) -> DataFrame:
    """Return a policy's dialogues on the valid split, whatever split the evaluation reports, as `TRAJECTORIES`.

    Args:
        size: number of situations, sampled by seed; None for all.
    """
    from sage_dialog.pipelines.evaluation.nodes import play_rollouts

    rules = evaluation.model_copy(update={"split": "valid", "situations": size})
    return play_rollouts(base, agent, user, situations, engine, rules, sac_augmentation, seed, threads, scratch)


def judge_iteration(judge: str | None, judges: list[Judge], **rollouts: DataFrame) -> DataFrame:
    """Return the deciding judge's votes on two policies in both orders, as a table of `schemas.JUDGE_VOTES`.

    Args:
        judge: name of the one that decides; None for the first.
        rollouts: `schemas.TRAJECTORIES` of the earlier and of the later policy, by its name.
    """
    import pandas as pd

    from sage_dialog.core.tables import conform
    from sage_dialog.evaluation.judging.stop_rule import deciding_judge
    from sage_dialog.evaluation.judging.votes import collect_votes
    from sage_dialog.schemas import ROLLOUTS

    earlier, later = rollouts
    played = conform(pd.concat([rows.assign(policy=policy) for policy, rows in rollouts.items()]), ROLLOUTS)
    return collect_votes(played, [(earlier, later)], deciding_judge(judges, judge))


def decide(evaluation: Evaluation, stop_rule: StopRule, iterations: int, **votes: DataFrame) -> DataFrame:
    """Return the verdict on each iteration up to the first that ends self-play, as `schemas.ITERATION_VERDICTS`.

    Args:
        iterations: the most that there can be.
        votes: `schemas.JUDGE_VOTES` of each iteration, in order.
    """
    from sage_dialog.evaluation.judging.stop_rule import iteration_verdicts

    return iteration_verdicts(list(votes.values()), stop_rule, iterations, evaluation)
