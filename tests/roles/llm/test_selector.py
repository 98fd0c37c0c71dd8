"""The selector LLM: one number or none, requested again if unreadable."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.dialogue import Message
from sage_dialog.llm.requests import FailureReason, Request, RequestFailedError, TooManyFailuresError
from sage_dialog.roles.llm.selector import LLMSelector, parse_choice
from sage_dialog.roles.protocols import Choice, NoChoice

NONE, UNREADABLE = NoChoice.NONE_GOOD, NoChoice.UNREADABLE
WORDS = [
    "candidate",
    "3",
    "1",
    "17",
    "none",
    "is",
    "best",
    "of",
    "them",
    "not",
    ".",
    "\n",
    '{"choice":',
    '"3"}',
    "}",
    "-",
]


def choice(item: str, *candidates: str) -> Choice:
    return Choice(
        item, (Message("user", "My dog ran away."),), candidates or ("Oh no!", "So what?", "Any trace of him?")
    )


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ('{"choice": "3"}', 2),
        ('{"choice": 3}', 2),
        ('```\n{"choice": "candidate 2",}\n```', 1),
        ('Of these 3 I take {"choice": "1"}', 0),
        ('{"choice": "none"}', NONE),
        ('{"choice": null}', NONE),
        ("3", 2),
        ("3.", 2),
        ("**16**", 15),
        ("Candidate 3", 2),
        ("The best candidate is number 3.", 2),
        ("I would choose candidate 3, because it listens.", UNREADABLE),  # what follows a number may be anything
        ("I would choose candidate 3", 2),
        ("Candidate 3 is the best", 2),
        ("Candidate 3\n\nIt listens.", 2),
        ("It listens.\nAnswer: 3", 2),
        ("None", NONE),
        ("none of them is good.", NONE),
        ("None of the candidates", NONE),
        ("<think>1 or 2?</think>\n2", 1),
        ("1 or 2", UNREADABLE),
        ("Candidate 1\nCandidate 2", UNREADABLE),
        ("3\nIt takes up her 2 dogs.", UNREADABLE),
        ("None of the 4", UNREADABLE),
        ("3, none of the others", UNREADABLE),
        ("3 of them", UNREADABLE),
        ("None of them is bad", UNREADABLE),
        ("not 3", UNREADABLE),
        ("Candidate 3 is the worst.", UNREADABLE),
        ("3. Any trace of him?", UNREADABLE),  # may be the start of a list
        ("1.1", UNREADABLE),
        ("0", UNREADABLE),
        ("17", UNREADABLE),
        ("9" * 5000, UNREADABLE),
        ("٣", UNREADABLE),
        ('{"choice": "17"}', UNREADABLE),
        ('{"choice": true}', UNREADABLE),
        ('{"choice": 3.0}', UNREADABLE),
        ('{"choice": [3]}', UNREADABLE),
        ('{"choice": ""} 3', UNREADABLE),
        ('{"choice": "3"} {"choice": "2"}', UNREADABLE),
        ('{"choice": "3"} {"choice": "all"}', UNREADABLE),
        ('{"choice": 3, "choice": 2}', UNREADABLE),
        ("<think>3", UNREADABLE),
        ("three", UNREADABLE),
        ("", UNREADABLE),
    ],
)
def test_an_answer_is_parsed_and_never_guessed(reply: str, answer: int | NoChoice) -> None:
    assert parse_choice(reply, 16) is answer or parse_choice(reply, 16) == answer


@given(st.text(st.characters()) | st.lists(st.sampled_from(WORDS), max_size=8), st.integers(1, 20))
def test_no_answer_is_made_up(words: str | list[str], candidates: int) -> None:
    text = words if isinstance(words, str) else " ".join(words)
    answer = parse_choice(text, candidates)
    if isinstance(answer, int):
        assert 0 <= answer < candidates
        assert str(answer + 1) in {number.lstrip("0") for number in re.findall("[0-9]+", text)}
    elif answer is NONE:
        assert re.search("none|null", text, re.IGNORECASE)


def test_an_unreadable_answer_is_requested_again_with_the_same_candidates(scripted: Any, prompts: Path) -> None:
    client = scripted(lambda request: "1 or 2" if request.sample < 2 else '{"choice": "2"}')
    assert LLMSelector(client, prompts / "selector_companion.txt").select([choice("s1/1")]) == [1]
    assert [request.sample for request in client.requests] == [0, 1, 2]
    assert len({request.messages[1]["content"] for request in client.requests}) == 1
    assert len({request.key for request in client.requests}) == 3


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_turn_is_unreadable_after_all_attempts(scripted: Any, prompts: Path, attempts: int) -> None:
    client = scripted(lambda request: "hm")
    selector = LLMSelector(client, prompts / "selector_companion.txt", attempts=attempts)
    assert selector.select([choice("s1/1")]) == [UNREADABLE]
    assert len(client.requests) == attempts


@pytest.mark.parametrize(
    "reason", [FailureReason.TRUNCATED, FailureReason.EMPTY, FailureReason.FILTERED, FailureReason.REFUSED]
)
def test_an_unusable_response_counts_as_unreadable(scripted: Any, prompts: Path, reason: FailureReason) -> None:
    client = scripted(lambda request: '{"choice": "1"}' if request.sample else RequestFailedError(reason))
    assert LLMSelector(client, prompts / "selector_companion.txt").select([choice("s1/1")]) == [0]
    assert [request.sample for request in client.requests] == [0, 1]


def test_a_turn_too_long_for_the_model_is_not_retried(scripted: Any, prompts: Path) -> None:
    client = scripted(lambda request: RequestFailedError(FailureReason.TOO_LONG))
    assert LLMSelector(client, prompts / "selector_companion.txt").select([choice("s1/1")]) == [UNREADABLE]
    assert len(client.requests) == 1


@pytest.mark.parametrize(
    "reason",
    [
        FailureReason.UNREACHABLE,
        FailureReason.TIMED_OUT,
        FailureReason.BUSY,
        FailureReason.BROKEN,
        FailureReason.EXPIRED,
    ],
)
def test_a_failing_server_ends_the_run(scripted: Any, prompts: Path, reason: FailureReason) -> None:
    selector = LLMSelector(scripted(lambda request: RequestFailedError(reason)), prompts / "selector_companion.txt")
    with pytest.raises(RequestFailedError):
        selector.select([choice("s1/1")])


def test_choices_are_answered_in_order_and_a_single_candidate_is_requested(scripted: Any, prompts: Path) -> None:
    def third_or_none(request: Request) -> str:
        return '{"choice": "3"}' if "Candidate 3:" in request.messages[1]["content"] else "None"

    client = scripted(third_or_none)
    choices = [choice("s1/1", "Only this"), choice("s2/1"), choice("s3/1", "a", "b")]
    assert LLMSelector(client, prompts / "selector_humour.txt").select(choices) == [NONE, 2, NONE]
    assert [request.schema["properties"]["choice"]["enum"] for request in client.requests] == [
        ["1", "none"],
        ["1", "2", "3", "none"],
        ["1", "2", "none"],
    ]


def test_a_turns_name_is_not_in_the_prompt(scripted: Any, prompts: Path) -> None:
    client = scripted(lambda request: "1")
    LLMSelector(client, prompts / "selector_companion.txt").select([choice("hit:0_conv:1/1"), choice("other")])
    first, second = client.requests
    assert first.key == second.key


def test_the_estimate_is_logged_once_for_all_expected_turns(scripted: Any, prompts: Path) -> None:
    client = scripted(lambda request: "1")
    selector = LLMSelector(client, prompts / "selector_companion.txt")
    selector.expect(60)
    assert selector.select([]) == []
    selector.select([choice("s1/1"), choice("s2/1", "x", "y")])
    selector.select([choice("s1/3", "z")])
    assert client.estimates == [(2, 60)]


def test_too_many_unreadable_turns_end_the_run(scripted: Any, prompts: Path) -> None:
    client = scripted(lambda request: "hm" if "odd" in request.messages[1]["content"] else "1", max_failed_share=0.1)
    selector = LLMSelector(client, prompts / "selector_companion.txt", attempts=1)
    selector.expect(10)
    assert selector.select([choice("s1/1", "odd"), choice("s2/1")]) == [UNREADABLE, 0]
    with pytest.raises(TooManyFailuresError, match="2 of 10 turns"):
        selector.select([choice("s2/3", "odd one")])


def test_the_name_contains_the_mode_and_changes_with_the_settings(scripted: Any, prompts: Path) -> None:
    companion, humour = prompts / "selector_companion.txt", prompts / "selector_humour.txt"
    name = LLMSelector(scripted(), companion).name
    assert re.fullmatch(r"gpt-5-mini selector_companion [0-9a-f]{8}", name)
    assert (
        LLMSelector(scripted(base_urls=["http://x:1"], api_key="sk-other"), {"filepath": str(companion)}).name == name
    )
    assert LLMSelector(scripted(), humour).name.startswith("gpt-5-mini selector_humour ")
    assert LLMSelector(scripted(), companion, attempts=2).name != name
    assert LLMSelector(scripted(sampling={"temperature": 0}), companion).name != name
    with pytest.raises(ValueError, match="attempts = 0"):
        LLMSelector(scripted(), companion, attempts=0)
