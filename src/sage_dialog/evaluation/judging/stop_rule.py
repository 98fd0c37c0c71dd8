"""When self-play stops: exact tests of each policy against the one before (paper §3.4).

The share of wins of the later policy, of the decided situations, is tested from both sides:

- "no better": the share is below one half plus the margin, so that what is gained is not worth an iteration;
- "better": it is above one half;
- "undecided": neither can be said; there are too few situations.

Only "better" goes on. Iterations are tested in a fixed order and up to the first that is not better, so that each may
be tested at the full level: a policy is wrongly called better only if the first one that is not better is, and the
probability of that is at most `level`. "No better" may be concluded wrongly after each iteration, and is therefore
tested at the level divided by their largest number (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from scipy.stats import binomtest

from sage_dialog.config import Evaluation, StopRule
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.evaluation.judging.power import sign_test_power, situations_needed
from sage_dialog.evaluation.judging.votes import win_rates
from sage_dialog.roles.protocols import Judge
from sage_dialog.schemas import ITERATION_VERDICTS

IterationVerdict = Literal["better", "no better", "undecided"]


def deciding_judge(judges: Sequence[Judge], name: str | None) -> Judge:
    """Return the judge of this name, or else the first.

    Raises:
        ValueError: if there is none.
    """
    if not judges:
        raise ValueError("there is no judge to decide; the entry `judges` of catalog_roles.yml has none")
    if name is None:
        return judges[0]
    named = next((judge for judge in judges if judge.name == name), None)
    if named is None:
        known = ", ".join(judge.name for judge in judges)
        raise ValueError(f"stop_rule.judge is {name!r}, and no judge has this name; there are {known}")
    return named


def iteration_verdicts(
    votes: Sequence[DataFrame], rule: StopRule, iterations: int, evaluation: Evaluation
) -> DataFrame:
    """Return a table of `schemas.ITERATION_VERDICTS`, up to the first iteration whose policy is not better.

    Args:
        votes: `schemas.JUDGE_VOTES` of one judge on the earlier (a) and the later policy (b), for each iteration.
        iterations: the most that there can be.
        evaluation: its `outcome_rule`, `confidence` and `power` hold here as well.
    """
    rows: list[dict[str, Any]] = []
    for number, of_iteration in enumerate(votes, start=1):
        (rates,) = to_rows(win_rates(of_iteration, evaluation.confidence, evaluation.outcome_rule))
        rows.append(_row(number, rates, rule, iterations, evaluation.power))
        if rows[-1]["verdict"] != "better":
            break
    return from_rows(rows, ITERATION_VERDICTS)


def conclude(wins: int, losses: int, rule: StopRule, iterations: int) -> tuple[float, float, IterationVerdict]:
    """Return the exact one-sided p-values of shares up to one half and from one half plus the margin, and the verdict.

    "No better" goes before "better": with many situations a share can be above one half, and by less than the margin.
    """
    decided = wins + losses
    if not decided:
        return 1.0, 1.0, "undecided"
    p_better = float(binomtest(wins, decided, 0.5, alternative="greater").pvalue)
    p_no_better = float(binomtest(wins, decided, 0.5 + rule.margin, alternative="less").pvalue)
    if p_no_better <= rule.level / iterations:
        return p_better, p_no_better, "no better"
    return p_better, p_no_better, "better" if p_better <= rule.level else "undecided"


def _row(iteration: int, rates: dict[str, Any], rule: StopRule, iterations: int, wanted_power: float) -> dict[str, Any]:
    n, wins, losses = rates["n"], rates["wins_b"], rates["wins_a"]
    p_better, p_no_better, verdict = conclude(wins, losses, rule, iterations)
    # The two-sided test at twice the level is the one-sided test at the level.
    share, decided, level = 0.5 + rule.margin, (wins + losses) / n, 2 * rule.level
    return {
        **{name: rates[name] for name in ("policy_a", "policy_b", "judge", "n", "ties", "low", "high")},
        "iteration": iteration,
        "wins": wins,
        "losses": losses,
        "win_rate": rates["win_rate_b"],
        "p_better": p_better,
        "p_no_better": p_no_better,
        "margin": rule.margin,
        "level": rule.level,
        "level_no_better": rule.level / iterations,
        "power": sign_test_power(n, share, decided, level),
        "needed": situations_needed(share, decided, level, wanted_power) if decided else None,
        "verdict": verdict,
    }
