"""Judged pairs: every pair of dialogues is read in both orders (paper §3.6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sage_dialog.config import OutcomeRule
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.rollouts import same_situations, whole_dialogues
from sage_dialog.evaluation.statistics import holm, sign_test
from sage_dialog.roles.protocols import Comparison, Judge

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal["a", "b", "tie"]
Kind = Literal["win", "tie", "inconsistent", "unreadable"]

ORDERS = ("ab", "ba")
PERSON = "human:"
"""How the name of a judge begins that is a person: one who reads a pair of dialogues once, in an order drawn by lot."""
_VOTE_OF = {
    "ab": {"first": "a", "second": "b", "tie": "tie", "unreadable": "unreadable"},
    "ba": {"first": "b", "second": "a", "tie": "tie", "unreadable": "unreadable"},
}


class JudgedPair(NamedTuple):
    """Two policies as one judge compares them."""

    judge: str
    policy_a: str
    policy_b: str

    def __str__(self) -> str:
        return f"{self.policy_a} against {self.policy_b} (judge {self.judge})"


class Answers(NamedTuple):
    """One judge's answers to one pair of dialogues: "a", "b", "tie" or "unreadable" in each order.

    One of the two is None where the judge was asked once, as people are.
    """

    ab: str | None
    ba: str | None

    @property
    def given(self) -> tuple[str, ...]:
        """The one or two answers."""
        return tuple(answer for answer in self if answer is not None)

    @property
    def kind(self) -> Kind:
        """What the answers are together; a win is one that all of them name."""
        if "unreadable" in self:
            return "unreadable"
        if len(set(self.given)) > 1:
            return "inconsistent"
        return "tie" if "tie" in self else "win"


def _agreement(answers: Answers) -> Outcome:
    return _named(answers.given[0] if answers.kind == "win" else "tie")


def _half(answers: Answers) -> Outcome:
    lead = answers.count("a") - answers.count("b")
    return "a" if lead > 0 else "b" if lead < 0 else "tie"


def _first_order(answers: Answers) -> Outcome:
    return _named(answers.given[0])


def _named(answer: str) -> Outcome:
    return "a" if answer == "a" else "b" if answer == "b" else "tie"


_RULES: dict[OutcomeRule, Callable[[Answers], Outcome]] = {
    "agreement": _agreement,
    "half": _half,
    "first_order": _first_order,
}


def collect_votes(
    rollouts: Mapping[str, pa.Table], pairs: Sequence[tuple[str, str]], judge: Judge
) -> list[dict[str, Any]]:
    """The judge's answer to every ordered pair, as rows of `schemas.JUDGE_VOTES`; unreadable ones are kept.

    Args:
        rollouts: tables of `schemas.TRAJECTORIES` by policy, all on the same situations.
        pairs: the policies compared, as (a, b).
        judge: sees both dialogues as their speakers heard them, and no policy's name.

    Raises:
        ValueError: naming a policy that is missing, or a situation that only one of a pair played.
    """
    from tqdm import tqdm

    dialogues = {policy: whole_dialogues(table) for policy, table in rollouts.items()}
    asked: list[dict[str, Any]] = []
    comparisons: list[Comparison] = []
    for policy_a, policy_b in pairs:
        for situation in same_situations(rollouts, policy_a, policy_b):
            a, b = dialogues[policy_a][situation], dialogues[policy_b][situation]
            for order in ORDERS:
                asked.append({"situation_id": situation, "policy_a": policy_a, "policy_b": policy_b, "order": order})
                comparisons.append(Comparison(a, b) if order == "ab" else Comparison(b, a))
    verdicts = tqdm(judge.judge(comparisons), f"judging with {judge.name}", total=len(comparisons), unit="comparison")
    return [
        {**row, "judge": judge.name, "vote": _VOTE_OF[row["order"]][verdict.vote], "raw_response": verdict.raw_response}
        for row, verdict in zip(asked, verdicts, strict=True)
    ]


def both_orders(votes: Iterable[Mapping[str, Any]]) -> dict[JudgedPair, dict[str, Answers]]:
    """By judge and pair, in order of appearance, the answers on every situation; a person's may be one.

    Raises:
        ValueError: naming a situation that was not judged exactly once in each order.
    """
    heard: dict[JudgedPair, dict[str, dict[str, str]]] = {}
    for vote in votes:
        pair = JudgedPair(vote["judge"], vote["policy_a"], vote["policy_b"])
        both = heard.setdefault(pair, {}).setdefault(vote["situation_id"], {})
        if vote["order"] in both:
            raise ValueError(f"situation {vote['situation_id']!r} of {pair} was judged twice as {vote['order']}")
        both[vote["order"]] = vote["vote"]
    for pair, situations in heard.items():
        if pair.judge.startswith(PERSON):
            continue
        for situation, both in situations.items():
            if missing := set(ORDERS) - set(both):
                raise ValueError(f"situation {situation!r} of {pair} was not judged in order {missing.pop()}")
    return {
        pair: {situation: Answers(both.get("ab"), both.get("ba")) for situation, both in situations.items()}
        for pair, situations in heard.items()
    }


def outcomes(
    votes: Iterable[Mapping[str, Any]], rule: OutcomeRule = "agreement"
) -> dict[JudgedPair, dict[str, Outcome]]:
    """By judge and pair, the outcome on every situation.

    Args:
        votes: rows of `schemas.JUDGE_VOTES`.
        rule: "agreement", the paper's: a policy wins where both orders name it. "half": each order counts half, and
            the policy with more of it wins, so that one clear answer decides beside a tie or an unreadable one.
            "first_order": the order ab alone, as if nobody had asked twice. All else is a tie. Under each of them the
            one answer of a judge that was asked once is the outcome.

    Raises:
        ValueError: naming a situation that was not judged exactly once in each order.
    """
    decide = _RULES[rule]
    return {
        pair: {situation: decide(answers) for situation, answers in by_situation.items()}
        for pair, by_situation in both_orders(votes).items()
    }


def win_rates(
    votes: Iterable[Mapping[str, Any]], bootstrap: Bootstrap, rule: OutcomeRule = "agreement"
) -> list[dict[str, Any]]:
    """Rows of `schemas.WIN_RATES`, in the order in which pairs first appear.

    `win_rate_b` is b's share of the decided situations, its interval a bootstrap over situations. The p-value is that
    of the exact two-sided sign test on the decided, adjusted by Holm's method for all pairs of the same judge.
    """
    rows = []
    for pair, by_situation in both_orders(votes).items():
        results = [_RULES[rule](answers) for answers in by_situation.values()]
        kinds = Counter(answers.kind for answers in by_situation.values())
        wins_a, wins_b = results.count("a"), results.count("b")
        rate, low, high = _share_of_decided(results, bootstrap, pair)
        rows.append(
            {
                **pair._asdict(),
                "rule": rule,
                "n": len(results),
                "wins_a": wins_a,
                "ties": results.count("tie"),
                "wins_b": wins_b,
                "both_say_tie": kinds["tie"],
                "inconsistent": kinds["inconsistent"],
                "unreadable": kinds["unreadable"],
                "win_rate_b": rate,
                "low": low,
                "high": high,
                "p_value": sign_test(wins_a, wins_b),
            }
        )
    for judge in dict.fromkeys(row["judge"] for row in rows):
        asked = [row for row in rows if row["judge"] == judge]
        for row, adjusted in zip(asked, holm([row["p_value"] for row in asked]), strict=True):
            row["p_adjusted"] = adjusted
    return rows


def _share_of_decided(
    results: Sequence[Outcome], bootstrap: Bootstrap, pair: JudgedPair
) -> tuple[float, float, float] | tuple[None, None, None]:
    import numpy as np

    wins = np.array([(result == "a", result == "b") for result in results], dtype=int)
    if not wins.sum():
        return None, None, None
    share = float(wins[:, 1].sum() / wins.sum())
    totals = bootstrap.totals(wins, np.eye(2), 1 / 2, "win rate", *pair)
    return share, *bootstrap.interval(totals[:, 1] / totals.sum(axis=1), share)
