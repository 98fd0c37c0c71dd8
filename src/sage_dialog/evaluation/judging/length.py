"""Effect of length on winning: words of the replies, and the win rate between dialogues of equal length."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
from scipy.special import expit
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.judging.votes import PAIR, outcomes
from sage_dialog.schemas import LENGTH_CONTROL


def count_words(rollouts: DataFrame) -> DataFrame:
    """Return `policy`, `situation_id` and `words`: the words of all replies of a dialogue, without blocks.

    Words are split at white space.
    """
    of_assistant = rollouts["role"] == "assistant"
    words = [len(text.split()) if reply else 0 for text, reply in zip(rollouts["text"], of_assistant, strict=True)]
    by_dialogue = rollouts[["policy", "situation_id"]].assign(words=words).groupby(["policy", "situation_id"])
    return by_dialogue["words"].sum().reset_index()


def add_words(judged: DataFrame, words: DataFrame) -> DataFrame:
    """Return judged situations with the words of their dialogues as columns `words_a` and `words_b`.

    Args:
        judged: columns `judge`, `policy_a`, `policy_b`, `situation_id`.
        words: as returned by `count_words`.

    Raises:
        ValueError: naming the policy whose rollouts do not hold a situation that was judged.
    """
    for side in ("a", "b"):
        of_side = words.rename(columns={"policy": f"policy_{side}", "words": f"words_{side}"})
        judged = judged.merge(of_side, how="left", on=[f"policy_{side}", "situation_id"])
    missing = judged[judged[["words_a", "words_b"]].isna().any(axis=1)]
    if len(missing):
        row = missing.iloc[0]
        policy = row["policy_a"] if np.isnan(row["words_a"]) else row["policy_b"]
        raise ValueError(
            f"situation {row['situation_id']!r} of {row['policy_a']} against {row['policy_b']} (judge {row['judge']}) "
            f"was judged, but the rollouts of {policy} do not hold it; run both again: kedro run --pipelines evaluation"
        )
    return judged


def length_control(votes: DataFrame, words: DataFrame, confidence: float, rule: OutcomeRule = "agreement") -> DataFrame:
    """Return each pair's win rate between dialogues of equal length, as a table of `schemas.LENGTH_CONTROL`.

    As in length-controlled AlpacaEval (Dubois et al. 2024), a logistic regression estimates how the length difference
    and the policies each move the odds, and predicts a difference of zero. There is one regression for each judge and
    pair, on the decided situations: log-odds that b wins = skill + slope * log2(words of b / words of a), with one
    word added to both so that an empty dialogue has a length. The rate at equal length is the logistic of the skill;
    `odds_by_doubling` is the factor on b's odds when its words double.

    Half a win and half a loss are added to skill and to slope each (a log-F(1, 1) prior, Greenland and Mansournia
    2015), so that both are finite if length alone decides. Intervals are Wald's on the log-odds. If one policy always
    writes more, skill and length cannot be separated, and the interval spans nearly everything.

    Args:
        words: as returned by `count_words`.
    """
    rows = []
    for pair, judged in add_words(outcomes(votes, rule), words).groupby(PAIR, sort=False):
        decided = judged[judged["outcome"] != "tie"]
        lengths = zip(decided["words_a"], decided["words_b"], strict=True)
        doublings = np.array([math.log2((of_b + 1) / (of_a + 1)) for of_a, of_b in lengths])
        wins_b = (decided["outcome"] == "b").to_numpy(dtype=float)
        row = dict(zip(PAIR, pair, strict=True), n=len(decided))
        row |= {side: fmean(judged[side]) for side in ("words_a", "words_b")}
        if len(decided):
            row |= {"b_says_more": float((doublings > 0).mean()), "win_rate_b": float(wins_b.mean())}
            row |= _at_equal_length(doublings, wins_b, confidence)
        rows.append(row)
    return from_rows(rows, LENGTH_CONTROL)


def _at_equal_length(doublings: np.ndarray, wins_b: np.ndarray, confidence: float) -> dict[str, float]:
    pseudo_counts = np.full((2, 2), 0.5)
    won_lost = np.concatenate([np.column_stack([wins_b, 1 - wins_b]), pseudo_counts])
    terms = np.concatenate([np.column_stack([np.ones_like(doublings), doublings]), np.eye(2)])
    fitted = GLM(won_lost, terms, family=Binomial()).fit()
    # Rows: skill and slope; columns: value, low, high.
    skill, slope = np.column_stack([fitted.params, fitted.conf_int(1 - confidence)])
    return {
        **dict(zip(("equal_length_rate_b", "low", "high"), expit(skill).tolist(), strict=True)),
        **dict(zip(("odds_by_doubling", "odds_low", "odds_high"), map(math.exp, slope), strict=True)),
    }
