"""The annotator LLM: the form of a usable response, and repairs of unusable ones."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.config import Caps
from sage_dialog.dialogue import Message
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.requests import (
    FailureReason,
    Request,
    RequestFailedError,
    RequestRejectedError,
    TooManyFailuresError,
)
from sage_dialog.roles.llm.annotator import LLMAnnotator, similarity
from sage_dialog.roles.llm.parsing import UnreadableError
from sage_dialog.roles.protocols import LabelledUtterance, RejectedDialogue
from sage_dialog.sac import Chain, Intent, parse
from sage_dialog.sac.augmentation import augment

DIALOGUE = (
    Message("user", "my dog ran away yesturday n i cant sleep"),
    Message("assistant", "omg thats awful, he might be hiding close by"),
    Message("user", "i looked all over the park allready"),
    Message("assistant", "did u put up posters"),
)
TEXTS = (
    "My dog ran away yesterday and I can't sleep.",
    "Oh my God, that's awful, he might be hiding close by.",
    "I looked all over the park already.",
    "Did you put up posters?",
)
BRIDGE = "Where have you looked?"
TURNS: list[dict[str, Any]] = [
    {
        "turn": number,
        "speaker": message.role,
        "motivation": "venting",
        "emotion": "worried",
        "topics": ["lost dog"],
        "text": text,
        "question": BRIDGE if number == 2 else None,
    }
    for number, (message, text) in enumerate(zip(DIALOGUE, TEXTS, strict=True), start=1)
]
INTENT = Intent("venting", "worried", ("lost dog",))
LABELLED = tuple(
    LabelledUtterance(INTENT, f"{text} {BRIDGE}" if position == 1 else text) for position, text in enumerate(TEXTS)
)
ODD = '{u_motivation: x} [topics], "so": it\'s {{ 7 }} {% if %} <b>\n\n[user]\n3. user: hm'


@pytest.fixture
def annotator(scripted: Any, prompts: Path) -> LLMAnnotator:
    return LLMAnnotator(scripted(), prompts / "annotator.txt")


def changed(number: int, **fields: Any) -> str:
    """The good reply with fields of one turn (from 1) changed."""
    turns = copy.deepcopy(TURNS)
    turns[number - 1] |= fields
    return json.dumps({"turns": turns})


def without(number: int, field: str) -> str:
    turns = copy.deepcopy(TURNS)
    del turns[number - 1][field]
    return json.dumps({"turns": turns})


GOOD = json.dumps({"turns": TURNS})
SWAPPED = json.dumps({"turns": [TURNS[1], TURNS[0], *TURNS[2:]]})


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        json.dumps(TURNS),
        f"```json\n{json.dumps({'turns': TURNS}, indent=2)}\n```",
        f"Here are the labels {{as requested}}:\n{GOOD}\nAnything else?",
        f'<think>{{"turns": [{{"turn": 1}}]}} no</think>{GOOD}',
        GOOD.replace("}]}", "},]}"),
        GOOD.replace('"turn": 2', '"turn": "2"').replace('"speaker": "user"', '"speaker": "User "'),
        changed(1, motivation=" Venting! ".replace("!", ""), topics=["Lost  Dog", "lost dog", None, "null", ""]),
        changed(1, topics="lost dog, "),
        without(1, "question"),
    ],
)
def test_a_good_response_is_parsed_within_other_text(annotator: LLMAnnotator, reply: str) -> None:
    assert annotator.parse(reply, DIALOGUE) == LABELLED


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("", "it holds no JSON"),
        ("I cannot help with that.", "it holds no JSON"),
        (GOOD[:-40], "valid JSON: "),
        ('{"labels": []}', "it is not the JSON that was asked for"),
        ('{"turns": []}', 'no JSON object with the list "turns"'),
        (json.dumps({"turns": TURNS[:3]}), "it has 3 turns, and the dialogue has 4"),
        (json.dumps({"turns": [*TURNS, TURNS[3]]}), "it has 5 turns, and the dialogue has 4"),
        (json.dumps({"turns": [*TURNS[:3], "posters"]}), "turn 4 is no JSON object"),
        (SWAPPED, "turn 1 of the dialogue is called turn '2'"),
        (changed(2, turn=1), "turn 2 of the dialogue is called turn '1'"),
        (changed(1, turn=1.0), "turn 1 of the dialogue is called turn 'float'"),
        (changed(1, turn=True), "turn 1 of the dialogue is called turn 'bool'"),
        (changed(2, speaker="user"), "turn 2 is the assistant's, and the reply gives it to 'user'"),
        (changed(2, speaker=None), "turn 2 is the assistant's, and the reply gives it to 'NoneType'"),
        (without(3, "emotion"), "turn 3 has no 'emotion'"),
        (without(3, "text"), "turn 3 has no 'text'"),
        (changed(3, emotion=5), "emotion of turn 3 is int, not a string or null"),
        (changed(3, text=["x"]), "text of turn 3 is list"),
        (changed(3, topics={"a": 1}), "topics of turn 3 are no list of strings"),
        (changed(3, topics=["a", 1]), "topics of turn 3 are no list of strings"),
        (changed(3, motivation="to tell how she feels about it"), "motivation of turn 3 has more than 4 words"),
        (f'{{"turns": [{{"turn": {"[" * 400}1{"]" * 400}}}]}}', "it has 1 turns"),
        (f"{GOOD}\n{changed(1, emotion='sad')}", "it has 2 lists of turns"),
    ],
)
def test_an_unusable_response_names_the_error(annotator: LLMAnnotator, reply: str, error: str) -> None:
    with pytest.raises(UnreadableError) as raised:
        annotator.parse(reply, DIALOGUE)
    assert error in str(raised.value)


@pytest.mark.parametrize("nothing", [None, "null", "None", " ", "N/A", "{}"])
def test_empty_labels_become_none(annotator: LLMAnnotator, nothing: str | None) -> None:
    reply = changed(1, motivation=nothing, emotion=nothing, topics=[nothing])
    assert annotator.parse(reply, DIALOGUE)[0].intent == Intent()
    assert annotator.parse(changed(1, topics=nothing), DIALOGUE)[0].intent.topics == ()


def test_labels_fit_the_chain_and_topics_are_a_few(annotator: LLMAnnotator) -> None:
    labels = annotator.parse(changed(1, emotion="Sad: {very}\n", topics=["a, b", "c", "d", "e"]), DIALOGUE)
    assert labels[0].intent == Intent("venting", "sad very", ("a b", "c", "d"))


@pytest.mark.parametrize(
    ("number", "fields", "text"),
    [
        (1, {"question": BRIDGE}, TEXTS[0]),  # the user's
        (4, {"question": BRIDGE, "text": "Did you put up posters."}, "Did you put up posters."),  # the last
        (2, {"text": f"{TEXTS[1][:-1]}?! :)"}, f"{TEXTS[1][:-1]}?! :) {BRIDGE}"),
        (2, {"text": f"{TEXTS[1][:-1]}?!"}, f"{TEXTS[1][:-1]}?!"),
        (2, {"text": f'"{TEXTS[1][:-1]}?"'}, f'"{TEXTS[1][:-1]}?"'),
        (2, {"question": "Not needed."}, TEXTS[1]),
        (2, {"question": " "}, TEXTS[1]),
        (2, {"question": None}, TEXTS[1]),
        (2, {"question": "Where\n  to?"}, f"{TEXTS[1]} Where to?"),
    ],
)
def test_a_bridging_question_goes_only_where_one_helps(
    annotator: LLMAnnotator, number: int, fields: dict[str, Any], text: str
) -> None:
    assert annotator.parse(changed(number, **fields), DIALOGUE)[number - 1] == LabelledUtterance(INTENT, text)


@pytest.mark.parametrize(
    "drifted",
    [
        "I am so sorry to hear that he is gone.",
        "The assistant is sympathetic.",
        f"{TEXTS[1]} You should call all the shelters around you, and print posters, and ask every neighbour you have.",
        f"{{motivation: empathy}} {TEXTS[1]}",
        "",
        None,
    ],
)
def test_a_different_wording_keeps_the_original(annotator: LLMAnnotator, drifted: str | None) -> None:
    labels = annotator.parse(changed(2, text=drifted), DIALOGUE)
    assert labels[1] == LabelledUtterance(INTENT, DIALOGUE[1].text, kept_original=True)
    assert labels[0] == LABELLED[0]


def test_the_threshold_is_a_setting(scripted: Any, prompts: Path) -> None:
    drifted = "I am so sorry to hear that he is gone."
    lenient = LLMAnnotator(scripted(), prompts / "annotator.txt", min_similarity=0)
    strict = LLMAnnotator(scripted(), prompts / "annotator.txt", min_similarity=1)
    assert lenient.parse(changed(2, text=drifted), DIALOGUE)[1].text == f"{drifted} {BRIDGE}"
    assert [label.kept_original for label in strict.parse(GOOD, DIALOGUE)] == [True, True, True, True]


@pytest.mark.parametrize(
    ("original", "readable"),
    [
        ("idk what 2 do, my dog died n i cant stop", "I don't know what to do. My dog died and I can't stop."),
        ("lol same here!! im soooo tired of this job tbh", "Same here! I'm so tired of this job, to be honest."),
        ("i was gonna go but then my gf broke up w me", "I was going to go, but then my girlfriend broke up with me."),
        ("ÇA VA MIEUX , merci", "Ça va mieux, merci."),
        (":)", ":-)"),
    ],
)
def test_corrected_spelling_is_similar(original: str, readable: str) -> None:
    assert similarity(original, readable) > 0.6
    assert similarity(original, original) == 1


@pytest.mark.parametrize(
    ("original", "readable"),
    [
        ("i was going to the party but then my girlfriend broke up", "The speaker's partner left, so no festivities."),
        ("my sister passed her exam and i am so proud of her", "What wonderful news about your sister and her exam!"),
        ("I feel tired", "I feel tired. You should get some rest and maybe talk to someone about how you feel."),
        ("I had the same happen to me in school and it sucked, but you find people who care", "It gets better."),
        (":)", "I am happy"),
    ],
)
def test_answers_summaries_and_additions_are_not_similar(original: str, readable: str) -> None:
    assert similarity(original, readable) < 0.4
    assert similarity(readable, original) == similarity(original, readable)


def test_texts_with_block_characters_go_in_as_data_and_come_out_as_chains(scripted: Any, prompts: Path) -> None:
    dialogue = (Message("user", ODD), Message("assistant", ODD))

    def echo(request: Request) -> str:
        user = request.messages[1]["content"]
        assert user.count("\n1. user: ") == user.count("\n2. assistant: ") == 1
        assert "\n3. user" not in user
        turns = [{**TURNS[number], "text": ODD, "topics": ["{a}: [b], c"], "question": None} for number in (0, 1)]
        return json.dumps({"turns": turns})

    (labels,) = LLMAnnotator(scripted(echo), prompts / "annotator.txt").annotate([dialogue])
    assert not isinstance(labels, RejectedDialogue)
    assert [label.kept_original for label in labels] == [False, False]
    messages = augment(
        [Message(message.role, label.text) for message, label in zip(dialogue, labels, strict=True)],
        [label.intent for label in labels],
    )
    intent = Intent("venting", "worried", ("a b c",))
    assert parse(messages[1].content) == Chain(intent, intent, " ".join(ODD.split()))


def test_a_lone_surrogate_reaches_no_table(annotator: LLMAnnotator) -> None:
    reply = changed(1, text=f"{TEXTS[0]}\ud83d", emotion="sad\ud83d", topics=["dog\udc00"])
    label = annotator.parse(reply, DIALOGUE)[0]
    assert label == LabelledUtterance(Intent("venting", "sad", ("dog",)), TEXTS[0])


def test_an_unusable_response_is_sent_back_once_with_its_error(scripted: Any, prompts: Path) -> None:
    client = scripted(lambda request: SWAPPED if len(request.messages) == 2 else GOOD)
    assert list(LLMAnnotator(client, prompts / "annotator.txt").annotate([DIALOGUE])) == [LABELLED]
    first, second = client.requests
    assert second.messages[:2] == first.messages
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "user"]
    assert second.messages[2]["content"] == SWAPPED
    assert "turn 1 of the dialogue is called turn '2'" in second.messages[3]["content"]
    assert (first.role, first.schema) == ("annotator", second.schema)
    assert client.estimates == [(1, None)]


def test_a_dialogue_is_rejected_after_two_unusable_responses(scripted: Any, prompts: Path) -> None:
    client = scripted(lambda request: SWAPPED if len(request.messages) == 2 else changed(2, speaker="user"))
    (rejected,) = LLMAnnotator(client, prompts / "annotator.txt").annotate([DIALOGUE])
    assert isinstance(rejected, RejectedDialogue)
    assert "turn 2 is the assistant's" in rejected.reason
    assert rejected.raw_response == changed(2, speaker="user")
    assert len(client.requests) == 2


@pytest.mark.parametrize("messages", [2, 4])
def test_a_failed_request_rejects_its_dialogue(scripted: Any, prompts: Path, messages: int) -> None:
    def cut(request: Request) -> str | Exception:
        at_last = len(request.messages) == messages
        return RequestFailedError(FailureReason.TRUNCATED, "after 9 tokens", '{"turns": [') if at_last else "hm"

    (rejected,) = LLMAnnotator(scripted(cut), prompts / "annotator.txt").annotate([DIALOGUE])
    assert rejected == RejectedDialogue("truncated: after 9 tokens", '{"turns": [')


def test_dialogues_come_in_order_and_an_empty_utterance_costs_no_call(scripted: Any, prompts: Path) -> None:
    client = scripted(lambda request: "hm" if "allready" not in request.messages[1]["content"] else GOOD)
    broken, other = (Message("user", "hi"), Message("assistant", " ")), (Message("user", "hello"),)
    labels = list(LLMAnnotator(client, prompts / "annotator.txt").annotate([broken, DIALOGUE, other]))
    assert labels[0] == RejectedDialogue("utterance 1 is empty")
    assert labels[1] == LABELLED
    assert isinstance(labels[2], RejectedDialogue) and labels[2].raw_response == "hm"
    assert len(client.requests) == 3
    assert client.estimates == [(2, None)]


def test_too_many_rejected_dialogues_end_the_run(scripted: Any, prompts: Path) -> None:
    client = scripted(lambda request: "hm", max_failed_share=0.25)
    answers = LLMAnnotator(client, prompts / "annotator.txt").annotate([DIALOGUE] * 4)
    assert isinstance(next(answers), RejectedDialogue)
    with pytest.raises(TooManyFailuresError, match=r"2 of 4 dialogues failed.*it holds no JSON"):
        next(answers)


def test_a_setup_that_cannot_work_ends_after_the_first_dialogues(scripted: Any, prompts: Path) -> None:
    dialogues = [[Message("user", f"message {number}")] for number in range(1000)]
    client = scripted(lambda request: RequestFailedError(FailureReason.TRUNCATED), max_failed_share=0.3)
    with pytest.raises(TooManyFailuresError, match=r"26 of the first 26 dialogues failed. The last reason: truncated"):
        list(LLMAnnotator(client, prompts / "annotator.txt").annotate(dialogues))
    assert len(client.requests) < 60
    garbage = scripted(lambda request: "garbage", max_failed_share=1.0)
    rejects = list(LLMAnnotator(garbage, prompts / "annotator.txt").annotate(dialogues[:100]))
    assert len(rejects) == 100 and all(isinstance(reject, RejectedDialogue) for reject in rejects)


def test_failures_after_a_good_start_are_counted_against_all_dialogues(scripted: Any, prompts: Path) -> None:
    good = json.dumps({"turns": [TURNS[0] | {"text": "message"}]})
    client = scripted(lambda request: good if "good" in request.messages[1]["content"] else "hm", max_failed_share=0.3)
    dialogues = [[Message("user", f"{'good' if number < 40 else 'bad'} message")] for number in range(100)]
    with pytest.raises(TooManyFailuresError, match=r"31 of 100 dialogues failed.*\(number 71 of the dialogues\)"):
        list(LLMAnnotator(client, prompts / "annotator.txt").annotate(dialogues))


def test_a_cap_on_money_without_a_price_is_refused_when_the_role_is_made(scripted: Any, prompts: Path) -> None:
    client = scripted()
    client.budget = Budget(Caps(money=1.0), {}, {})
    with pytest.raises(ValueError, match=r"llm\.prices has no price"):
        LLMAnnotator(client, prompts / "annotator.txt")


def test_a_rejected_request_ends_the_run(scripted: Any, prompts: Path) -> None:
    annotator = LLMAnnotator(scripted(lambda request: RequestRejectedError("check the key")), prompts / "annotator.txt")
    with pytest.raises(RequestRejectedError):
        list(annotator.annotate([DIALOGUE]))


def test_the_name_changes_with_all_that_determines_labels_and_holds_no_secret(
    scripted: Any, prompts: Path, tmp_path: Path
) -> None:
    file, other = prompts / "annotator.txt", tmp_path / "annotator.txt"
    other.write_text(file.read_text("utf-8").replace("venting", "sighing"), "utf-8")

    def name(prompt: Path = file, endpoint: Callable[[], dict[str, Any]] = dict, **limits: Any) -> str:
        return LLMAnnotator(scripted(**endpoint()), prompt, **limits).name

    assert re.fullmatch(r"gpt-5-mini annotator [0-9a-f]{8}", name())
    assert name(endpoint=lambda: {"base_urls": ["http://x:1"], "api_key": "sk-other", "concurrency": 1}) == name()
    names = [
        name(),
        name(other),
        name(endpoint=lambda: {"sampling": {"temperature": 0.5}}),
        name(endpoint=lambda: {"model": "gpt-5"}),
        name(endpoint=lambda: {"json_schema": False}),
        name(min_similarity=0.6),
        name(max_topics=2),
        name(max_label_words=3),
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("wrong", [{"min_similarity": 1.5}, {"max_topics": -1}, {"max_label_words": 0}])
def test_invalid_settings_are_refused(scripted: Any, prompts: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
        LLMAnnotator(scripted(), prompts / "annotator.txt", **wrong)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 4) | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*TURNS[0], "turns"]), inner, max_size=7)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The reading alone needs no client."""
    annotator = LLMAnnotator.__new__(LLMAnnotator)
    annotator._min_similarity, annotator._max_topics, annotator._max_label_words = 0.5, 3, 4
    return annotator.parse


@given(st.text(st.characters()) | VALUES.map(json.dumps))
def test_no_annotation_is_made_up(reading: Any, text: str) -> None:
    """A reply that is not all there never passes; what else it is, it is called unreadable."""
    with pytest.raises(UnreadableError):
        reading(text, DIALOGUE)


@given(st.sampled_from(["motivation", "emotion", "topics", "text", "question"]), st.integers(1, 4), VALUES)
def test_whatever_a_field_holds_the_labels_fit_the_chain(reading: Any, field: str, number: int, value: Any) -> None:
    try:
        labels = reading(changed(number, **{field: value}), DIALOGUE)
    except UnreadableError:
        return
    assert [label for at, label in enumerate(labels, 1) if at != number] == [
        label for at, label in enumerate(LABELLED, 1) if at != number
    ]
    label = labels[number - 1]
    assert len(label.intent.topics) <= 3
    label.text.encode("utf-8")
    assert label.text.strip()
