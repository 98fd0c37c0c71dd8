"""What is asked of a language model, what it replies, and the ways in which it may fail to."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

PutTogether = Callable[[dict[str, Any], Mapping[str, Any]], None]
"""Adds a piece of a streamed answer to what has come of it."""


@dataclass(frozen=True)
class Request(ABC):
    """What a server is asked.

    Args:
        role: who asks ("annotator", …); costs are counted and capped by role.
        model: as the servers know it.
    """

    role: str
    model: str

    path: ClassVar[str]
    """Of the URL, behind the server's own."""

    @cached_property
    def key(self) -> str:
        """The name of its reply: a hash of all that decides it. Who asks, and which server answers, do not."""
        return hashlib.sha256(json.dumps(self.fingerprint_inputs(), sort_keys=True).encode()).hexdigest()

    @abstractmethod
    def fingerprint_inputs(self) -> dict[str, Any]:
        """All that decides the reply."""

    @abstractmethod
    def body(self) -> dict[str, Any]:
        """What is sent."""

    @abstractmethod
    def read(self, answer: Mapping[str, Any], prompt_tokens: int, completion_tokens: int) -> LLMResponse:
        """The reply in a server's answer.

        Raises:
            RequestFailedError: if there is none of use in it, or it is not of the form that servers have agreed on.
            RequestRejectedError: if the server does not do what it was asked.
        """

    @property
    def put_together(self) -> PutTogether | None:
        """What takes the pieces of its answer as they come; None where the answer may come whole."""
        return None

    @property
    @abstractmethod
    def max_prompt_tokens(self) -> int:
        """No tokenizer makes more of it."""

    @property
    @abstractmethod
    def max_completion_tokens(self) -> int | None:
        """What the request itself allows; None where it sets no limit."""


@dataclass(frozen=True)
class ChatRequest(Request):
    """One chat completion.

    Args:
        messages: role and content, as the server takes them.
        sampling: fields of the request's body that shape the reply: temperature, seed, a limit on its tokens, …
        schema: JSON schema of the reply; None leaves its form open.
        sample: tells requests apart that are otherwise the same, where several replies are wanted.
    """

    messages: tuple[Mapping[str, str], ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    sample: int = 0

    path = "/chat/completions"

    def fingerprint_inputs(self) -> dict[str, Any]:
        """See `Request.fingerprint_inputs`."""
        return {
            "model": self.model,
            "messages": [dict(message) for message in self.messages],
            "sampling": dict(self.sampling),
            "schema": self.schema,
            "sample": self.sample,
        }

    def body(self) -> dict[str, Any]:
        """What is sent. Another sample has another seed, where one is set: else it would be the same reply."""
        body: dict[str, Any] = {"model": self.model, "messages": list(self.messages), **self.sampling}
        if self.sample and isinstance(seed := body.get("seed"), int):
            body["seed"] = seed + self.sample
        if self.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": self.role, "schema": self.schema, "strict": True},
            }
        return body

    def read(self, answer: Mapping[str, Any], prompt_tokens: int, completion_tokens: int) -> LLMResponse:
        """The message in a server's answer.

        Raises:
            RequestFailedError: if it is cut, empty, filtered or refused, or not of the form that servers have agreed on.
        """
        try:
            choice = answer["choices"][0]
            message, finished = choice["message"], choice.get("finish_reason")
            text = message.get("content")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise RequestFailedError(FailureReason.BROKEN, "its answer holds no message") from error
        if not isinstance(text, str | None):
            raise RequestFailedError(FailureReason.BROKEN, "its message is no text")
        if text is not None:
            text = remove_surrogates(text)
        if refusal := message.get("refusal"):
            raise RequestFailedError(FailureReason.REFUSED, remove_surrogates(str(refusal)[:200]), text)
        if finished == "content_filter":
            raise RequestFailedError(FailureReason.FILTERED, "after the model spoke", text)
        if finished == "length":
            raise RequestFailedError(FailureReason.TRUNCATED, f"after {completion_tokens} tokens", text)
        if text is None or not text.strip():
            raise RequestFailedError(FailureReason.EMPTY, "", text)
        return LLMResponse(text, prompt_tokens, completion_tokens, seconds_of(answer))

    @property
    def max_prompt_tokens(self) -> int:
        """No tokenizer makes more: a byte is a token at most, and templates put a few around each message."""
        schema = json.dumps(self.schema) if self.schema is not None else ""  # servers put it before the messages
        return sum(len(message["content"].encode()) + 16 for message in self.messages) + len(schema) + 16

    @property
    def max_completion_tokens(self) -> int | None:
        """What the request itself allows; None where it sets no limit."""
        return self.sampling.get("max_completion_tokens", self.sampling.get("max_tokens"))


@dataclass(frozen=True)
class LLMResponse:
    """What a model said, whole, and what it took. `seconds` is how long the server was at it."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float = 0.0


class FailureReason(StrEnum):
    """Why a request has no reply."""

    TRUNCATED = "truncated"  # the limit on tokens was reached
    EMPTY = "empty"
    FILTERED = "filtered"  # by the server's content filter, after the model spoke
    PROMPT_FILTERED = "the prompt was filtered"  # before it did
    REFUSED = "refused"  # by the model, in the form that servers have for it
    TOO_LONG = "too long for the model's context"
    UNREACHABLE = "the server could not be reached"
    TIMED_OUT = "the server did not answer in time"
    BUSY = "the server turned the request away"  # 429, 503
    BROKEN = "the server failed"  # 5xx, or an answer that is none
    EXPIRED = "expired in a batch"


RETRYABLE = (FailureReason.UNREACHABLE, FailureReason.TIMED_OUT, FailureReason.BUSY, FailureReason.BROKEN)
"""The server may do better the next time."""

OVERLOADED = (FailureReason.UNREACHABLE, FailureReason.TIMED_OUT, FailureReason.BUSY)
"""The server has too much to do."""

UNUSABLE_RESPONSES = (FailureReason.TRUNCATED, FailureReason.EMPTY, FailureReason.FILTERED, FailureReason.REFUSED)
"""The server did answer, and what it said is of no use."""


class RequestFailedError(Exception):
    """A request that has no reply. `said` is what came in place of one, `wait_s` how long the server asks to wait."""

    def __init__(
        self, reason: FailureReason, detail: str = "", response_text: str | None = None, wait_s: float | None = None
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
        self.response_text = response_text
        self.wait_s = wait_s


class StopRunError(Exception):
    """The run cannot go on; every reply so far is kept."""


class RequestRejectedError(StopRunError):
    """The server will take no request of this kind, however often it is asked: a wrong key, model or field.

    `status` is that of its answer, None where what it answered is not what it was asked for.
    """

    def __init__(self, told: str, status: int | None = None) -> None:
        super().__init__(told)
        self.status = status


class TooManyFailuresError(StopRunError):
    """More rows failed than the parameters allow."""


def remove_surrogates(text: str) -> str:
    """The text without halves of surrogate pairs: JSON may hold them, no request, file or table can."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def seconds_of(answer: Mapping[str, Any]) -> float:
    """How long the server was at an answer."""
    return round(float(answer.get("seconds", 0.0)), 3)
