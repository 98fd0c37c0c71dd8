"""Judged pairs: every pair of dialogues is read in both orders, and only agreement counts (paper §3.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sage_dialog.evaluation.rollouts import same_situations, whole_dialogues
from sage_dialog.evaluation.statistics import proportion_interval, sign_test
from sage_dialog.roles.protocols import Comparison, Judge

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal["a", "b", "tie"]

ORDERS = ("ab", "ba")
_VOTE_OF = {
    "ab": {"first": "a", "second": "b", "tie": "tie", "unreadable": "unreadable"},
    "ba": {"first": "b", "second": "a", "tie": "tie", "unreadable": "unreadable"},
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
        {**row, "judge": judge.name, "vote": _VOTE_OF[row["order"]][verdict.vote], "raw_reply": verdict.raw_reply}
        for row, verdict in zip(asked, verdicts, strict=True)
    ]


def outcomes(votes: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, Outcome]]:
    """By (judge, policy_a, policy_b), the outcome on every situation.

    A policy wins where both orders name it; anything else, an unreadable answer included, is a tie.

    Raises:
        ValueError: naming a situation that was not judged exactly once in each order.
    """
    heard: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for vote in votes:
        pair = (vote["judge"], vote["policy_a"], vote["policy_b"])
        both = heard.setdefault(pair, {}).setdefault(vote["situation_id"], {})
        if vote["order"] in both:
            raise ValueError(
                f"situation {vote['situation_id']!r} of {_named(pair)} was judged twice as {vote['order']}"
            )
        both[vote["order"]] = vote["vote"]
    for pair, situations in heard.items():
        for situation, both in situations.items():
            if missing := set(ORDERS) - set(both):
                raise ValueError(f"situation {situation!r} of {_named(pair)} was not judged in order {missing.pop()}")
    return {
        pair: {situation: _agreed(both["ab"], both["ba"]) for situation, both in situations.items()}
        for pair, situations in heard.items()
    }


def win_rates(votes: Iterable[Mapping[str, Any]], confidence: float) -> list[dict[str, Any]]:
    """Rows of `schemas.WIN_RATES`, in the order in which pairs first appear.

    `win_rate_b` is b's share of the decided situations with its Wilson interval; the p-value is that of the
    exact two-sided sign test on the decided.
    """
    rows = []
    for (judge, policy_a, policy_b), by_situation in outcomes(votes).items():
        results = list(by_situation.values())
        wins_a, wins_b = results.count("a"), results.count("b")
        decided = wins_a + wins_b
        low, high = proportion_interval(wins_b, decided, confidence) if decided else (None, None)
        rows.append(
            {
                "judge": judge,
                "policy_a": policy_a,
                "policy_b": policy_b,
                "n": len(results),
                "wins_a": wins_a,
                "ties": results.count("tie"),
                "wins_b": wins_b,
                "win_rate_b": wins_b / decided if decided else None,
                "low": low,
                "high": high,
                "p_value": sign_test(wins_a, wins_b),
            }
        )
    return rows


def _agreed(ab: str, ba: str) -> Outcome:
    if ab != ba:
        return "tie"
    return "a" if ab == "a" else "b" if ab == "b" else "tie"


def _named(pair: tuple[str, str, str]) -> str:
    return f"{pair[1]} against {pair[2]} (judge {pair[0]})"
