"""The selector LLM: it sees what was said and the candidates, and names the best or none (paper §3.4).

What "best" means, the mode (companion, humour), is the prompt file's to say.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

from sage_dialog.dialogue import Message
from sage_dialog.llm.client import FailureCounter, LLMClient
from sage_dialog.llm.requests import FailureReason, Request, RequestFailedError
from sage_dialog.roles.llm.parsing import NO_ANSWER, json_values, spoken, stated
from sage_dialog.roles.llm.prompts import Prompt, PromptFile, numbered, role_name, shown
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


class LLMSelector:
    """Asks for one number or none, once for each turn and again where the answer cannot be read.

    Args:
        client: the model, and all that calls to it have in common.
        prompt: file with the sections [system] and [user], which shows `history` and `candidates`.
        attempts: how often a turn is asked, with the same candidates, until the answer can be read.
    """

    def __init__(self, client: LLMClient, prompt: PromptFile, attempts: int = 3) -> None:
        if attempts < 1:
            raise ValueError(f"attempts = {attempts}; it takes at least one to choose")
        self._client = client
        self._attempts = attempts
        self._prompt = Prompt(prompt, {"system": {}, "user": _variables(_EXAMPLE)})
        self._expected: int | None = None
        self._announced = False
        self._failed: FailureCounter | None = None
        self._counting = threading.Lock()
        self.name = role_name(client.endpoint, self._prompt, _schema(2), attempts=attempts)

    def expect(self, choices: int) -> None:
        """See `protocols.Selector`. From here on unreadable turns are counted against as many."""
        self._expected, self._announced = choices, False
        self._failed = self._client.failure_counter("turns to select for", choices)

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        """See `protocols.Selector`.

        Raises:
            RequestFailedError: if the server fails; nothing can be played on without it.
            TooManyFailuresError: if more of the expected turns are unreadable than the parameters allow.
        """
        with self._counting:
            if choices and not self._announced:
                self._client.log_estimate((self._request(choice) for choice in choices), self._expected)
                self._announced = True
        picked = list(self._client.map(self._picked, choices))
        with self._counting:
            for answer in picked:
                if answer is NoChoice.UNREADABLE and self._failed is not None:
                    self._failed.add("no answer to it named one candidate or none")
        return picked

    async def _picked(self, choice: Choice) -> int | NoChoice:
        for attempt in range(self._attempts):
            try:
                reply = await self._client.request(self._request(choice, attempt))
            except RequestFailedError as error:
                if error.reason not in NO_ANSWER:
                    raise
                if error.reason is FailureReason.TOO_LONG:  # it stays too long
                    break
                continue
            answer = read_choice(reply.text, len(choice.candidates))
            if answer is not NoChoice.UNREADABLE:
                return answer
        return NoChoice.UNREADABLE

    def _request(self, choice: Choice, attempt: int = 0) -> Request:
        messages = self._prompt.messages(_variables(choice))
        return self._client.chat_request("selector", messages, _schema(len(choice.candidates)), attempt)


def read_choice(reply: str, candidates: int) -> int | NoChoice:
    """The index that a reply names by its number, which counts from 1.

    Prose that holds a second number, or a number and "none", is unreadable, and so is a number out of range.
    """
    answer = stated(reply, "choice", _FORM)
    if answer is None or not (_in_json(reply) or _said_alone(reply)):
        return NoChoice.UNREADABLE
    if answer == "none":
        return NoChoice.NONE_GOOD
    digits = answer.lstrip("0")
    if not digits or len(digits) > 9 or int(digits) > candidates:
        return NoChoice.UNREADABLE
    return int(digits) - 1


def _in_json(reply: str) -> bool:
    return any(isinstance(value, dict) and "choice" in value for value in json_values(spoken(reply)))


def _said_alone(reply: str) -> bool:
    return len({mention.lower().lstrip("0") for mention in _MENTION.findall(spoken(reply))}) == 1


def _variables(choice: Choice) -> dict[str, Any]:
    return {
        "history": numbered(choice.history),
        "candidates": [
            {"number": number, "text": shown(text)} for number, text in enumerate(choice.candidates, start=1)
        ],
    }


def _schema(candidates: int) -> dict[str, Any]:
    numbers = [str(number) for number in range(1, candidates + 1)]
    return {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": [*numbers, "none"]}},
        "required": ["choice"],
        "additionalProperties": False,
    }


_EXAMPLE = Choice("example", (Message("user", "I lost my keys."),), ("Oh no! Where were you last?", "Buy new ones."))
