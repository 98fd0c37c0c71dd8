"""The judge LLM: compares two complete dialogues (paper §3.6, appendix A).

Judges tend to prefer one of the two positions; callers present every pair in both orders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from sage_dialog.dialogue import Message
from sage_dialog.llm.client import FailureCounter, LLMClient
from sage_dialog.llm.requests import NO_ANSWER, Request, RequestFailedError
from sage_dialog.roles.llm.parsing import find_answer
from sage_dialog.roles.llm.prompts import Prompt, PromptFile, number_messages, role_name
from sage_dialog.roles.protocols import Comparison, Verdict

_THING = r"(?:dialogue|dialog|conversation|transcript|assistant|chatbot|companion|one|choice)"
_FIRST_PERSON = r"i|i'd|would|go|with|for|vote|choose|pick"
_FORM = re.compile(
    rf"(?:(?:the|my|better|best|winner|verdict|answer|final|in|of|is|it|it's|{_FIRST_PERSON}|{_THING})\b[ :*\"]*)*"
    r"(?:a (?=tie))?(?P<answer>A|B|tie)"
    rf"(?: (?:is|was) (?:the )?(?:better|best|winner)(?: (?:social )?{_THING})?(?: than (?:{_THING} )?[AB])?| wins)?"
    r"(?:,? (?:because|since)\b.*)?",
    re.IGNORECASE,
)
_VOTES: dict[str, Literal["first", "second", "tie"]] = {"a": "first", "b": "second", "tie": "tie"}
_SCHEMA = {
    "type": "object",
    # The reason first: a verdict that is already written is only justified.
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}
_FORCED_SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["A", "B"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
_EXAMPLE = Comparison(
    (Message("user", "I lost my keys."), Message("assistant", "Oh no! Where were you last?")),
    (Message("user", "I lost my keys."), Message("assistant", "Keys are often lost.")),
)


class LLMJudge:
    """Requests which assistant is the better social chatbot: A, the first, or B, the second, or neither.

    With `forced_choice` there is no tie and no reason, as in the paper's prompt: an answer that names a tie is
    unreadable, and the two orders alone make ties.

    Args:
        client: the model; the paper states no temperature.
        prompt: file with the sections [system] and [user], which shows the dialogues `a` and `b`.
        forced_choice: whether the judge must name A or B; the prompt says so, too.
    """

    def __init__(self, client: LLMClient, prompt: PromptFile, forced_choice: bool = False) -> None:
        client.check_caps("judge")
        self._client = client
        self._prompt = Prompt(prompt, {"system": {}, "user": _variables(_EXAMPLE)})
        self._forced_choice = forced_choice
        self._schema = _FORCED_SCHEMA if forced_choice else _SCHEMA
        self.name = role_name(
            client.endpoint, self._prompt, self._schema, **({"forced_choice": True} if forced_choice else {})
        )

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
        """Yield a verdict for each comparison, in order.

        Raises:
            RequestFailedError: if the server fails.
            TooManyFailuresError: if more verdicts are unreadable than the parameters allow.
        """
        self._client.log_estimate(self._request(comparison) for comparison in comparisons)
        failures = FailureCounter("comparisons", len(comparisons), self._client.max_failed_share)

        async def judge(comparison: Comparison) -> Verdict:
            verdict = await self._verdict(comparison)
            failures.finish(_failure(verdict))
            return verdict

        for row, verdict in enumerate(self._client.map(judge, comparisons)):
            if failure := _failure(verdict):
                failures.add(failure, row)
            yield verdict

    async def _verdict(self, comparison: Comparison) -> Verdict:
        try:
            response = await self._client.request(self._request(comparison))
        except RequestFailedError as error:
            if error.reason not in NO_ANSWER:
                raise
            return Verdict("unreadable", error.response_text or f"({error})")
        return parse_verdict(response.text, self._forced_choice)

    def _request(self, comparison: Comparison) -> Request:
        return self._client.chat_request("judge", self._prompt.messages(_variables(comparison)), self._schema)


def parse_verdict(response: str, forced_choice: bool = False) -> Verdict:
    """Return the verdict that a response states; unreadable if it states none, several, or a forbidden tie."""
    answer = find_answer(response, "verdict", _FORM)
    if answer is None or (forced_choice and answer == "tie"):
        return Verdict("unreadable", response)
    return Verdict(_VOTES[answer], response)


def _failure(verdict: Verdict) -> str | None:
    """Return why there is no vote."""
    if verdict.vote != "unreadable":
        return None
    return f"unreadable: {(verdict.raw_response or '')[:200]!r}"


def _variables(comparison: Comparison) -> dict[str, Any]:
    return {"a": number_messages(comparison.first), "b": number_messages(comparison.second)}
