"""Parsing of responses: text around an answer is ignored, and no answer is guessed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.roles.llm.parsing import describe_json_error, find_answer, json_values, repaired_object, strip_thoughts

ANY_REPLY = st.text(st.characters()) | st.text('{}[]",:0123AB \n<think/>choicverdtn', max_size=60)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a": 1}', [{"a": 1}]),
        ('```json\n{"a": [1, {"b": 2}]}\n```', [{"a": [1, {"b": 2}]}]),
        ('Here it is: {"a": null} Hope that helps :} {', [{"a": None}]),
        ('{"a": "one\ntwo"}', [{"a": "one\ntwo"}]),
        ('{"a": ["x,]", 2,],\n}', [{"a": ["x,]", 2]}]),
        ('{"a": 1} or {"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{"a": 1, "a": 2}', []),
        ("no JSON at all", []),
        ("{" * 5000, []),
    ],
)
def test_json_is_found_anywhere_in_a_response(text: str, values: list[object]) -> None:
    assert json_values(text) == values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': [1, 'it\\'s']}", {"a": [1, "it's"]}),
        ('Sure: {"a": "she said "no" to it", "b": 2} Bye.', {"a": 'she said "no" to it', "b": 2}),
        ('{"a": [{"b": 1} {"b": 2}]}', {"a": [{"b": 1}, {"b": 2}]}),
        ('{"a": [{"b": 1}, {"b": ', None),  # it does not end
        ('{"a": 1 "a": 2}', None),
        ('{"a": {"b": 1, "b": 2}}', None),
        ("{b: 1}", None),
        ("no JSON", None),
        ("{" * 5000 + "}", None),
    ],
)
def test_almost_json_is_repaired_where_nothing_is_guessed(text: str, value: object) -> None:
    assert repaired_object(text, "a") == value


def test_a_json_error_has_line_and_column() -> None:
    assert (
        describe_json_error('Sure:\n{"a": 1 "b": 2}')
        == "it is no valid JSON: Expecting ',' delimiter at line 2, column 9"
    )
    assert describe_json_error('{"a": 1, "a": 2}') == "it is no valid JSON: an object has the same key twice"
    assert describe_json_error("Sorry.") == "it holds no JSON"


def test_thoughts_are_stripped() -> None:
    assert strip_thoughts('<think>{"a": 1}? No.</think> {"a": 2}') == ' {"a": 2}'
    assert strip_thoughts("the template opened the thought</think>3") == "3"
    assert strip_thoughts("<think>perhaps 3") == ""


@given(ANY_REPLY, st.sampled_from(["choice", "c"]))
def test_parsing_never_raises_and_the_answer_is_in_the_text(text: str, key: str) -> None:
    describe_json_error(text)
    answer = find_answer(text, key, re.compile(r"(?P<answer>[0-9]|none)"))
    assert answer is None or answer in text or (answer == "none" and "null" in text)
