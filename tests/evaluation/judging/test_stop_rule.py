"""The stop rule: exact p-values, verdicts, error rates over several iterations, and the paper's own counts."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import comb

import numpy as np
import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.config import Evaluation, StopRule
from sage_dialog.core.tables import DataFrame, from_rows, to_arrow, to_rows
from sage_dialog.evaluation.judging.stop_rule import conclude, deciding_judge, iteration_verdicts
from sage_dialog.evaluation.judging.table_1 import PRINTED
from sage_dialog.roles.offline.judge import OfflineJudge

RULE = StopRule(situations=None, judge=None, level=0.05, margin=0.1)


def votes_of(iteration: int, losses: int, ties: int, wins: int, inconsistent: int = 0) -> DataFrame:
    outcomes = [("a", "a")] * losses + [("tie", "tie")] * ties + [("b", "b")] * wins + [("a", "b")] * inconsistent
    pair = {"policy_a": f"sage_{iteration}", "policy_b": f"sage_{iteration + 1}", "judge": "judge"}
    return from_rows(
        [
            {**pair, "situation_id": f"{number}", "order": order, "vote": vote}
            for number, both in enumerate(outcomes)
            for order, vote in zip(("ab", "ba"), both, strict=True)
        ],
        schemas.JUDGE_VOTES,
    )


def exact_tail(n: int, share: Fraction, counts: range) -> Fraction:
    return sum((comb(n, k) * share**k * (1 - share) ** (n - k) for k in counts), Fraction())


@pytest.mark.parametrize(("wins", "losses"), [(1, 0), (0, 9), (63, 44), (38, 45), (50, 50), (200, 120)])
def test_p_values_are_those_of_integer_arithmetic(wins: int, losses: int) -> None:
    n = wins + losses
    p_better, p_no_better, _ = conclude(wins, losses, RULE, 2)
    assert p_better == pytest.approx(float(exact_tail(n, Fraction(1, 2), range(wins, n + 1))))
    assert p_no_better == pytest.approx(float(exact_tail(n, Fraction(6, 10), range(wins + 1))))


def test_the_verdict_follows_from_the_p_values_and_few_situations_decide_nothing() -> None:
    assert conclude(63, 44, RULE, 2)[2] == "better"
    assert conclude(38, 45, RULE, 2)[2] == "no better"
    assert conclude(0, 0, RULE, 2) == (1.0, 1.0, "undecided")
    assert conclude(50, 50, RULE, 1)[2] == "no better" and conclude(50, 50, RULE, 2)[2] == "undecided"
    assert [conclude(wins, 0, RULE, 2)[2] for wins in (4, 5)] == ["undecided", "better"]
    # The share is above one half, and by less than the margin.
    p_better, p_no_better, verdict = conclude(5_300, 4_700, RULE, 2)
    assert p_better < 1e-8 and p_no_better < 1e-8 and verdict == "no better"


def test_the_paper_s_counts_stop_after_its_two_iterations() -> None:
    """Its judges found sage_2 better and sage_3 comparable (§3.4, Table 1)."""
    rule = RULE.model_copy(update={"margin": 0.05})
    found = {
        (row.judge, row.policy_b): conclude(row.wins_b, row.wins_a, rule, 2)[2]
        for row in PRINTED
        if (row.policy_a, row.policy_b) in (("sage_1", "sage_2"), ("sage_2", "sage_3"))
    }
    assert found == {
        ("GPT-3.5", "sage_2"): "better", ("Mixtral", "sage_2"): "better",
        ("GPT-3.5", "sage_3"): "no better", ("Mixtral", "sage_3"): "no better",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "situations", "decided"),
    [
        ((0.5, 0.5, 0.5, 0.5), 200, 0.5),
        ((0.8, 0.5, 0.5, 0.5), 200, 0.5),
        ((0.9, 0.5, 0.7, 0.5), 60, 0.9),
        ((0.6, 0.6, 0.6, 0.6), 200, 0.5),
        ((0.9, 0.9, 0.9, 0.6), 2_000, 0.2),
    ],
)
def test_error_rates_hold_over_all_iterations(shares: tuple[float, ...], situations: int, decided: float) -> None:
    """Of 4,000 self-plays at most 5 % call any policy better that is not, and as few end on a wrong "no better"."""
    runs, verdict = 4_000, cache(lambda wins, losses: conclude(wins, losses, RULE, len(shares))[2])
    draw = np.random.default_rng(len(shares) + situations)
    wrongly_better = wrongly_no_better = 0
    for _ in range(runs):
        for share in shares:
            count = draw.binomial(situations, decided)
            wins = int(draw.binomial(count, share))
            if (concluded := verdict(wins, int(count) - wins)) != "better":
                wrongly_no_better += concluded == "no better" and share >= 0.6
                break
            if share <= 0.5:
                wrongly_better += 1
                break
    allowed = 0.05 * runs + 3 * (0.05 * 0.95 * runs) ** 0.5
    assert wrongly_better <= allowed and wrongly_no_better <= allowed
    assert wrongly_better + wrongly_no_better > 0, "the simulation finds no error at all"


def test_the_table_ends_with_the_first_iteration_that_is_not_better() -> None:
    votes = [votes_of(1, 44, 90, 63, inconsistent=3), votes_of(2, 45, 117, 38), votes_of(3, 0, 0, 200)]
    evaluation = Evaluation.from_base()
    table = iteration_verdicts(votes, RULE, 3, evaluation)
    assert to_arrow(table).schema.equals(pa.schema([pa.field(f.name, f.type) for f in schemas.ITERATION_VERDICTS]))
    first, second = to_rows(table)
    assert (first["n"], first["wins"], first["ties"], first["losses"]) == (200, 63, 93, 44)
    assert (first["policy_a"], first["policy_b"], first["verdict"]) == ("sage_1", "sage_2", "better")
    assert first["win_rate"] == 63 / 107 and first["low"] < 63 / 107 < first["high"]
    assert (second["iteration"], second["verdict"], second["level_no_better"]) == (2, "no better", 0.05 / 3)
    assert to_rows(iteration_verdicts(votes[:1], RULE, 3, evaluation)) == [first]
    assert len(iteration_verdicts(votes[1:], RULE, 3, evaluation)) == 1


def test_the_power_is_that_of_the_one_sided_test() -> None:
    (row,) = to_rows(iteration_verdicts([votes_of(1, 30, 100, 30)], RULE, 2, Evaluation.from_base()))
    expected = Fraction()
    for count in range(161):
        of_count = comb(160, count) * Fraction(60, 160) ** count * Fraction(100, 160) ** (160 - count)
        tails = (
            (wins, sum(comb(count, each) for each in range(wins, count + 1))) for wins in range(count // 2, count + 1)
        )
        fewest = next((wins for wins, tail in tails if 20 * tail <= 2**count), None) if count < 140 else None
        if fewest is not None:
            expected += of_count * exact_tail(count, Fraction(6, 10), range(fewest, count + 1))
    assert row["power"] == pytest.approx(float(expected), abs=1e-3)
    assert row["verdict"] == "undecided" and row["needed"] > 160


def test_nothing_decided_is_undecided() -> None:
    (row,) = to_rows(iteration_verdicts([votes_of(1, 0, 5, 0)], RULE, 2, Evaluation.from_base()))
    assert (row["verdict"], row["win_rate"], row["needed"]) == ("undecided", None, None)


def test_the_deciding_judge_is_the_named_one_or_the_first() -> None:
    first, second = OfflineJudge(), OfflineJudge()
    second.name = "second"
    assert deciding_judge([first, second], None) is first
    assert deciding_judge([first, second], "second") is second
    with pytest.raises(ValueError, match=r"'third'.*there are offline-rules-judge, second"):
        deciding_judge([first, second], "third")
    with pytest.raises(ValueError, match="no judge to decide"):
        deciding_judge([], None)
