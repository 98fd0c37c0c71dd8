"""Judges with known faults in a world with known truth: the tables and the report expose each fault."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from judging_tables import Row, votes_table, words_table
from report_page import render_report, with_values

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.agreement import judge_agreement
from sage_dialog.evaluation.judging.judge_bias import judge_checks, self_preference
from sage_dialog.evaluation.judging.length import length_control
from sage_dialog.evaluation.judging.power import sample_sizes, situations_needed
from sage_dialog.evaluation.judging.votes import win_rates
from sage_dialog.evaluation.report.findings import findings_by_judge, situations_for_all_pairs

SITUATIONS = 400
ORDERS = ("ab", "ba")
TRUTH = "world truth"
OWN_MODEL = "new-model judge 1a2b3c4d"
CARDS = from_rows(
    [{"policy": policy, "kind": "base", "base": f"maker/{policy}-model"} for policy in ("old", "new")], schemas.POLICIES
)


class World(NamedTuple):
    """The better policy by situation, new on 70 %; the words by policy and situation, mostly more of new."""

    better: dict[str, str]
    words: dict[str, dict[str, int]]
    pair: tuple[str, str] = ("old", "new")


@pytest.fixture(scope="module")
def world() -> World:
    draw = np.random.default_rng(11)
    ids = [f"s{place}" for place in range(SITUATIONS)]
    words = {
        policy: dict(zip(ids, draw.normal(mean, 15, SITUATIONS).astype(int).tolist(), strict=True))
        for policy, mean in (("old", 80), ("new", 90))
    }
    return World(dict(zip(ids, np.where(draw.random(SITUATIONS) < 0.7, "b", "a").tolist(), strict=True)), words)


@pytest.fixture(scope="module")
def all_votes(world: World) -> list[Row]:
    return [
        *judge_world("right", world, lambda draw, order, truth, longer: truth),
        *judge_world("always A", world, lambda draw, order, truth, longer: order[0]),
        *judge_world("longer", world, lambda draw, order, truth, longer: longer),
        *judge_world("random", world, lambda draw, order, truth, longer: str(draw.choice(["a", "b"]))),
        *judge_world("always tie", world, lambda draw, order, truth, longer: "tie"),
        *judge_world("mumbling", world, lambda draw, order, truth, longer: "unreadable"),
        *judge_world(OWN_MODEL, world, lambda draw, order, truth, longer: "b"),
    ]


Judge = Callable[[np.random.Generator, str, str, str], str]


def judge_world(judge: str, world: World, answer: Judge) -> list[Row]:
    """Return rows of JUDGE_VOTES by `answer`, a function of generator, order, better policy and longer policy."""
    draw = np.random.default_rng(12)
    rows = []
    a, b = world.pair
    for situation, truth in world.better.items():
        more = world.words[b][situation] - world.words[a][situation]
        longer = "b" if more > 0 else "a" if more < 0 else "tie"
        for order in ORDERS:
            row = {"judge": judge, "policy_a": a, "policy_b": b, "situation_id": situation, "order": order}
            rows.append({**row, "vote": answer(draw, order, truth, longer)})
    return rows


class Tables(NamedTuple):
    """The tables of the evaluation for all judges."""

    checks: DataFrame
    rates: DataFrame
    lengths: DataFrame
    agreement: DataFrame
    preferences: DataFrame

    def of(self, judge: str) -> dict[str, Row]:
        """Return the checks of a judge by statistic."""
        return {row["statistic"]: row for row in to_rows(self.checks) if row["judge"] == judge}

    def against_truth(self, judge: str) -> Row:
        two = (judge, TRUTH)
        together, of_pair = (row for row in to_rows(self.agreement) if (row["judge_a"], row["judge_b"]) == two)
        assert {**together, "policy_a": "old", "policy_b": "new"} == {
            key: pytest.approx(value, abs=0.02) if key.startswith("kappa_") else value for key, value in of_pair.items()
        }
        return together

    def sentences(self, judge: str) -> list[str]:
        findings = findings_by_judge(*self, truths=[TRUTH], confidence=0.95)
        return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in findings[judge]]


def tables_of(votes: list[Row], world: World) -> Tables:
    bootstrap = Bootstrap(confidence=0.95, replicates=2000, seed=0)
    known = judge_world(TRUTH, world, lambda draw, order, truth, longer: truth)
    table, words = votes_table(votes), words_table(world.words)
    return Tables(
        judge_checks(table, 0.95),
        win_rates(table, bootstrap.confidence),
        length_control(table, words, 0.95),
        judge_agreement(votes_table([*votes, *known]), bootstrap),
        self_preference(table, CARDS, bootstrap),
    )


@pytest.fixture(scope="module")
def tables(all_votes: list[Row], world: World) -> Tables:
    return tables_of(all_votes, world)


def row_of(table: DataFrame, judge: str) -> Row:
    (row,) = (row for row in to_rows(table) if row["judge"] == judge)
    return row


def includes_half(row: Row) -> bool:
    return bool(row["low"] <= 0.5 <= row["high"])


def test_the_right_judge_passes_every_check(tables: Tables) -> None:
    checks, rate = tables.of("right"), row_of(tables.rates, "right")
    assert rate["p_adjusted"] < 1e-6 and rate["low"] < 0.7 < rate["high"]
    assert checks["order_flips"]["value"] == 0 and includes_half(checks["names_first"])
    # The better policy writes more, which is no fault of the judge: it is as good at equal length.
    length = row_of(tables.lengths, "right")
    assert length["longer_low"] > 0.5
    assert length["low"] > 0.6 and length["odds_low"] < 1 < length["odds_high"]
    agreement = tables.against_truth("right")
    assert agreement["kappa"] == agreement["same_winner"] == 1 and agreement["same_low"] > 0.98
    assert tables.sentences("right") == [
        "Names the winner that the world truth names in 100 % (99 to 100 %) of the 400 pairs of dialogues that both "
        "decide: better than a coin. Assigned to situations at random, the same wins would agree in "
        "58 %.",
        "On wins and ties, its agreement with the world truth beyond chance within pairs of policies is kappa 1.00 "
        "(0.98 to 1.00): more than chance.",
        "Changes its answer with the order on 0 % (0 to 1 %) of the pairs of dialogues; its answers, assigned at "
        "random within pairs of policies, would on 50 %.",
    ]


def test_a_judge_that_always_names_the_first_is_exposed_by_the_order(tables: Tables) -> None:
    checks, rate = tables.of("always A"), row_of(tables.rates, "always A")
    assert checks["names_first"]["value"] == checks["order_flips"]["value"] == 1
    assert checks["names_first"]["low"] > 0.98 and checks["order_flips"]["low"] > 0.98
    assert (rate["inconsistent"], rate["win_rate_b"], rate["p_value"]) == (SITUATIONS, None, 1)
    assert row_of(tables.lengths, "always A")["odds_by_doubling"] is None
    agreement = tables.against_truth("always A")
    assert agreement["kappa"] == pytest.approx(0) and agreement["decided"] == 0
    assert tables.sentences("always A") == [
        "Decides none of the pairs of dialogues that the world truth decides, so the two cannot be compared.",
        "Names the first dialogue in 100 % (99 to 100 %) of the answers that name one, where an unbiased judge has "
        "50 %: the position counts.",
        "Changes its answer with the order on 100 % (99 to 100 %) of the pairs of dialogues; its answers, assigned at "
        "random within pairs of policies, would on 100 %: no evidence that it reads them.",
    ]


def test_a_judge_that_counts_words_is_exposed_by_the_length(tables: Tables) -> None:
    checks, rate, length = tables.of("longer"), row_of(tables.rates, "longer"), row_of(tables.lengths, "longer")
    assert rate["p_adjusted"] < 1e-6 and rate["low"] > 0.6  # new seems better
    assert length["longer_wins"] == 1 and length["longer_low"] > 0.98
    assert length["low"] < 0.5 < length["high"] and length["odds_low"] > 100  # but not at equal length
    assert checks["order_flips"]["value"] == 0 and includes_half(checks["names_first"])
    assert abs(tables.against_truth("longer")["kappa"]) < 0.1
    found = tables.sentences("longer")
    assert found[-1].startswith(
        "Within pairs of policies, writing twice as much multiplies the odds of winning by over ×1,000 (over ×1,000 to "
    )
    assert found[-1].endswith(": of its 1 clear lead, none is clear at equal length.")
    # New is better and writes more. The judge is right for the wrong reason, which random assignment reveals.
    assert len(found) == 4 and ": better than a coin. Assigned" in found[0]
    assert found[0].endswith(
        "in 57 %: among winners, no evidence that it sees more than which policy is usually better."
    )
    assert found[1].endswith("not shown to be more than chance.")


def test_a_random_judge_is_exposed_by_the_order_and_the_truth(tables: Tables) -> None:
    checks, rate = tables.of("random"), row_of(tables.rates, "random")
    flips = checks["order_flips"]
    assert flips["low"] < 0.5 < flips["high"] and flips["low"] <= flips["by_chance"] <= flips["high"]
    length = row_of(tables.lengths, "random")
    assert includes_half(checks["names_first"]) and rate["p_value"] > 0.05
    assert length["odds_low"] < 1 < length["odds_high"]
    agreement = tables.against_truth("random")
    assert agreement["kappa_low"] < 0 < agreement["kappa_high"]
    assert agreement["same_low"] < 0.5 < agreement["same_high"]
    found = tables.sentences("random")
    assert len(found) == 3 and "that both decide: not shown to be better than a coin. Assigned" in found[0]
    assert found[2].endswith("would on 50 %: no evidence that it reads them.")


def test_a_judge_of_ties_and_an_unreadable_judge_are_exposed(tables: Tables) -> None:
    assert tables.of("always tie")["says_tie"]["low"] > 0.98
    assert tables.sentences("always tie")[1].endswith("would on 0 %: no evidence that it reads them.")
    assert set(tables.of("mumbling")) == {"unreadable"} and row_of(tables.rates, "mumbling")["unreadable"] == SITUATIONS
    assert tables.sentences("mumbling")[1] == "Cannot be read in 100 % (99 to 100 %) of its answers."


def test_a_judge_that_prefers_its_own_model_is_exposed_by_other_judges(world: World) -> None:
    # Its own model is better, by the right judge too; it also gives its own model the situations that it loses.
    right = judge_world("right", world, lambda draw, order, truth, longer: truth)
    tables = tables_of([*right, *judge_world(OWN_MODEL, world, lambda draw, order, truth, longer: "b")], world)
    (row,) = to_rows(tables.preferences)
    worse = sum(truth == "a" for truth in world.better.values()) / SITUATIONS
    assert (row["policy"], row["share"], row["difference"]) == ("new", 1, pytest.approx(worse))
    assert row["low"] > 0.2
    assert tables.sentences(OWN_MODEL)[-1] == (
        f"Gives new (same model as its own) {100 * worse:.0f} points of 100 more than other judges do, against old."
    )
    fair = tables_of([*right, *judge_world(OWN_MODEL, world, lambda draw, order, truth, longer: truth)], world)
    assert not any("points of 100" in sentence for sentence in fair.sentences(OWN_MODEL))


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_an_occasional_fault_is_found(share: float, world: World) -> None:
    votes = judge_world(
        "hasty", world, lambda draw, order, truth, longer: order[0] if draw.random() < share else truth
    ) + judge_world("wordy", world, lambda draw, order, truth, longer: longer if draw.random() < share else truth)
    tables = tables_of(votes, world)
    first, length = tables.of("hasty")["names_first"], row_of(tables.lengths, "wordy")
    assert first["low"] < 0.5 + share / 2 < first["high"] and first["low"] > 0.5
    assert any(sentence.startswith("Names the first dialogue in") for sentence in tables.sentences("hasty"))
    assert not any("no evidence" in sentence for sentence in tables.sentences("hasty"))  # mostly, it reads
    assert length["longer_low"] > 0.5 and length["odds_low"] > 1
    assert any("writing twice as much multiplies the odds" in sentence for sentence in tables.sentences("wordy"))


RATES = {  # of b being better, and of ties by a judge that guesses: each pair of policies has its own (Simpson's case)
    ("worst", "old"): (0.98, 0.0),
    ("old", "new"): (0.6, 0.3),
    ("new", "newest"): (0.4, 0.95),
}


@pytest.fixture(scope="module")
def worlds() -> dict[tuple[str, str], World]:
    """Three pairs of policies on the same situations; the worst policy writes most."""
    draw = np.random.default_rng(21)
    ids = [f"s{place}" for place in range(SITUATIONS)]
    means = {"worst": 130, "old": 80, "new": 84, "newest": 82}
    words = {
        policy: dict(zip(ids, draw.normal(mean, 15, SITUATIONS).astype(int).tolist(), strict=True))
        for policy, mean in means.items()
    }
    return {
        pair: World(
            dict(zip(ids, np.where(draw.random(SITUATIONS) < rate, "b", "a").tolist(), strict=True)), words, pair
        )
        for pair, (rate, _) in RATES.items()
    }


@pytest.fixture(scope="module")
def tables_of_pairs(worlds: dict[tuple[str, str], World]) -> Tables:
    votes: list[Row] = []
    known: list[Row] = []
    for number, (pair, world) in enumerate(worlds.items()):
        rate, ties = RATES[pair]
        chosen = dict(zip(world.better, np.random.default_rng(30 + number).random(SITUATIONS) < rate, strict=True))
        usual = [
            {**row, "vote": "b" if chosen[row["situation_id"]] else "a"}
            for row in judge_world("usual", world, lambda draw, order, truth, longer: "tie")
        ]
        votes += [
            *judge_world("right", world, lambda draw, order, truth, longer: truth),
            *judge_world("always A", world, lambda draw, order, truth, longer: order[0]),
            *judge_world("longer", world, lambda draw, order, truth, longer: longer),
            *judge_world(
                "guessing",
                world,
                lambda draw, order, truth, longer, ties=ties: (  # type: ignore[misc]
                    "tie" if draw.random() < ties else str(draw.choice(["a", "b"]))
                ),
            ),
            *usual,
        ]
        known += judge_world(TRUTH, world, lambda draw, order, truth, longer: truth)
    bootstrap = Bootstrap(confidence=0.95, replicates=1000, seed=0)
    table, words = votes_table(votes), words_table(next(iter(worlds.values())).words)
    return Tables(
        judge_checks(table, 0.95),
        win_rates(table, bootstrap.confidence),
        length_control(table, words, 0.95),
        judge_agreement(votes_table([*votes, *known]), bootstrap),
        from_rows([], schemas.SELF_PREFERENCE),
    )


def test_the_right_judge_of_several_pairs_passes_every_check(tables_of_pairs: Tables) -> None:
    found = tables_of_pairs.sentences("right")
    assert len(found) == 3 and "in 100 %" in found[0] and "kappa 1.00" in found[1]
    assert not any("no evidence" in one or "twice as much" in one for one in found)  # though the worst writes most
    pooled = [row for row in to_rows(tables_of_pairs.lengths) if row["judge"] == "right"]
    assert pooled[0]["longer_high"] < 0.1 and pooled[0]["odds_low"] < 1 < pooled[0]["odds_high"]


def test_a_judge_that_guesses_is_exposed_over_pairs_with_different_shares_of_ties(tables_of_pairs: Tables) -> None:
    """Of all its answers together, random ones would change far more often than its own do."""
    checks = tables_of_pairs.of("guessing")
    flips, ties, first = (checks[name] for name in ("order_flips", "says_tie", "names_first"))
    named = (1 - ties["value"]) * first["value"], (1 - ties["value"]) * (1 - first["value"])
    pooled = 1 - ties["value"] ** 2 - 2 * named[0] * named[1]
    assert flips["high"] < pooled - 0.1  # a pooled chance would find that it reads
    assert flips["low"] <= flips["by_chance"] <= flips["high"]
    within = [1 - ties**2 - (1 - ties) ** 2 / 2 for _, ties in RATES.values()]
    assert flips["by_chance"] == pytest.approx(np.mean(within), abs=0.02)
    found = tables_of_pairs.sentences("guessing")
    assert found[-1].endswith("no evidence that it reads them.")
    assert "not shown to be better than a coin" in found[0] and found[1].endswith("not shown to be more than chance.")


def test_a_judge_that_only_knows_the_usual_winner_of_each_pair_is_exposed(tables_of_pairs: Tables) -> None:
    found = tables_of_pairs.sentences("usual")
    assert ": better than a coin. Assigned" in found[0]  # by the easy pair
    assert found[0].endswith("among winners, no evidence that it sees more than which policy is usually better.")
    assert found[1].endswith("not shown to be more than chance.")


def test_faults_of_place_and_length_are_exposed_over_several_pairs(tables_of_pairs: Tables) -> None:
    found = tables_of_pairs.sentences("always A")
    assert any("Names the first dialogue in 100 %" in one for one in found)
    assert found[-1].endswith("would on 100 %: no evidence that it reads them.")
    found = tables_of_pairs.sentences("longer")
    assert any("writing twice as much multiplies the odds of winning by over ×1,000" in one for one in found)


def test_the_pair_with_the_most_ties_needs_the_most_situations(tables_of_pairs: Tables) -> None:
    rates = tables_of_pairs.rates[tables_of_pairs.rates["judge"] == "guessing"]
    sizes = sample_sizes(rates, (0.6,), 0.95, 0.8)
    alone = {(row["policy_a"], row["policy_b"]): row for row in to_rows(sizes) if row["pairs"] == 1}
    decided = [alone[pair]["decided"] for pair in RATES]
    assert decided == sorted(decided, reverse=True) and decided[0] > 3 * decided[-1]
    for pair in RATES:
        level = situations_needed(share=0.6, decided=alone[pair]["decided"], level=0.05, power=0.8)
        assert alone[pair]["needed"] == level
    pooled = situations_needed(share=0.6, decided=float(np.mean(decided)), level=0.05, power=0.8)
    assert pooled < alone[("new", "newest")]["needed"] / 2  # one number for all pairs would plan far too few
    (family,) = situations_for_all_pairs(sizes)
    assert family["pairs"] == 3 and family["needed"] > alone[("new", "newest")]["needed"]


def test_the_report_describes_each_fault(tables: Tables, contents: dict[str, Any]) -> None:
    html = render_report(
        contents,
        judge_checks=tables.checks,
        win_rates=tables.rates,
        length_control=tables.lengths,
        judge_agreement=tables.agreement,
        self_preference=tables.preferences,
        truth_win_rates=tables.rates[tables.rates["judge"] == "right"].assign(judge=TRUTH),
    ).replace("\N{NO-BREAK SPACE}", " ")
    for judge in ("right", "always A", "longer", "random", OWN_MODEL):
        part = html.split(f"<h3>{judge}, in short</h3>")[1].split("</ul>")[0]
        found = tables.sentences(judge)
        assert found and all(f"<li>{sentence}</li>" in part for sentence in found)
    glance = html.split("<h2>At a glance</h2>")[1].split("<h2>")[0]
    assert "<b>always A</b>: 0 of 1 difference is more than chance would make." in " ".join(glance.split())


def test_a_lead_that_is_not_significant_after_holm_is_not_reported(world: World) -> None:
    """Each of two pairs has p = 0.031 alone, with an interval above one half, and 0.063 for both together."""
    row = {"judge": "right", "policy_a": "old", "order": "ab", "vote": "b"}
    longer = [situation for situation in world.better if world.words["new"][situation] > world.words["old"][situation]]
    votes = votes_table(
        {**row, "policy_b": policy, "situation_id": situation, "order": order}
        for policy in ("new", "newer")
        for situation in longer[:6]
        for order in ORDERS
    )
    words = words_table({**world.words, "newer": world.words["new"]})
    rates = win_rates(votes, 0.95)
    assert all(rate["low"] > 0.5 and rate["p_value"] < 0.05 < rate["p_adjusted"] for rate in to_rows(rates))
    lengths = with_values(length_control(votes, words, 0.95), odds_by_doubling=8.0, odds_low=2.0, odds_high=32.0)
    three = (judge_checks(votes, 0.95), rates, lengths)
    two = (from_rows([], schemas.JUDGE_AGREEMENT), from_rows([], schemas.SELF_PREFERENCE))
    last = {level: findings_by_judge(*three, *two, [], level)["right"][-1] for level in (0.9, 0.95)}
    assert "twice as much" in last[0.95] and "lead" not in last[0.95]
    assert "of its 2 clear leads, none is clear at equal length" in last[0.9]
