"""Diversity against counts by hand, NLTK's own score and simulated draws."""

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from policy_cards import cards_of

from sage_dialog import schemas
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.replies.diversity import diversity, expected_distinct, situation_groups
from sage_dialog.evaluation.rollouts import parse_replies
from sage_dialog.sac import Chain, Intent, render

Rollouts = Callable[..., DataFrame]
Figures = Callable[..., dict[str, tuple[float, float, float, int]]]


@pytest.fixture
def figures(rollouts_of: Rollouts) -> Figures:
    """A function from a policy's messages to the value, interval and n of each statistic."""

    def measure(
        messages: dict[str, list[str]], blocks: bool = False, seed: int = 0
    ) -> dict[str, tuple[float, float, float, int]]:
        rollouts = rollouts_of(p=messages)
        table = diversity(rollouts, parse_replies(rollouts, cards_of(p=blocks)), 0.95, seed)
        assert list(table.columns) == schemas.DIVERSITY.names
        return {row["statistic"]: (row["value"], row["low"], row["high"], row["n"]) for row in to_rows(table)}

    return measure


def messages_of(words: Callable[[int, int], str], situations: int = 20, exchanges: int = 3) -> dict[str, list[str]]:
    return {f"s{index:02d}": [words(index, place) for place in range(exchanges)] for index in range(situations)}


def test_expected_distinct_is_that_of_draws_without_return() -> None:
    counts = [7, 3, 1, 1, 1]
    kinds = np.repeat(np.arange(5), counts)
    every_hand = [len(set(hand)) for hand in combinations(kinds.tolist(), 4)]
    assert expected_distinct(counts, 4) == pytest.approx(fmean(every_hand))
    assert expected_distinct(counts, 13) == 5.0 and expected_distinct(counts, 14) is None
    assert expected_distinct([1] * 2000, 100) == 100.0


def test_groups_are_by_seed_and_id_alone_and_hold_each_situation_once() -> None:
    ids = [f"s{index}" for index in range(47)]
    groups = situation_groups(ids, 0)
    assert [len(group) for group in groups] == [10] * 4 and len({id_ for group in groups for id_ in group}) == 40
    assert situation_groups(ids[::-1], 0) == groups != situation_groups(ids, 1)


def test_the_same_reply_everywhere_is_no_diversity_and_all_new_words_are_all(figures: Figures) -> None:
    same = figures(messages_of(lambda index, place: "oh no that is so very sad"))
    assert same["self_bleu"][:3] == pytest.approx((1, 1, 1))
    assert same["distinct_1"][0] == pytest.approx(0.07)  # seven words, each of them thirty times
    assert (same["distinct_2"][0], same["distinct_3"][0]) == (pytest.approx(0.06), pytest.approx(0.05))
    new = figures(messages_of(lambda index, place: " ".join(f"{index}.{place}.{word}" for word in range(7))))
    assert new["distinct_1"][0] == new["distinct_3"][0] == pytest.approx(1.0)
    assert new["self_bleu"][0] < 0.1


def test_longer_replies_of_the_same_kind_vary_as_much(figures: Figures) -> None:
    """The plain share of different words would fall, since more words of one vocabulary repeat more."""

    def words(length: int) -> Callable[[int, int], str]:
        def reply(index: int, place: int) -> str:
            return " ".join(map(str, generator(0, "reply", length, index, place).integers(0, 60, length)))

        return reply

    short, long = (messages_of(words(length), situations=200) for length in (8, 40))
    plain = [
        len({word for replies in all_ for word in " ".join(replies).split()})
        / sum(len(" ".join(replies).split()) for replies in all_)
        for all_ in (short.values(), long.values())
    ]
    assert plain[0] > 4 * plain[1]
    few, many = (figures(texts)["distinct_1"] for texts in (short, long))
    assert few[0] == pytest.approx(many[0], abs=0.01) and few[1] <= few[0] <= few[2]


def test_self_bleu_is_nltks_against_the_other_situations_of_the_exchange(figures: Figures) -> None:
    draw = generator(0, "self-bleu")
    texts = messages_of(lambda index, place: " ".join(draw.choice(list("abcd"), 6)), exchanges=2)
    expected = []
    for group in situation_groups(texts, 0):
        scores = []
        for place in (0, 1):
            for one in group:
                others = [texts[other][place].split() for other in group if other != one]
                reply = texts[one][place].split()
                scores.append(sentence_bleu(others, reply, smoothing_function=SmoothingFunction().method1))
        expected.append(fmean(scores))
    assert figures(texts)["self_bleu"][0] == pytest.approx(fmean(expected))


def test_different_actions_by_hand(figures: Figures) -> None:
    def reply(index: int, place: int) -> str:
        # Nine situations of a policy mean comfort; every fifth one something else, always feeling calm.
        motivation = "humor" if index % 5 == 0 else "comfort"
        return render(Chain(Intent(), Intent(motivation, "calm"), "Oh dear."))

    texts = messages_of(reply, exchanges=1)
    found = figures(texts, blocks=True)
    of_groups = []
    for group in situation_groups(texts, 0):
        counts = Counter(int(situation[1:]) % 5 == 0 for situation in group)
        of_groups.append(counts[True] * counts[False] / 45)
    assert found["different_motivations"][0] == pytest.approx(fmean(of_groups)) == found["different_actions"][0]
    assert found["different_emotions"][:3] == (0.0, 0.0, 0.0) and found["different_actions"][3] == 2
    assert "different_motivations" not in figures(texts)


def test_the_interval_is_students_over_groups_of_independent_situations(figures: Figures) -> None:
    """Of 60 simulated policies, about one in twenty has an interval without the truth."""
    truth, missed = 2 * 0.3 * 0.7, 0
    for policy in range(60):
        draw = generator(1, "coverage", policy).random(50) < 0.3
        texts = messages_of(
            lambda index, place, drawn=draw: render(Chain(Intent(), Intent("a" if drawn[index] else "b"), "Oh.")),
            situations=50,
            exchanges=1,
        )
        _, low, high, _ = figures(texts, blocks=True, seed=policy)["different_motivations"]
        missed += not low <= truth <= high
    assert missed <= 9


def test_too_little_text_and_too_few_situations_have_no_row(figures: Figures) -> None:
    assert figures(messages_of(lambda index, place: "oh no that is so very sad", situations=19)) == {}
    assert set(figures(messages_of(lambda index, place: "oh no"))) == {"self_bleu"}
    assert figures(messages_of(lambda index, place: "")) == {}
