"""The offline judge: symmetric, and sensitive to each trait."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.judge import WEIGHTS, OfflineJudge, scores
from sage_dialog.roles.protocols import Comparison

LONELY = "I have been so lonely since my brother left, the house is too quiet."


def dialogue(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("user" if number % 2 == 0 else "assistant", text) for number, text in enumerate(texts))


def vote(first: tuple[Message, ...], second: tuple[Message, ...]) -> str:
    (verdict,) = OfflineJudge().judge([Comparison(first, second)])
    return verdict.vote


GOOD = dialogue(
    LONELY,
    "Oh, I'm sorry, that hurts. What do you miss most about your brother?",
    "Thank you, that means a lot. We cooked together.",
    "Cooking with him sounds warm. I'm here for you, do you cook alone now?",
    "I do. It helps to talk about it.",
)
ESSAY = dialogue(
    LONELY,
    "There are several aspects to consider regarding this topic. In general, various factors are relevant, such as the "
    "context and the circumstances of the individual, and it is important to note that people may also differ.",
    "Hmm, not really what I meant.",
    "There are several aspects to consider regarding this topic. Overall, the process depends on specific details, and "
    "additional information may be provided, for example about different approaches to a matter of this nature.",
    "I guess so.",
)


def test_a_short_warm_friend_beats_an_essay() -> None:
    assert vote(GOOD, ESSAY) == "first"
    assert vote(ESSAY, GOOD) == "second"
    assert vote(GOOD, GOOD) == "tie"


TURNS = st.sampled_from(
    [
        "Oh no, I'm sorry.",
        "Hooray, congratulations!",
        "There are several aspects.",
        "Why?",
        "Thanks, that helps.",
        "Hmm, not really.",
        "My brother left.",
        "",
        "I was so proud of the garden.",
        "What about the garden?",
    ]
)


@settings(deadline=None)  # the first score loads VADER
@given(st.lists(TURNS, max_size=7), st.lists(TURNS, max_size=7))
def test_the_reversed_comparison_gives_the_mirrored_verdict(first: list[str], second: list[str]) -> None:
    mirrored = {"first": "second", "second": "first", "tie": "tie"}
    assert vote(dialogue(*second), dialogue(*first)) == mirrored[vote(dialogue(*first), dialogue(*second))]
    assert all(0 <= score <= 1 for score in scores(dialogue(*first)).values())


@pytest.mark.parametrize(
    ("trait", "better", "worse"),
    [
        ("brief", [LONELY, "Oh dear, what happened?"], [LONELY, "Oh dear, what happened? " * 12]),
        ("natural", [LONELY, "Oh wow, that's a lot."], [LONELY, "However, several factors are relevant."]),
        ("attuned", [LONELY, "I'm sorry, here is a hug."], [LONELY, "Hooray, congratulations!"]),
        ("welcomed", [LONELY, "I see.", "Thank you, that helps."], [LONELY, "I see.", "Hmm, not really."]),
        (
            "varied",
            [LONELY, "Oh, I am sorry.", "Yes.", "Do you cook now?"],
            [LONELY, "Oh, I am sorry.", "Yes.", "Oh, I am sorry."],
        ),
        ("curious", [LONELY, "Where did he go?"], [LONELY, "He went somewhere."]),
        ("on_topic", [LONELY, "Your brother went far?"], [LONELY, "Your tractor went far?"]),
    ],
)
def test_each_trait_changes_with_its_words(trait: str, better: list[str], worse: list[str]) -> None:
    good, bad = scores(dialogue(*better)), scores(dialogue(*worse))
    assert good[trait] > bad[trait]


@pytest.mark.parametrize(
    ("user_text", "welcome", "unwelcome"),
    [
        (
            "My hands were shaking, I was scared.",
            "You are safe, breathe, it will pass.",
            "Congratulations, how exciting!",
        ),
        ("I was furious, he went behind my back.", "That was unfair and rude of him.", "Well done, I am impressed."),
        ("I feel guilty, it was my fault.", "Forgive yourself, we all make a mistake.", "Hooray, let us celebrate!"),
        ("I tripped and everyone saw, so embarrassing.", "Haha, what a story, we all trip.", "Bravo, so impressive!"),
        ("I am so proud, I won the medal.", "Bravo, you earned it, I am impressed.", "I am sorry, that hurts."),
        ("I can't wait, I am counting the days.", "Good luck, I hope it comes soon!", "I am sorry for your loss."),
    ],
)
def test_attunement_follows_the_users_need(user_text: str, welcome: str, unwelcome: str) -> None:
    assert scores(dialogue(user_text, welcome))["attuned"] > 0.7
    assert scores(dialogue(user_text, unwelcome))["attuned"] < 0.3


def test_without_a_reaction_phrase_vader_scores_the_reaction() -> None:
    pleased, hurt = (scores(dialogue(LONELY, "I see.", text))["welcomed"] for text in ("Wonderful!", "Horrible!"))
    assert pleased > 0.5 > hurt


def test_only_the_users_words_score_the_reaction() -> None:
    answer = "Hmm, not really."
    neutral, thanked = (
        scores(dialogue(LONELY, text, answer))["welcomed"] for text in ("I see.", "Thanks, that helps.")
    )
    assert neutral == thanked < 0.5


def test_a_silent_assistant_scores_zero() -> None:
    assert set(scores(dialogue(LONELY)).values()) == set(scores(dialogue(LONELY, "  ")).values()) == {0.0}
    assert vote(dialogue(LONELY), GOOD) == "second"


def test_the_raw_response_holds_the_scores_of_both() -> None:
    (verdict,) = OfflineJudge().judge([Comparison(GOOD, ESSAY)])
    assert verdict.raw_response is not None
    first, second = verdict.raw_response.split("; ")
    assert first.startswith("first 0.") and second.startswith("second 0.")
    assert all(trait in first and trait in second for trait in WEIGHTS)


def test_the_weights_sum_to_one() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    assert list(scores(GOOD)) == list(WEIGHTS)
