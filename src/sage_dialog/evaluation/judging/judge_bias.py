"""What kind of judge each one is: by order, by place, by length, by kinship with what it judges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from sage_dialog.config import OutcomeRule
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.length import words_of_both
from sage_dialog.evaluation.judging.votes import Answers, JudgedPair, Outcome, both_orders, outcomes
from sage_dialog.evaluation.statistics import clustered_share

Relation = Literal["same model", "same base"]

POINTS: dict[Outcome, float] = {"a": 0.0, "tie": 0.5, "b": 1.0}
_CLOSENESS: dict[Relation | None, int] = {None: 0, "same base": 1, "same model": 2}


def judge_checks(
    votes: Iterable[Mapping[str, Any]], words: Mapping[str, Mapping[str, int]], confidence: float
) -> list[dict[str, Any]]:
    """Each judge over all its pairs, as rows of `schemas.JUDGE_CHECKS`; what there is nothing to count of has no row.

    order_flips: pairs of dialogues, both answers readable, on which the answer changes with the order. names_first:
    answers that name a dialogue and name the one read first; even is one half. names_longer: wins on which both orders
    agree that go to the dialogue with more words from the assistant; equal ones are left out. says_tie: readable
    answers that name none. unreadable: of all answers. Intervals take situations as clusters. Of a judge that was
    asked once, an answer is a win and nothing can flip; its order was drawn by lot, so that even is one half, too.

    Args:
        votes: rows of `schemas.JUDGE_VOTES`.
        words: by policy and situation; see `length.words_said`.
        confidence: such as 0.95.

    Raises:
        ValueError: naming a situation that was judged and is not in the rollouts.
    """
    counted: dict[tuple[str, str], dict[str, list[int]]] = {}
    for pair, by_situation in both_orders(votes).items():
        for situation, answers in by_situation.items():
            of_a, of_b = words_of_both(words, pair, situation)
            for statistic, (found, among) in _counts(answers, of_b - of_a).items():
                clusters = counted.setdefault((pair.judge, statistic), defaultdict(lambda: [0, 0]))
                clusters[situation][0] += found
                clusters[situation][1] += among
    rows = []
    for (judge, statistic), clusters in counted.items():
        if any(among for _, among in clusters.values()):
            successes, sizes = zip(*clusters.values(), strict=True)
            share = clustered_share(successes, sizes, confidence)
            rows.append(
                {
                    "judge": judge,
                    "statistic": statistic,
                    "n": share.n,
                    "value": share.value,
                    "low": share.low,
                    "high": share.high,
                }
            )
    return rows


def _counts(answers: Answers, longer: int) -> dict[str, tuple[int, int]]:
    """(how many, among how many) of one pair of dialogues; `longer`: the words that b's has more than a's."""
    readable = [answer for answer in answers.given if answer != "unreadable"]
    first = (answers.ab == "a") + (answers.ba == "b")
    second = (answers.ab == "b") + (answers.ba == "a")
    won = answers.kind == "win" and longer != 0
    return {
        "order_flips": (answers.kind == "inconsistent", len(answers.given) == 2 and answers.kind != "unreadable"),
        "names_first": (first, first + second),
        "names_longer": (won and ("b" in answers) == (longer > 0), won),
        "says_tie": (readable.count("tie"), len(readable)),
        "unreadable": (len(answers.given) - len(readable), len(answers.given)),
    }


def self_preference(
    votes: Iterable[Mapping[str, Any]],
    policies: Iterable[Mapping[str, Any]],
    bootstrap: Bootstrap,
    rule: OutcomeRule = "agreement",
) -> list[dict[str, Any]]:
    """Whether a judge favours what is made from its own model: rows of `schemas.SELF_PREFERENCE`.

    A judge's model is the first word of its name, such as "mistralai/Mixtral-8x7B-Instruct-v0.1" of
    "mistralai/Mixtral-8x7B-Instruct-v0.1 judge 1a2b3c4d". A policy is the same model where its name, or as a base the
    name of its base, is that one, and has the same base where only its base is; of paths the last part counts, in any
    case. A pair has a row where one of its policies is closer to the judge than the other. A tie is half a win.

    A judge that names its kin more often may be right. So it is compared with the judges to which neither policy is
    closer, on the situations that any of them judged (some, such as people, judge only a few), with the mean of those
    that did; the interval of the difference is a bootstrap over these.
    Where there is no such judge, the difference is null: preference and quality cannot be told apart.

    Args:
        votes: rows of `schemas.JUDGE_VOTES`.
        policies: rows of `schemas.POLICIES`.
        bootstrap: how intervals are made.
        rule: see `votes.outcomes`.

    Raises:
        ValueError: naming a policy that was judged and is not in the table.
    """
    cards = {card["policy"]: card for card in policies}
    judged: dict[tuple[str, str], dict[str, Mapping[str, Outcome]]] = {}
    for pair, by_situation in outcomes(votes, rule).items():
        judged.setdefault(pair[1:], {})[pair.judge] = by_situation
    rows = []
    for (policy_a, policy_b), judges in judged.items():
        for policy in (policy_a, policy_b):
            if policy not in cards:
                raise ValueError(
                    f"{policy} was judged, but the table `policy_cards` does not hold it; run both again: "
                    f"kedro run --pipelines evaluation"
                )
        relations = {judge: [_relation(judge, cards[policy]) for policy in (policy_a, policy_b)] for judge in judges}
        neutral = [judge for judge, (to_a, to_b) in relations.items() if to_a == to_b]
        for judge, (to_a, to_b) in relations.items():
            if to_a == to_b:
                continue
            b_is_kin = _CLOSENESS[to_b] > _CLOSENESS[to_a]
            rows.append(
                {
                    "judge": judge,
                    "policy": policy_b if b_is_kin else policy_a,
                    "relation": to_b if b_is_kin else to_a,
                    "other_policy": policy_a if b_is_kin else policy_b,
                    **_favour(JudgedPair(judge, policy_a, policy_b), judges, neutral, b_is_kin, bootstrap),
                }
            )
    return rows


def _relation(judge: str, card: Mapping[str, Any]) -> Relation | None:
    model, base = _last_part(judge.split()[0] if judge.split() else ""), _last_part(card["base"])
    if model == _last_part(card["policy"]) or (card["kind"] in ("base", "outside") and model == base):
        return "same model"
    return "same base" if model == base else None


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def _favour(
    pair: JudgedPair,
    judges: Mapping[str, Mapping[str, Outcome]],
    neutral: Sequence[str],
    b_is_kin: bool,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """What the judge gives its kin, what neutral judges give it, and the difference with its interval."""
    import numpy as np

    def points(judge: str, situation: str) -> float:
        of_b = POINTS[judges[judge][situation]]
        return of_b if b_is_kin else 1 - of_b

    common = [situation for situation in judges[pair.judge] if any(situation in judges[other] for other in neutral)]
    if not common:
        own = [points(pair.judge, situation) for situation in judges[pair.judge]]
        return {"n": len(own), "share": fmean(own)}
    given = np.array(
        [
            (
                points(pair.judge, situation),
                fmean(points(other, situation) for other in neutral if situation in judges[other]),
                1.0,
            )
            for situation in common
        ]
    )
    own, others = given[:, :2].mean(axis=0).tolist()
    totals = bootstrap.totals(given, np.array([[1, 0, 1], [0, 1, 1]]), 1 / 2, "self-preference", *pair)
    low, high = bootstrap.interval((totals[:, 0] - totals[:, 1]) / totals[:, 2], own - others)
    return {
        "n": len(common),
        "share": own,
        "neutral_share": others,
        "difference": own - others,
        "low": low,
        "high": high,
    }
