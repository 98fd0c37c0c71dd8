"""Reading what language models reply: tolerant of what stands around an answer, never guessing what it is."""

from __future__ import annotations

import json
import re
from typing import Any

from sage_dialog.llm.requests import UNUSABLE_RESPONSES, FailureReason

NO_ANSWER = (*UNUSABLE_RESPONSES, FailureReason.PROMPT_FILTERED, FailureReason.TOO_LONG)
"""The server did its part, and there is still nothing to read. With any other reason it is the server that fails."""

_JSON_START = re.compile(r"[{\[]")
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
_STATEMENT_END = re.compile(r"[\n\r]+|(?<=[^\d\s][.!])\s+")
_AROUND = " \t*_`\"'“”‘’.,;!()[]{}|>"


class UnreadableError(ValueError):
    """What is wrong with a reply, in words that the model may be shown."""


def spoken(text: str) -> str:
    """A reply without what the model thought aloud; a thought that never ends leaves nothing behind it."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def json_values(text: str) -> list[Any]:
    """The objects and arrays in a reply, wherever they stand; those inside of others are part of them."""
    text = _TRAILING_COMMA.sub(lambda found: found[1] or "", text)
    values, at = [], 0
    while found := _JSON_START.search(text, at):
        try:
            value, at = _DECODER.raw_decode(text, found.start())
        except RecursionError:
            break  # a model that repeats itself; each bracket would be followed all the way down
        except ValueError:
            at = found.end()
        else:
            values.append(value)
    return values


def json_fault(text: str) -> str:
    """Why a reply is no JSON, by its line and column."""
    found = _JSON_START.search(text)
    if found is None:
        return "it holds no JSON"
    try:
        _DECODER.raw_decode(text, found.start())
    except json.JSONDecodeError as error:
        return f"it is no valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError) as error:
        return f"it is no valid JSON: {error}"
    return "it is not the JSON that was asked for"


def stated(text: str, key: str, form: re.Pattern[str]) -> str | None:
    """The one answer that a reply states, as the group "answer" of the form has it, in lower case.

    An answer stands under the key in a JSON object, or, where there is no such object, is a line or sentence that is
    of the form as a whole. None where there is no answer, or more than one.
    """
    text = spoken(text)
    objects = [value[key] for value in json_values(text) if isinstance(value, dict) and key in value]
    if objects:
        found = [form.fullmatch(_bare(_written(value))) for value in objects]
        if not all(found):
            return None
    else:
        found = [form.fullmatch(_bare(statement)) for statement in _STATEMENT_END.split(text)]
    answers = {match["answer"].lower() for match in found if match}
    return answers.pop() if len(answers) == 1 else None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) < len(pairs):
        raise ValueError("an object has the same key twice")
    return whole


_DECODER = json.JSONDecoder(object_pairs_hook=_each_once, strict=False)  # line ends inside of strings


def _written(value: Any) -> str:
    if value is None:
        return "none"
    return str(value) if isinstance(value, str | int) else ""


def _bare(statement: str) -> str:
    return statement.strip(_AROUND)
