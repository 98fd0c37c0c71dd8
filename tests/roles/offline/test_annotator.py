"""The offline annotator and its cues for emotions."""

import itertools

import pytest

from sage_dialog.corpora.empathetic import EMOTIONS
from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.annotator import OfflineAnnotator
from sage_dialog.roles.offline.cues import cue_votes, dominant_emotion, welcome_styles
from sage_dialog.roles.offline.lexicon import read_lexicon, split_phrases
from sage_dialog.roles.protocols import LabelledUtterance, RejectedDialogue
from sage_dialog.sac import Intent

SCARED = "My stomach was in knots"  # an event: terrified, anxious, afraid or apprehensive
QUIETLY = "it came quietly"  # a manner: anxious, annoyed, sad, guilty, …
MOVED = "Well, it meant the world"  # an event: grateful, caring, trusting or sentimental


def dialogue(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts))


def labelled(*texts: str) -> tuple[LabelledUtterance, ...]:
    """The labels of one dialogue, the first speaker's utterance first."""
    (labels,) = OfflineAnnotator().annotate([dialogue(*texts)])
    assert not isinstance(labels, RejectedDialogue)
    return labels


def intents(*texts: str) -> list[Intent]:
    return [label.intent for label in labelled(*texts)]


def test_every_utterance_of_a_dialogue_is_labelled() -> None:
    assert intents(
        f"{SCARED} before the exam, {QUIETLY}.",
        "Do not worry, it will turn out well. Do you have your notes?",
        "The tutor has them.",
        "Keep going, you can do it!",
        "Did you ever fail one?",
        "Twice.",
        "Thank you, I will tell the choir and the tutor.",
    ) == [
        Intent("sharing", "anxious", ("exam",)),
        Intent("reassurance", "calm", ("exam",)),
        Intent("elaborating", "anxious", ("exam",)),
        Intent("encouragement", "hopeful", ("exam",)),  # the topic of the previous utterance
        Intent("asking", "anxious", ()),
        Intent(None, None, ()),
        Intent("gratitude", "anxious", ("exam", "concert")),
    ]


def test_topics_are_at_most_two_first_the_one_with_most_of_its_words() -> None:
    (intent,) = intents(
        "A nurse saw a dog, its leash and a puppy by the car, that car of all cars, the car, the car, an engine."
    )
    assert intent.topics == ("dog", "car")
    assert intents("Cargo, a scar, and a hotdog.") == [Intent("sharing", None, ())]  # whole words only


def test_the_users_emotion_comes_from_all_their_words_and_not_from_the_assistants() -> None:
    first, _, later = intents(f"{SCARED}.", "All at once?", f"Yes, {QUIETLY}.")
    assert first.emotion in {"terrified", "anxious", "afraid", "apprehensive"}
    assert later.emotion == "anxious"


def test_a_dialogue_with_an_empty_utterance_is_rejected_and_the_others_are_not() -> None:
    whole, broken = dialogue("I won.", "Hooray!"), dialogue("I won.", " \n", "Hello?")
    labels = list(OfflineAnnotator().annotate([whole, broken, whole]))
    assert labels[1] == RejectedDialogue("utterance 1 is empty")
    assert labels[0] == labels[2] == labelled("I won.", "Hooray!")


def test_dialogues_are_answered_in_their_order_and_the_same_every_time() -> None:
    texts = [f"{SCARED}.", f"{MOVED} at the wedding.", "Just a bit of {soup}.", "Why?"]
    batch = [dialogue(text, "I see.", "Yes.") for text in texts]
    answers = list(OfflineAnnotator().annotate(batch))
    assert answers == [labelled(text, "I see.", "Yes.") for text in texts]
    assert answers == list(OfflineAnnotator().annotate(batch))
    assert answers[::-1] == list(OfflineAnnotator().annotate(batch[::-1]))
    assert list(OfflineAnnotator().annotate([])) == []


def test_a_reply_without_a_question_gets_one_unless_it_is_the_last() -> None:
    texts = [
        label.text for label in labelled("The car broke.", "Oh no.", "Yes.", "Oh?", "Yes.", "I see.", "Hm.", "Bye.")
    ]
    assert texts == [
        "The car broke.",
        "Oh no. How is it going with the car?",
        "Yes.",
        "Oh?",
        "Yes.",
        "I see. How did that go?",
        "Hm.",
        "Bye.",
    ]


def test_the_wording_is_made_more_readable() -> None:
    (label,) = labelled("so  then...\nhe left!!! why??")
    assert label.text == "So then. he left! why?"


def test_one_kind_of_cue_is_ambiguous_and_two_name_an_emotion() -> None:
    assert dominant_emotion([SCARED]) is None
    assert dominant_emotion([SCARED, SCARED]) is None
    assert dominant_emotion([QUIETLY]) is None
    assert dominant_emotion([SCARED, QUIETLY]) == dominant_emotion([f"{SCARED}, {QUIETLY}"]) == "anxious"


def test_emotions_with_equal_votes_tie() -> None:
    assert dominant_emotion([SCARED, QUIETLY, MOVED]) is None  # anxious as much as caring
    assert dominant_emotion([SCARED, QUIETLY, MOVED, SCARED]) == "anxious"
    assert dominant_emotion(["There was weather."]) is None
    assert dominant_emotion([]) is None


def test_a_repeated_cue_in_a_message_is_one_vote() -> None:
    assert cue_votes(f"{SCARED}, I was shaking, shaking") == cue_votes("I was SHAKING!")
    assert not cue_votes("I was shaken")


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_any_two_cues_of_an_emotion_name_it(emotion: str) -> None:
    happened, came = (group["phrases"] for group in read_lexicon("feelings")["cues"] if emotion in group["emotions"])
    for pair in itertools.product(split_phrases(happened), split_phrases(came)):
        assert dominant_emotion([" and ".join(pair)]) == emotion, pair


def test_welcome_styles_cover_the_32_emotions_and_known_styles() -> None:
    assert set(read_lexicon("feelings")["welcome"]) == set(EMOTIONS)
    assert {emotion for group in read_lexicon("feelings")["cues"] for emotion in group["emotions"]} == set(EMOTIONS)
    for emotion in EMOTIONS:
        assert set(welcome_styles(emotion)) <= set(read_lexicon("selector_styles")), emotion
        assert all(0 < value <= 1 for value in welcome_styles(emotion).values()), emotion


def test_every_motivation_of_a_listener_has_a_tone() -> None:
    lexicon = read_lexicon("annotator")
    assert set(lexicon["tones"]) == set(lexicon["motivations"]) <= set(read_lexicon("selector_styles"))
