"""What length has to do with winning: how much is said, and the win rate between dialogues of equal length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sage_dialog.config import OutcomeRule
from sage_dialog.evaluation.judging.votes import JudgedPair, outcomes
from sage_dialog.evaluation.rollouts import replies_by_dialogue

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def words_said(rollouts: Mapping[str, pa.Table]) -> dict[str, dict[str, int]]:
    """By policy and situation, the words of all its replies in the dialogue, split at white space, blocks left out."""
    return {
        policy: {
            situation: sum(len(reply.text.split()) for reply in replies)
            for situation, replies in replies_by_dialogue(table).items()
        }
        for policy, table in rollouts.items()
    }


def words_of_both(words: Mapping[str, Mapping[str, int]], pair: JudgedPair, situation: str) -> tuple[int, int]:
    """The words of policy_a and of policy_b in their dialogues on one situation.

    Raises:
        ValueError: naming the policy whose rollouts do not hold a situation that was judged.
    """
    for policy in (pair.policy_a, pair.policy_b):
        if situation not in words.get(policy, {}):
            raise ValueError(
                f"situation {situation!r} of {pair} was judged, but the rollouts of {policy} do not hold it; "
                f"run both again: kedro run --pipelines evaluation"
            )
    return words[pair.policy_a][situation], words[pair.policy_b][situation]


def length_control(
    votes: Iterable[Mapping[str, Any]],
    words: Mapping[str, Mapping[str, int]],
    confidence: float,
    rule: OutcomeRule = "agreement",
) -> list[dict[str, Any]]:
    """Each pair's win rate as it would be between dialogues of equal length: rows of `schemas.LENGTH_CONTROL`.

    The idea is that of length-controlled AlpacaEval (Dubois et al. 2024): let a logistic regression say how the
    length difference and the policies each move the odds, then ask it about a difference of nothing. Here it is one
    regression for each judge and pair, on the decided situations: log-odds that b wins = skill + slope * log2(words
    of b / words of a), a word added to both so that silence has a length. The rate at equal length is the logistic of
    the skill; `odds_by_doubling` is what a doubling of b's words multiplies its odds by.

    Half a win and half a loss are added to skill and to slope each (a log-F(1, 1) prior, Greenland and Mansournia
    2015), so that both are finite where length alone decides. Intervals are Wald's on the log-odds. Where one policy
    always says more, skill and length cannot be told apart: the interval then spans nearly everything.

    Args:
        votes: rows of `schemas.JUDGE_VOTES`.
        words: by policy and situation; see `words_said`.
        confidence: such as 0.95.
        rule: see `votes.outcomes`.
    """
    import numpy as np

    rows = []
    for pair, by_situation in outcomes(votes, rule).items():
        said = {situation: words_of_both(words, pair, situation) for situation in by_situation}
        decided = [situation for situation, outcome in by_situation.items() if outcome != "tie"]
        doublings = np.array([math.log2((of_b + 1) / (of_a + 1)) for of_a, of_b in map(said.__getitem__, decided)])
        wins_b = np.array([by_situation[situation] == "b" for situation in decided], dtype=float)
        row = {
            **pair._asdict(),
            "n": len(decided),
            "words_a": fmean(of_a for of_a, _ in said.values()),
            "words_b": fmean(of_b for _, of_b in said.values()),
        }
        if decided:
            row |= {"b_says_more": float((doublings > 0).mean()), "win_rate_b": float(wins_b.mean())}
            row |= _at_equal_length(doublings, wins_b, confidence)
        rows.append(row)
    return rows


def _at_equal_length(doublings: np.ndarray, wins_b: np.ndarray, confidence: float) -> dict[str, float]:
    import numpy as np
    from scipy.special import expit
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    pseudo_counts = np.full((2, 2), 0.5)
    won_lost = np.concatenate([np.column_stack([wins_b, 1 - wins_b]), pseudo_counts])
    terms = np.concatenate([np.column_stack([np.ones_like(doublings), doublings]), np.eye(2)])
    fitted = GLM(won_lost, terms, family=Binomial()).fit()
    (rate_low, rate_high), (slope_low, slope_high) = fitted.conf_int(1 - confidence)
    skill, slope = fitted.params
    return {
        "equal_length_rate_b": float(expit(skill)),
        "low": float(expit(rate_low)),
        "high": float(expit(rate_high)),
        "odds_by_doubling": math.exp(slope),
        "odds_low": math.exp(slope_low),
        "odds_high": math.exp(slope_high),
    }
