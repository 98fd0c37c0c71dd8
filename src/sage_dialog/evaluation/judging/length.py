"""Effect of length on winning: words of the replies, and the win rate between dialogues of equal length."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import norm
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.judging.votes import PAIR, outcomes
from sage_dialog.evaluation.statistics import proportion_interval
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
    and the policies each move the odds, and predicts a difference of zero. There is one regression for each judge, on
    the decided situations of all its pairs, with a skill for each pair and one slope: log-odds that b wins = skill of
    the pair + slope * log2(words of b / words of a), with one word added to both so that an empty dialogue has a
    length. The slope compares dialogues within pairs: that one policy is wordy, and better or worse, does not enter
    it. The rate at equal length is the logistic of the skill; `odds_by_doubling` is the factor on b's odds when its
    words double, the same in all rows of a judge. `longer_wins` is the share of the decided situations of unequal
    length that go to the longer dialogue.

    Half a win and half a loss are added to the slope (a log-F(1, 1) prior, Greenland and Mansournia 2015), so that it
    is finite if length alone decides. A pair that one policy always wins says nothing on length: its dialogues enter
    with their mean difference, and half a win and half a loss. Intervals are Wald's on the log-odds. If one policy
    always writes more, skill and length cannot be separated, and the interval spans nearly everything.

    Args:
        words: as returned by `count_words`.
    """
    judged = add_words(outcomes(votes, rule), words)
    of_a, of_b = (judged[side].to_numpy(dtype=float) for side in ("words_a", "words_b"))
    judged["doublings"] = np.log2(of_b + 1) - np.log2(of_a + 1)
    rows = []
    for judge, of_judge in judged.groupby("judge", sort=False):
        decided = of_judge[of_judge["outcome"] != "tie"]
        rates = _at_equal_length(decided, confidence)
        for pair, of_pair in of_judge.groupby(["policy_a", "policy_b"], sort=False):
            found = decided[(decided["policy_a"] == pair[0]) & (decided["policy_b"] == pair[1])]
            row = dict(zip(PAIR, (judge, *pair), strict=True), n=len(found), unequal=0)
            row |= {side: fmean(of_pair[side]) for side in ("words_a", "words_b")}
            if len(found):
                doublings, won = found["doublings"].to_numpy(), (found["outcome"] == "b").to_numpy(bool)
                row |= {"b_says_more": float((doublings > 0).mean()), "win_rate_b": float(won.mean())}
                row |= rates[pair] | _longer_wins(doublings, won, confidence)
            rows.append(row)
    return from_rows(rows, LENGTH_CONTROL)


def _longer_wins(doublings: np.ndarray, won: np.ndarray, confidence: float) -> dict[str, float]:
    unequal = doublings != 0
    successes, n = int(((doublings > 0) == won)[unequal].sum()), int(unequal.sum())
    if not n:
        return {"unequal": 0}
    low, high = proportion_interval(successes, n, confidence)
    return {"unequal": n, "longer_wins": successes / n, "longer_low": low, "longer_high": high}


def _at_equal_length(decided: DataFrame, confidence: float) -> dict[tuple[str, str], dict[str, float]]:
    """Return the rate at equal length and the slope of one judge by pair, from columns `outcome` and `doublings`."""
    if decided.empty:
        return {}
    by_pair = decided.assign(won=decided["outcome"] == "b").groupby(["policy_a", "policy_b"], sort=False)
    pairs, means = by_pair.ngroup().to_numpy(), by_pair["doublings"].mean()
    one_sided = (by_pair["won"].nunique() == 1).to_numpy()
    won = (decided["outcome"] == "b").to_numpy(dtype=float)
    doublings = np.where(one_sided[pairs], means.to_numpy()[pairs], decided["doublings"])
    skills = np.eye(len(means))
    observed = np.column_stack([skills[pairs], doublings])
    terms = np.concatenate([observed, np.column_stack([skills, means])[one_sided], np.eye(len(means) + 1)[-1:]])
    pseudo_counts = np.full((one_sided.sum() + 1, 2), 0.5)
    won_lost = np.concatenate([np.column_stack([won, 1 - won]), pseudo_counts])
    fitted = GLM(won_lost, terms, family=Binomial()).fit()
    # At least as wide as for independent outcomes: situations that are alike by chance are no additional evidence.
    scores = (terms * (won_lost[:, 0] - fitted.mu)[:, None])[: len(decided)]
    clustered = _clustered_errors(fitted.cov_params(), scores, pd.factorize(decided["situation_id"])[0])
    reach = norm.isf((1 - confidence) / 2) * np.maximum(fitted.bse, clustered)
    values = np.column_stack([fitted.params, fitted.params - reach, fitted.params + reach])
    slope = dict(zip(("odds_by_doubling", "odds_low", "odds_high"), map(math.exp, values[-1]), strict=True))
    return {
        pair: dict(zip(("equal_length_rate_b", "low", "high"), expit(skill).tolist(), strict=True)) | slope
        for pair, skill in zip(means.index, values[:-1], strict=True)
    }


def _clustered_errors(covariance: np.ndarray, scores: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the standard errors of a fit whose observations depend on each other within clusters (Liang, Zeger 1986).

    Args:
        covariance: of the parameters, for independent observations.
        scores: a row is the derivative of an observation's log-likelihood.
    """
    # statsmodels' cov_type="cluster" divides by variances of observations, which round to 0 if length alone decides.
    totals = np.zeros((clusters.max() + 1, scores.shape[1]))
    np.add.at(totals, clusters, scores)
    moved = np.einsum("gk,kl->gl", totals, covariance)
    return np.sqrt(np.square(moved).sum(axis=0) * len(totals) / max(1, len(totals) - 1))
