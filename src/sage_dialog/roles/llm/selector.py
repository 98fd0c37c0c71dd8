"""The selector LLM: names the best candidate of an agent turn, or none (paper §3.4).

The prompt file defines what "best" means: the mode (companion, humour).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

from sage_dialog.dialogue import Message
from sage_dialog.llm.client import FailureCounter, LLMClient
from sage_dialog.llm.requests import NO_ANSWER, UNUSABLE_RESPONSES, Request, RequestFailedError
from sage_dialog.roles.llm.parsing import find_answer, json_values, strip_thoughts
from sage_dialog.roles.llm.prompts import Prompt, PromptFile, indent_lines, number_messages, role_name
from sage_dialog.roles.protocols import Choice, NoChoice

_FILLERS = r"I|I'd|would|choose|pick|select|my|the|best|candidate|choice|option|reply|response|answer|number|is|be"
_FORM = re.compile(
    rf"(?:(?:{_FILLERS})\b[ :#*\"]*)*(?P<answer>[0-9]+|none)"
    r"(?:,? (?:is|would be) (?:the )?best(?: (?:one|candidate|choice|option|reply|response|answer))?"
    r"|(?<=none) of (?:them|these|the (?:candidates|replies|options))"
    r"(?: (?:is|are) (?:good|good enough|suitable|acceptable|appropriate)| fits?| will do)?)?",
    re.IGNORECASE,
)
_MENTION = re.compile(r"[0-9]+|\bnone\b", re.IGNORECASE)
_UNREADABLE = "no response named one candidate or none"
_EXAMPLE = Choice("example", (Message("user", "I lost my keys."),), ("Oh no! Where were you last?", "Buy new ones."))


class LLMSelector:
    """Requests one number or none.

    Args:
        client: the model.
        prompt: file with the sections [system] and [user], which shows `history` and `candidates`.
        attempts: limit on requests for a turn until an answer is readable, with the same candidates.
    """

    def __init__(self, client: LLMClient, prompt: PromptFile, attempts: int = 3) -> None:
        if attempts < 1:
            raise ValueError(f"attempts = {attempts}; it must be at least 1")
        client.check_caps("selector")
        self._client = client
        self._attempts = attempts
        self._prompt = Prompt(prompt, {"system": {}, "user": _variables(_EXAMPLE)})
        self._expected: int | None = None
        self._estimate_logged = False
        self._failures: FailureCounter | None = None
        self._reasons: dict[str, str] = {}  # why the server gave no response, by turn
        self._lock = threading.Lock()
        self.name = role_name(client.endpoint, self._prompt, _schema(2), attempts=attempts)

    def expect(self, choices: int) -> None:
        """Set the upper bound on the choices to come; unreadable ones are counted against it from here on."""
        self._expected, self._estimate_logged = choices, False
        self._failures = FailureCounter("turns to select for", choices, self._client.max_failed_share)

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        """Return the index of the best candidate of each choice, or why there is none.

        Raises:
            RequestFailedError: if the server fails.
            TooManyFailuresError: if more of the expected turns are unreadable than the parameters allow.
        """
        with self._lock:
            if choices and not self._estimate_logged:
                self._client.log_estimate((self._request(choice) for choice in choices), self._expected)
                self._estimate_logged = True
        selected = list(self._client.map(self._counted, choices))
        with self._lock:
            for choice, answer in zip(choices, selected, strict=True):
                if answer is NoChoice.UNREADABLE and self._failures is not None:
                    self._failures.add(f"{choice.item}: {self._reasons.get(choice.item, _UNREADABLE)}")
        return selected

    async def _counted(self, choice: Choice) -> int | NoChoice:
        answer = await self._select(choice)
        if self._failures is not None:
            unreadable = answer is NoChoice.UNREADABLE
            self._failures.finish(self._reasons.get(choice.item, _UNREADABLE) if unreadable else None)
        return answer

    async def _select(self, choice: Choice) -> int | NoChoice:
        for attempt in range(self._attempts):
            try:
                response = await self._client.request(self._request(choice, attempt))
            except RequestFailedError as error:
                if error.reason not in NO_ANSWER:
                    raise
                self._reasons[choice.item] = str(error)
                if error.reason not in UNUSABLE_RESPONSES:  # every attempt would fail
                    break
                continue
            answer = parse_choice(response.text, len(choice.candidates))
            if answer is not NoChoice.UNREADABLE:
                return answer
        return NoChoice.UNREADABLE

    def _request(self, choice: Choice, attempt: int = 0) -> Request:
        messages = self._prompt.messages(_variables(choice))
        return self._client.chat_request("selector", messages, _schema(len(choice.candidates)), attempt)


def parse_choice(response: str, candidates: int) -> int | NoChoice:
    """Return the index that a response names by its number, which counts from 1.

    Prose with a second number, or with a number and "none", is unreadable, and so is a number out of range.
    """
    answer = find_answer(response, "choice", _FORM)
    if answer is None or not (_is_json(response) or _is_only_mention(response)):
        return NoChoice.UNREADABLE
    if answer == "none":
        return NoChoice.NONE_GOOD
    digits = answer.lstrip("0")
    if not digits or len(digits) > 9 or int(digits) > candidates:
        return NoChoice.UNREADABLE
    return int(digits) - 1


def _is_json(response: str) -> bool:
    return any(isinstance(value, dict) and "choice" in value for value in json_values(strip_thoughts(response)))


def _is_only_mention(response: str) -> bool:
    return len({mention.lower().lstrip("0") for mention in _MENTION.findall(strip_thoughts(response))}) == 1


def _variables(choice: Choice) -> dict[str, Any]:
    candidates = [{"number": n, "text": indent_lines(text)} for n, text in enumerate(choice.candidates, start=1)]
    return {"history": number_messages(choice.history), "candidates": candidates}


def _schema(candidates: int) -> dict[str, Any]:
    numbers = [str(number) for number in range(1, candidates + 1)]
    return {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": [*numbers, "none"]}},
        "required": ["choice"],
        "additionalProperties": False,
    }
