"""Biases of judges by hand and by another computation; `test_exposed_judges.py` has known faults."""

from itertools import combinations

import numpy as np
import pytest
from judging_tables import Row, letter_votes, table_rows, votes_table
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import ttest_1samp

from sage_dialog import schemas
from sage_dialog.core.tables import from_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.judge_bias import judge_checks, self_preference


def vote(judge: str, situation: str, order: str, answer: str, pair: tuple[str, str] = ("old", "new")) -> Row:
    row = {"judge": judge, "policy_a": pair[0], "policy_b": pair[1], "situation_id": situation}
    return row | {"order": order, "vote": answer}


def checks(votes: list[Row]) -> dict[str, Row]:
    """JUDGE_CHECKS by statistic."""
    rows = table_rows(judge_checks(votes_table(votes), 0.95), schemas.JUDGE_CHECKS)
    return {row["statistic"]: row for row in rows}


def preference(votes: list[Row], bootstrap: Bootstrap, cards: list[Row] | None = None) -> list[Row]:
    cards_table = from_rows(CARDS if cards is None else cards, schemas.POLICIES)
    return table_rows(self_preference(votes_table(votes), cards_table, bootstrap), schemas.SELF_PREFERENCE)


def test_checks_by_hand() -> None:
    answers = {
        "s1": ("a", "a"),  # a wins: first named once in two
        "s2": ("a", "b"),  # the first, twice
        "s3": ("b", "a"),  # the second, twice
        "s4": ("tie", "b"),  # a tie, and the first
        "s5": ("unreadable", "b"),  # the first
        "s6": ("b", "b"),  # b wins
        "s7": ("b", "b"),  # b wins
    }
    votes = [
        vote("j", situation, order, answer)
        for situation, pair in answers.items()
        for order, answer in zip(("ab", "ba"), pair, strict=True)
    ]
    rows = {statistic: (row["n"], row["value"]) for statistic, row in checks(votes).items()}
    assert rows == {
        "order_flips": (6, 3 / 6),
        "names_first": (12, pytest.approx(7 / 12)),
        "says_tie": (13, pytest.approx(1 / 13)),
        "unreadable": (14, pytest.approx(1 / 14)),
    }


def test_flips_by_chance_are_those_of_all_ways_to_pair_the_answers_on_a_pair_of_policies() -> None:
    draw = np.random.default_rng(6)
    shares = {("p", "q"): [0.1, 0.1, 0.8], ("p", "r"): [0.7, 0.3, 0.0], ("q", "r"): [0.2, 0.5, 0.3]}
    sizes = {("p", "q"): 9, ("p", "r"): 4, ("q", "r"): 6}
    votes, expected = [], []
    for pair, of_pair in shares.items():
        answers = draw.choice(["a", "b", "tie"], size=(sizes[pair], 2), p=of_pair).tolist()
        places = []
        for number, (ab, ba) in enumerate(answers):
            votes += [vote("j", f"s{number}", "ab", ab, pair), vote("j", f"s{number}", "ba", ba, pair)]
            places += [{"a": 1, "b": -1, "tie": 0}[ab], {"a": -1, "b": 1, "tie": 0}[ba]]  # first, second or none
        two = [one != -other for one, other in combinations(places, 2)]
        expected += [np.mean(two)] * sizes[pair]
    votes += [vote("j", "unread", "ab", "unreadable", ("p", "q")), vote("j", "unread", "ba", "a", ("p", "q"))]
    rows = checks(votes)
    assert rows["order_flips"]["by_chance"] == pytest.approx(np.mean(expected))
    assert all(row["by_chance"] is None for name, row in rows.items() if name != "order_flips")


def test_intervals_are_those_of_another_bootstrap_over_situations() -> None:
    # Four pairs per situation, whose votes depend on each other through a random effect of the situation.
    draw = np.random.default_rng(4)
    places, ids = draw.beta(2, 2, size=500), [f"s{place}" for place in range(500)]
    pairs = [("p", "q"), ("p", "r"), ("q", "r"), ("q", "s")]
    votes, first_counts, flips = [], np.zeros((500, 2)), np.zeros(500)
    for place, situation in enumerate(ids):
        for pair in pairs:
            first = draw.random(2) < places[place]  # whether the first dialogue is named, by order
            answers = ("a" if first[0] else "b", "b" if first[1] else "a")
            votes += [
                vote("j", situation, order, answer, pair) for order, answer in zip(("ab", "ba"), answers, strict=True)
            ]
            first_counts[place] += first.sum(), 2
            flips[place] += answers[0] != answers[1]
    rows = checks(votes)

    def scipy_interval(found: np.ndarray, among: np.ndarray) -> tuple[float, float]:
        interval = scipy_bootstrap(
            (found, among), lambda part, all_, axis: part.sum(axis) / all_.sum(axis), paired=True, vectorized=True,
            n_resamples=4000, rng=np.random.default_rng(5),
        ).confidence_interval  # fmt: skip
        return interval.low, interval.high

    for statistic, found, among in (
        ("names_first", first_counts[:, 0], first_counts[:, 1]),
        ("order_flips", flips, np.full(500, 4.0)),
    ):
        row = rows[statistic]
        assert (row["n"], row["value"]) == (among.sum(), pytest.approx(found.sum() / among.sum()))
        assert (row["low"], row["high"]) == pytest.approx(scipy_interval(found, among), abs=0.005)


CARDS = [
    {"policy": "sage_0", "kind": "base", "base": "mistralai/Mixtral-8x7B-Instruct-v0.1"},
    {"policy": "sage_1", "kind": "adapter", "base": "mistralai/Mixtral-8x7B-Instruct-v0.1"},
    {"policy": "sage_2", "kind": "adapter", "base": "mistralai/Mixtral-8x7B-Instruct-v0.1"},
    {"policy": "theirs", "kind": "base", "base": "other/model"},
]
MIXTRAL = "mixtral-8x7b-instruct-v0.1 judge 1a2b3c4d"


def test_a_judge_is_compared_with_neutral_judges(bootstrap: Bootstrap) -> None:
    pair = ("sage_0", "theirs")
    votes = [
        *letter_votes(MIXTRAL, "a" * 60 + "t" * 20 + "b" * 20, pair),
        *letter_votes("offline-rules-judge", "a" * 30 + "t" * 20 + "b" * 50, pair),
        *letter_votes("gpt judge 00000000", "a" * 50 + "b" * 50, pair),
    ]
    (row,) = preference(votes, bootstrap)
    assert (row["judge"], row["policy"], row["relation"], row["other_policy"]) == (
        MIXTRAL,
        "sage_0",
        "same model",
        "theirs",
    )
    assert (row["n"], row["share"], row["neutral_share"]) == (100, 0.7, 0.45)
    assert row["difference"] == pytest.approx(0.25) and 0 < row["low"] < 0.25 < row["high"]


def test_the_side_of_the_closer_policy_makes_no_difference(bootstrap: Bootstrap) -> None:
    (row,) = preference(
        [
            *letter_votes(MIXTRAL, "b" * 60 + "t" * 20 + "a" * 20, ("theirs", "sage_0")),
            *letter_votes("gpt judge 00000000", "b" * 30 + "t" * 30 + "a" * 40, ("theirs", "sage_0")),
        ],
        bootstrap,
    )
    assert (row["policy"], row["other_policy"]) == ("sage_0", "theirs")
    assert (row["share"], row["neutral_share"], row["difference"]) == pytest.approx((0.7, 0.45, 0.25))


def test_a_policy_without_a_card_is_named(bootstrap: Bootstrap) -> None:
    with pytest.raises(ValueError, match="sage_9 was judged, but the table `policy_cards` does not hold it"):
        preference(letter_votes("j", "ab", ("sage_1", "sage_9")), bootstrap)


def test_the_difference_has_the_interval_of_a_paired_t_test_on_much_data(bootstrap: Bootstrap) -> None:
    draw = np.random.default_rng(6)
    own = draw.choice(list("abt"), size=600, p=[0.5, 0.3, 0.2])
    neutral = np.where(draw.random(600) < 0.5, own, draw.choice(list("abt"), size=600))
    pair = ("sage_0", "theirs")
    votes = [*letter_votes(MIXTRAL, "".join(own), pair), *letter_votes("gpt judge 0", "".join(neutral), pair)]
    (row,) = preference(votes, bootstrap)
    points = {"a": 1.0, "t": 0.5, "b": 0.0}
    gaps = [points[first] - points[second] for first, second in zip(own, neutral, strict=True)]
    expected = ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert row["difference"] == pytest.approx(np.mean(gaps))
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_the_model_itself_is_closer_than_a_policy_made_from_it(bootstrap: Bootstrap) -> None:
    votes = [
        *letter_votes(MIXTRAL, "aab", ("sage_2", "sage_0")),
        *letter_votes(MIXTRAL, "aab", ("sage_1", "sage_2")),  # equally close: no row
        *letter_votes(MIXTRAL, "aab", ("theirs", "sage_1")),
        *letter_votes("gpt judge 00000000", "bbb", ("sage_1", "sage_2")),
    ]
    rows = preference(votes, bootstrap)
    assert [(row["policy"], row["relation"], row["other_policy"]) for row in rows] == [
        ("sage_0", "same model", "sage_2"),
        ("sage_1", "same base", "theirs"),
    ]
    # No neutral judge judged these pairs, so quality and preference cannot be separated.
    assert [row["share"] for row in rows] == pytest.approx([1 / 3, 1 / 3])
    assert [(row["difference"], row["neutral_share"]) for row in rows] == [(None, None)] * 2


def test_an_external_model_that_judges_itself_is_the_same_model(bootstrap: Bootstrap) -> None:
    cards = [*CARDS[:1], {"policy": "theirs", "kind": "external", "base": "maker/GPT-x"}]
    (row,) = preference(letter_votes("gpt-x judge 1a2b3c4d", "abb", ("sage_0", "theirs")), bootstrap, cards)
    assert (row["policy"], row["relation"]) == ("theirs", "same model")


def test_a_judge_served_under_a_policy_s_name_is_that_policy(bootstrap: Bootstrap) -> None:
    (row,) = preference(letter_votes("sage_2 judge 1a2b3c4d", "bb", ("sage_1", "sage_2")), bootstrap)
    assert (row["policy"], row["relation"], row["share"]) == ("sage_2", "same model", 1.0)


def test_a_judge_equally_close_to_both_is_neutral(bootstrap: Bootstrap) -> None:
    pair = ("sage_1", "sage_2")
    votes = letter_votes("sage_2 judge 1a2b3c4d", "bbba", pair) + letter_votes(MIXTRAL, "bbaa", pair)
    (row,) = preference(votes, bootstrap)
    assert (row["judge"], row["share"], row["neutral_share"]) == ("sage_2 judge 1a2b3c4d", 0.75, 0.5)


def test_a_closer_policy_that_is_truly_better_is_no_self_preference(bootstrap: Bootstrap) -> None:
    answers = "a" * 80 + "b" * 20
    votes = [
        *letter_votes(MIXTRAL, answers, ("sage_0", "theirs")),
        *letter_votes("gpt judge 0", answers, ("sage_0", "theirs")),
    ]
    (row,) = preference(votes, bootstrap)
    assert (row["share"], row["difference"]) == (0.8, 0)
    assert row["low"] < 0 < row["high"]


def test_offline_judges_are_close_to_no_policy(bootstrap: Bootstrap) -> None:
    votes = letter_votes("offline-rules-judge", "ab", ("sage_0", "sage_1"))
    assert preference(votes, bootstrap) == []
