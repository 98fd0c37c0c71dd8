"""People's votes in every table of judges: a single order is an outcome, and raters are compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judging_tables import votes_table
from statsmodels.stats.inter_rater import cohens_kappa
from voting import PAIRS, POLICIES, rollouts_of

from sage_dialog import schemas
from sage_dialog.config import Evaluation, OutcomeRule
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.datasets.human_votes import HumanVotes
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.judge_bias import judge_checks, self_preference
from sage_dialog.evaluation.judging.people import PEOPLE
from sage_dialog.evaluation.judging.votes import outcomes, win_rates
from sage_dialog.pipelines.evaluation.nodes import check_judges, compare_raters, count_wins, gather_votes, rank_policies
from sage_dialog.studio.arena.ballots import plan_ballots
from sage_dialog.studio.arena.session import Session

RULES: tuple[OutcomeRule, ...] = ("agreement", "half", "first_order")
BOOTSTRAP = Bootstrap(0.95, 400, 0)


def row(situation: int, order: str, vote: str, judge: str = "human:anna", **pair: str) -> dict[str, Any]:
    pair = {"policy_a": "sage_0", "policy_b": "sage_1", **pair}
    return {"situation_id": f"test/{situation}", **pair, "order": order, "judge": judge, "vote": vote}


def both(situation: int, vote: str, judge: str, **pair: str) -> list[dict[str, Any]]:
    return [row(situation, order, vote, judge, **pair) for order in ("ab", "ba")]


@pytest.mark.parametrize("rule", RULES)
def test_one_vote_in_either_order_is_the_outcome(rule: OutcomeRule) -> None:
    votes = [row(0, "ab", "a"), row(1, "ba", "a"), row(2, "ba", "b"), row(3, "ab", "tie"), row(4, "ba", "tie")]
    assert outcomes(votes_table(votes), rule)["outcome"].tolist() == ["a", "a", "b", "tie", "tie"]
    (rates,) = to_rows(win_rates(votes_table(votes), 0.95, rule))
    counts = ("n", "wins_a", "ties", "wins_b", "both_say_tie", "inconsistent", "unreadable")
    assert tuple(rates[count] for count in counts) == (5, 2, 2, 1, 2, 0, 0)
    assert rates["p_value"] == 1.0  # 2 of 3


def test_other_judges_need_both_orders() -> None:
    with pytest.raises(
        ValueError, match=r"situation 'test/0' of sage_0 against sage_1 \(judge m\) was not judged in order"
    ):
        outcomes(votes_table([row(0, "ab", "a", "m")]))
    with pytest.raises(ValueError, match="was judged twice as ab"):
        outcomes(votes_table([row(0, "ab", "a"), row(0, "ab", "b")]))


def test_checks_of_a_person_use_the_single_order() -> None:
    """Three of four votes name the first dialogue; there are no order flips."""
    votes = [row(0, "ab", "a"), row(1, "ab", "a"), row(2, "ba", "b"), row(3, "ab", "b"), row(4, "ba", "tie")]
    checks = to_rows(judge_checks(votes_table(votes), 0.95))
    found = {check["statistic"]: (check["value"], check["n"]) for check in checks}
    assert found == {
        "names_first": (0.75, 4),
        "says_tie": (0.2, 5),
        "unreadable": (0.0, 5),
    }


def test_a_person_with_few_votes_does_not_reduce_self_preference() -> None:
    """The comparison uses all situations with a vote of a neutral judge, not only those that all judged."""
    pair = {"policy_a": "theirs", "policy_b": "sage_0"}
    cards = from_rows(
        [
            {"policy": "theirs", "kind": "external", "base": "other"},
            {"policy": "sage_0", "kind": "base", "base": "own"},
        ],
        schemas.POLICIES,
    )

    def preference(votes: list[dict[str, Any]]) -> dict[str, Any]:
        (found,) = to_rows(self_preference(votes_table(votes), cards, BOOTSTRAP))
        return found

    model = [vote for n in range(20) for vote in both(n, "b", "own judge", **pair)]
    model += [vote for n in range(20) for vote in both(n, "a" if n < 10 else "b", "gpt judge", **pair)]
    models_only = preference(model)
    assert (models_only["n"], models_only["share"], models_only["neutral_share"]) == (20, 1.0, 0.5)
    person = [row(0, "ab", "b", **pair), row(1, "ba", "tie", **pair)]
    found = preference([*model, *person])
    assert (found["n"], found["share"]) == (20, 1.0)
    assert found["neutral_share"] == pytest.approx((0.5 + 0.25 + 8 * 0 + 10 * 1) / 20)
    few_neutral = preference([*model[:40], *person])
    assert (few_neutral["n"], few_neutral["neutral_share"]) == (2, 0.75)


LETTERS = {  # on sage_0 against sage_1, by situation
    "anna": dict(enumerate("aabbbbtab")),
    "bert": dict(enumerate("abbbbatab")),
}


def vote_at_arena(new_session: Callable[..., Session], rollouts: DataFrame, rater: str) -> None:
    """Vote on one pair through the arena; a new session starts after three votes."""
    ballots = {ballot.id: ballot for ballot in plan_ballots(rollouts, PAIRS[:1], None, rater, 7)}
    session = new_session(rater, list(ballots.values()))
    while current := session.state()["ballot"]:
        ballot = ballots[current["id"]]
        letter = LETTERS[rater][int(ballot.situation_id.removeprefix("test/"))]
        policy = {"a": "sage_0", "b": "sage_1"}.get(letter)
        session.vote(ballot.id, "tie" if policy is None else "first" if ballot.first == policy else "second", None)
        if session.state()["done"] == 3:
            session = new_session(rater, list(ballots.values()))


def test_raters_are_judges_of_every_table(
    new_session: Callable[..., Session], rollouts: DataFrame, tmp_path: Path
) -> None:
    vote_at_arena(new_session, rollouts, "anna")
    vote_at_arena(new_session, rollouts, "bert")
    new_session("cleo")  # opened without a vote
    config = Evaluation.from_base(pairs=PAIRS, replicates=400)
    models = [
        vote for n in range(9) for pair in PAIRS for vote in both(n, "b", "m", policy_a=pair[0], policy_b=pair[1])
    ]
    model_votes = votes_table(models)

    human_votes = HumanVotes(filepath=str(tmp_path)).load()
    votes, rejects = gather_votes(model_votes, human_votes, config, rollouts)
    assert list(votes) == schemas.JUDGE_VOTES.names and list(rejects) == schemas.VOTE_REJECTS.names
    assert votes[: len(models)].equals(model_votes) and len(votes) == len(models) + 18
    assert len(rejects) == 0

    rates = {(rate["judge"], rate["policy_b"]): rate for rate in to_rows(count_wins(votes, config))}
    assert {judge for judge, _ in rates} == {"m", "human:anna", "human:bert", PEOPLE}
    # Of nine situations the two differ on two: these are ties of the pooled row.
    assert [rates[PEOPLE, "sage_1"][count] for count in ("n", "wins_a", "ties", "wins_b")] == [9, 2, 3, 4]
    assert to_rows(compare_raters(votes, config, 7))[0]["n"] == 9
    assert [rates["human:anna", "sage_1"][count] for count in ("n", "wins_a", "ties", "wins_b")] == [9, 3, 1, 5]
    assert set(rank_policies(votes, config, 7)["judge"]) == {"m", "human:anna", "human:bert"}

    cards = [{**dict.fromkeys(schemas.POLICIES.names, "x"), "policy": name, "blocks": True} for name in POLICIES]
    checks, _, agreement, _ = check_judges(votes, from_rows(cards, schemas.POLICIES), rollouts, config, 7)
    compared = {(row["judge_a"], row["judge_b"]): row for row in to_rows(agreement)}
    assert set(compared) == {("m", "human:anna"), ("m", "human:bert"), ("human:anna", "human:bert")}
    raters = compared["human:anna", "human:bert"]
    assert (raters["n"], raters["agreement"]) == (9, pytest.approx(7 / 9))
    cells = [[sum((LETTERS["anna"][n], LETTERS["bert"][n]) == (x, y) for n in range(9)) for y in "abt"] for x in "abt"]
    assert raters["kappa"] == pytest.approx(cohens_kappa(cells).kappa)
    assert (raters["decided"], raters["same_winner"]) == (8, pytest.approx(6 / 8))
    assert compared["m", "human:anna"]["n"] == 9 and compared["m", "human:anna"]["agreement"] == pytest.approx(5 / 9)
    first = {row["judge"]: row for row in to_rows(checks) if row["statistic"] == "names_first"}
    assert first["human:anna"]["n"] == 8 and first["m"]["value"] == 0.5

    changed = rollouts_of(9, *POLICIES, sage_1="another voice")
    votes, rejects = gather_votes(model_votes, human_votes, config, changed)
    assert votes.equals(model_votes) and len(rejects) == 18
