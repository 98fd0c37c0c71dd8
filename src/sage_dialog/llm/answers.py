"""What the answers of servers state: JSON, tokens, and how long to wait."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from sage_dialog.llm.requests import FailureReason, Request, RequestFailedError

logger = logging.getLogger(__name__)

_ABSURD_FACTOR, _ABSURD_FROM = 10, 100_000  # numbers of tokens above 10 times the upper bound, or 1 million

_implausible: set[str] = set()  # kinds of numbers that were warned of


def token_usage(answer: Mapping[str, Any], request: Request) -> tuple[int, int]:
    """Return the tokens of prompt and response as the server counted them; upper bounds where it does not.

    A negative or absurdly large number counts as none: it would lift a cap, or end a run.
    """
    usage = answer.get("usage")
    stated = usage if isinstance(usage, Mapping) else {}
    bounds = {"prompt_tokens": request.max_prompt_tokens, "completion_tokens": request.max_completion_tokens or 0}
    numbers = []
    for name, bound in bounds.items():
        number = stated.get(name)
        if isinstance(number, int) and 0 <= number <= _ABSURD_FACTOR * max(bound, _ABSURD_FROM):
            numbers.append(number)
            continue
        numbers.append(bound)
        if number is not None and name not in _implausible:
            _implausible.add(name)
            logger.warning(
                "a server counts %r %s; such numbers are replaced by the upper bound of the call", number, name
            )
    return numbers[0], numbers[1]


def cached_tokens(answer: Mapping[str, Any], prompt_tokens: int) -> int:
    """Return how many of the prompt's tokens the provider had in its prompt cache, as it states."""
    usage = answer.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
    number = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return max(0, min(number, prompt_tokens)) if isinstance(number, int) else 0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the wait that the server requests, in seconds, from any of the headers in use."""
    forms: tuple[tuple[str, Callable[[str], float]], ...] = (
        ("retry-after-ms", lambda milliseconds: float(milliseconds) / 1000),
        ("retry-after", float),
        ("retry-after", lambda date: parsedate_to_datetime(date).timestamp() - time.time()),
    )
    for name, seconds in forms:
        with suppress(KeyError, ValueError, TypeError):
            return max(0.0, seconds(headers[name]))
    return None


def parse_json(content: bytes) -> dict[str, Any]:
    """Return the object in the body of an answer. Raises RequestFailedError if there is none."""
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise RequestFailedError(FailureReason.BROKEN, "its answer is no JSON") from error
    if not isinstance(answer, dict):
        raise RequestFailedError(FailureReason.BROKEN, "its answer is no JSON object")
    return answer
