"""Parsing of LLM responses: tolerant of text around an answer, without guessing the answer."""

from __future__ import annotations

import json
import re
from typing import Any

from json_repair import repair_json

_JSON_START = re.compile(r"[{\[]")
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
_STATEMENT_END = re.compile(r"[\n\r]+|(?<=[^\d\s][.!])\s+")
_AROUND = " \t*_`\"'“”‘’.,;!()[]{}|>"


class UnreadableError(ValueError):
    """A response that cannot be used. The message may be sent to the model."""


def strip_thoughts(text: str) -> str:
    """Return a response without its <think> part; empty if that part is not closed."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def json_values(text: str) -> list[Any]:
    """Return the outermost JSON objects and arrays in a response."""
    text = _TRAILING_COMMA.sub(lambda found: found[1] or "", text)
    values, position = [], 0
    while found := _JSON_START.search(text, position):
        try:
            value, position = _DECODER.raw_decode(text, found.start())
        except RecursionError:
            break  # a model that repeats a bracket; decoding at each of them would take quadratic time
        except ValueError:
            position = found.end()
        else:
            values.append(value)
    return values


def describe_json_error(text: str) -> str:
    """Return why a response is no JSON, with line and column."""
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


def repaired_object(text: str, key: str) -> dict[str, Any] | None:
    """Return the object in a response that is almost JSON: single quotes, unescaped quotes, missing commas.

    None if the object does not end, names the key several times, or holds any key twice: the rest would be a guess.
    """
    start, end = text.find("{"), text.rfind("}")
    if end < start or start < 0 or len(re.findall(rf"\b{key}[\"']?\s*:", text)) != 1:
        return None
    candidate = text[start : end + 1]
    if any(text[start:].count(opening) != text[start:].count(closing) for opening, closing in ("{}", "[]")):
        return None
    try:
        _DECODER.raw_decode(candidate)
    except _RepeatedKeyError:
        return None
    except (ValueError, RecursionError):
        pass
    try:
        value = repair_json(candidate, return_objects=True)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and key in value else None


def find_answer(text: str, key: str, form: re.Pattern[str]) -> str | None:
    """Return the one answer in a response: the group "answer" of `form`, in lower case.

    The answer is the value of `key` in a JSON object or, without such an object, a line or sentence that matches `form`
    as a whole. None if there is no answer, or several different ones. Of an object that is no valid JSON, for example
    because of quotation marks in another value, the key and its value are enough.
    """
    text = strip_thoughts(text)
    values = [value[key] for value in json_values(text) if isinstance(value, dict) and key in value]
    if not values and len(re.findall(rf"\b{key}[\"']?\s*:", text)) == 1:
        member = rf"[{{,]\s*([\"']?){key}\1\s*:\s*([\"']?)(?P<value>[^\"',{{}}\n]*)\2\s*[,}}\n]"
        values = [found["value"] for found in re.finditer(member, text)]
    if values:
        found = [form.fullmatch(_value_text(value).strip(_AROUND)) for value in values]
        if not all(found):
            return None
    else:
        found = [form.fullmatch(statement.strip(_AROUND)) for statement in _STATEMENT_END.split(text)]
    answers = {match["answer"].lower() for match in found if match}
    return answers.pop() if len(answers) == 1 else None


def _value_text(value: Any) -> str:
    if value is None:
        return "none"
    return str(value) if isinstance(value, str | int) else ""


class _RepeatedKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _RepeatedKeyError("an object has the same key twice")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, strict=False)  # allows line breaks in strings
