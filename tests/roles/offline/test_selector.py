"""The offline selector: preferences, rejected replies, and independence of position."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.selector import OfflineSelector, is_readable, style_fit
from sage_dialog.roles.protocols import Choice, NoChoice

AFRAID = "My sister and I were at the garden last night, my stomach was in knots and it keeps coming back."
PROUD = "My son passed his exam this week. I was walking tall and I told everyone about the exam."
STYLES = {
    "reassurance": "It will be okay, nothing bad came out of that garden. What made it so scary?",
    "celebration": "Congratulations, what wonderful news about the garden! How will you celebrate?",
    "lecture": "There are several aspects to consider in general, and various factors regarding a garden are relevant.",
}


def chosen(history: list[str], *candidates: str) -> str | None:
    """Return the chosen reply after alternating messages of user and assistant."""
    messages = tuple(Message("user" if number % 2 == 0 else "assistant", text) for number, text in enumerate(history))
    (picked,) = OfflineSelector().select([Choice("s1/1", messages, candidates)])
    return None if isinstance(picked, NoChoice) else candidates[picked]


def test_a_worried_user_is_reassured_and_a_proud_one_is_praised() -> None:
    assert chosen([AFRAID], *STYLES.values()) == STYLES["reassurance"]
    exam = [
        text.replace("garden", "exam")
        for text in (*STYLES.values(), "Well done, you should be proud of that exam! How did he do it?")
    ]
    assert chosen([PROUD], *exam) == exam[-1]


@pytest.mark.parametrize(
    ("user_text", "better", "worse"),
    [
        (
            "I was furious, my boss took the credit again.",
            "That is so unfair, anyone would be angry. What happened then?",
            "Hooray, that is fantastic! What happened then?",
        ),
        (
            "I have been so lonely since we moved, I eat dinner by myself.",
            "I'm so sorry, that sounds really lonely. Who do you miss most?",
            "Haha, join the club! Who do you miss most?",
        ),
        (
            "I feel guilty, I should have called my mother.",
            "Everyone makes mistakes, don't be so hard on yourself. When will you call her?",
            "So impressive, well done! When will you call her?",
        ),
        (
            "I tripped in front of everyone and my cheeks were burning.",
            "Ha, a grand story to tell, laugh about it! Who saw you?",
            "That is so unfair of them, how dare they! Who saw you?",
        ),
        (
            "I can't wait for the concert, I am counting the days.",
            "Fingers crossed, I hope it is great! Who plays the concert?",
            "I'm so sorry, that must be hard. Who plays the concert?",
        ),
    ],
)
def test_the_style_fits_the_emotion(user_text: str, better: str, worse: str) -> None:
    assert chosen([user_text], worse, better) == better


def test_without_a_cue_the_sign_of_the_words_decides() -> None:
    assert style_fit(("The weather was terrible and the food was bad.",))["comfort"] > 0
    assert style_fit(("The weather was great and the food was good.",))["comfort"] < 0
    assert style_fit(("There was weather and there was food.",)).get("celebration", 0.0) == 0.0


def test_the_users_topic_is_preferred() -> None:
    assert chosen([AFRAID], "You will be okay. How are the trains?", "You will be okay. How is the garden?") == (
        "You will be okay. How is the garden?"
    )


def test_the_situation_counts_if_the_latest_message_has_no_content() -> None:
    history = [AFRAID, "You will be okay. Who was there?", "Yes, it was."]
    about, aside = "You are safe. How is the garden now?", "You are safe. How is everything now?"
    assert chosen(history, aside, about) == chosen(history, about, aside) == about


def test_repeated_openers_and_endings_are_avoided() -> None:
    history = [AFRAID, "It will be okay. Who was there?", "She said the garden was dark."]
    for stale, turned in (  # the same words, repeated as much
        ("It will be fine, did you sleep?", "Did you sleep, it will be fine?"),
        ("You are safe now. Who was there?", "Who was there, you are safe now?"),
    ):
        assert chosen(history, stale, turned) == chosen(history, turned, stale) == turned


def test_repetition_is_avoided() -> None:
    earlier = "You will be okay, the garden is safe. What did your sister say?"
    fresh = "Nothing to worry about in that garden, I promise. Did your sister sleep?"
    assert chosen([AFRAID, earlier, "She said the garden was dark."], earlier, fresh) == fresh


def test_short_replies_and_questions_are_preferred() -> None:
    short = "You will be okay in that garden."
    long = short + " And then there was another day and another day and one more day after it" * 3 + "."
    assert chosen([AFRAID], long, short) == short
    assert chosen([AFRAID], short, short[:-1] + ", what happened?") == short[:-1] + ", what happened?"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "Oh",
        "so so so sad",
        "the sad day the sad day the sad day",
        "{a_motivation: comfort} Oh dear me",
        "1234 5678 %% ## oh no",
        "word and " * 100,
    ],
)
def test_garbled_replies_are_never_chosen(text: str) -> None:
    assert not is_readable(text)
    assert chosen([AFRAID], text) is None
    assert chosen([AFRAID], text, STYLES["lecture"]) == STYLES["lecture"]


def test_without_candidates_there_is_no_choice() -> None:
    assert OfflineSelector().select([Choice("s1/1", (Message("user", AFRAID),), ())]) == [NoChoice.NONE_GOOD]


def test_choices_are_answered_in_order() -> None:
    history = (Message("user", AFRAID),)
    choices = [
        Choice("a", history, ("", STYLES["lecture"], STYLES["reassurance"])),
        Choice("b", history, ("",)),
        Choice("c", history, (STYLES["reassurance"], STYLES["celebration"])),
    ]
    assert OfflineSelector().select(choices) == [2, NoChoice.NONE_GOOD, 0]


TALK = st.lists(
    st.sampled_from(
        ["sorry", "oh", "garden", "you", "will", "be", "okay", "hooray", "well", "done", "the", "so", "fair?", "why?"]
    ),
    min_size=0,
    max_size=9,
).map(" ".join)


@settings(deadline=None)  # the first score loads VADER
@given(st.lists(TALK, min_size=1, max_size=8, unique=True).flatmap(lambda c: st.tuples(st.just(c), st.permutations(c))))
def test_candidates_in_another_order_give_the_same_choice(candidates: tuple[list[str], list[str]]) -> None:
    given_order, permuted = candidates
    assert chosen([AFRAID], *given_order) == chosen([AFRAID], *permuted)


def test_ties_are_drawn_by_turn_and_words_not_by_position() -> None:
    pair = ("I see the garden, why there?", "I see the garden, why then?")
    picks = [OfflineSelector().select([Choice(f"s{n}/1", (Message("user", AFRAID),), pair)])[0] for n in range(200)]
    assert 60 < sum(pick == 0 for pick in picks) < 140
    repeated = [OfflineSelector().select([Choice(f"s{n}/1", (Message("user", AFRAID),), pair)])[0] for n in range(200)]
    assert picks == repeated
