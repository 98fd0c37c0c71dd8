"""Requests to a language model, its responses, and the ways in which a request can fail."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

AddChunk = Callable[[dict[str, Any], Mapping[str, Any]], None]
"""A function that adds a chunk of a streamed answer to the answer so far."""


@dataclass(frozen=True)
class Request(ABC):
    """A request to a language model.

    Args:
        role: the role that sends it ("annotator", …); costs are counted and capped by role.
        model: the model's name on the servers.
    """

    role: str
    model: str

    path: ClassVar[str]
    """Path below the server's base URL."""

    @cached_property
    def key(self) -> str:
        """The key in the response cache: a hash of all that determines the response. Role and server do not."""
        return hashlib.sha256(json.dumps(self.fingerprint_inputs(), sort_keys=True).encode()).hexdigest()

    @abstractmethod
    def fingerprint_inputs(self) -> dict[str, Any]:
        """Return all that determines the response."""

    @abstractmethod
    def body(self) -> dict[str, Any]:
        """Return the JSON body."""

    @cached_property
    def encoded_body(self) -> bytes:
        """The JSON body as it is sent to a server that supports all of its fields."""
        return json.dumps(self.body()).encode()

    @abstractmethod
    def parse(self, answer: Mapping[str, Any], prompt_tokens: int, completion_tokens: int) -> LLMResponse:
        """Return the response in a server's answer.

        Raises:
            RequestFailedError: if the answer is unusable or malformed.
            RequestRejectedError: if the server does not support the request.
        """

    @property
    def add_chunk(self) -> AddChunk | None:
        """The function that assembles a streamed answer; None requests the answer at once."""
        return None

    @property
    @abstractmethod
    def max_prompt_tokens(self) -> int:
        """Upper bound on the number of prompt tokens, for any tokenizer."""

    @property
    @abstractmethod
    def max_completion_tokens(self) -> int | None:
        """The request's own limit on tokens of the response; None if it has none."""


@dataclass(frozen=True)
class ChatRequest(Request):
    """A chat completion.

    Args:
        messages: role and content, as in the body.
        sampling: fields of the body that shape the response: temperature, seed, max_tokens, …
        schema: JSON schema of the response; None leaves its form open.
        sample: number of the sample where several responses to the same messages are needed.
        on_chunk: called with the text so far after each chunk; None requests the answer at once.
    """

    messages: tuple[Mapping[str, str], ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    sample: int = 0
    on_chunk: Callable[[str], None] | None = field(default=None, compare=False, repr=False)

    path = "/chat/completions"

    def fingerprint_inputs(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [dict(message) for message in self.messages],
            "sampling": dict(self.sampling),
            "schema": self.schema,
            "sample": self.sample,
        }

    def body(self) -> dict[str, Any]:
        """Return the JSON body. Where a seed is set, each sample has its own; else all would be the same."""
        body: dict[str, Any] = {"model": self.model, "messages": list(self.messages), **self.sampling}
        if self.sample and isinstance(seed := body.get("seed"), int):
            body["seed"] = seed + self.sample
        if self.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": self.role, "schema": self.schema, "strict": True},
            }
        return body

    def parse(self, answer: Mapping[str, Any], prompt_tokens: int, completion_tokens: int) -> LLMResponse:
        try:
            choice = answer["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            text = message.get("content")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise RequestFailedError(FailureReason.BROKEN, "its answer holds no message") from error
        if not isinstance(text, str | None):
            raise RequestFailedError(FailureReason.BROKEN, "its message is no text")
        text = None if text is None else remove_surrogates(text)
        if finish == "error" or choice.get("error"):  # of a provider behind a gateway
            raise RequestFailedError(FailureReason.BROKEN, remove_surrogates(str(choice.get("error"))[:200]), text)
        if refusal := message.get("refusal"):
            raise RequestFailedError(FailureReason.REFUSED, remove_surrogates(str(refusal)[:200]), text)
        if finish == "content_filter":
            raise RequestFailedError(FailureReason.FILTERED, "", text)
        if finish == "length":
            raise RequestFailedError(FailureReason.TRUNCATED, f"after {completion_tokens} tokens", text)
        if self.on_chunk is not None and finish is None:
            raise RequestFailedError(FailureReason.BROKEN, "its answer ends in the middle", text)
        if text is None or not text.strip():
            raise RequestFailedError(FailureReason.EMPTY, "", text)
        return LLMResponse(text, prompt_tokens, completion_tokens, seconds_of(answer))

    @property
    def add_chunk(self) -> AddChunk | None:
        return None if self.on_chunk is None else self._add

    def _add(self, answer: dict[str, Any], chunk: Mapping[str, Any]) -> None:
        answer.update({name: value for name, value in chunk.items() if name != "choices" and value is not None})
        for part in chunk.get("choices") or []:
            (choice,) = answer.setdefault("choices", [{"message": {}}])
            choice.update({name: value for name, value in part.items() if name != "delta" and value is not None})
            message, delta = choice["message"], part.get("delta") or {}
            for name in ("content", "refusal"):
                if isinstance(value := delta.get(name), str):
                    message[name] = message.get(name, "") + value
            if self.on_chunk is not None:
                self.on_chunk(message.get("content", ""))

    @cached_property
    def max_prompt_tokens(self) -> int:
        """Upper bound: a token is at least a byte, and chat templates add a few tokens to each message."""
        schema = json.dumps(self.schema) if self.schema is not None else ""  # servers put it before the messages
        return sum(len(message["content"].encode()) + 16 for message in self.messages) + len(schema) + 16

    @property
    def max_completion_tokens(self) -> int | None:
        return completion_limit(self.sampling)


@dataclass(frozen=True)
class LLMResponse:
    """A complete response, its tokens, and the seconds that the server took."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float = 0.0


class FailureReason(StrEnum):
    """Why a request failed."""

    TRUNCATED = "truncated"  # the limit on tokens was reached
    EMPTY = "empty"
    FILTERED = "filtered"  # the response, by the server's content filter
    PROMPT_FILTERED = "the prompt was filtered"
    REFUSED = "refused"  # by the model, in the API's field for refusals
    REJECTED = "the server refuses this request"  # and takes others
    UNSUPPORTED = "the server does not support a field"  # which is left out from then on
    TOO_LONG = "too long for the model's context"
    UNREACHABLE = "the server could not be reached"
    TIMED_OUT = "the server did not answer in time"
    BUSY = "the server turned the request away"  # 429, 503
    BROKEN = "the server failed"  # 5xx, or a malformed answer
    EXPIRED = "expired in a batch"


RETRYABLE = (FailureReason.UNREACHABLE, FailureReason.TIMED_OUT, FailureReason.BUSY, FailureReason.BROKEN)
"""Failures of the server that may not happen the next time."""

OVERLOADED = (FailureReason.UNREACHABLE, FailureReason.TIMED_OUT, FailureReason.BUSY)
"""Failures that lower the limit on concurrent calls."""

UNUSABLE_RESPONSES = (
    FailureReason.TRUNCATED,
    FailureReason.EMPTY,
    FailureReason.FILTERED,
    FailureReason.REFUSED,
)
"""Billed but unusable responses."""

NO_ANSWER = (*UNUSABLE_RESPONSES, FailureReason.PROMPT_FILTERED, FailureReason.TOO_LONG, FailureReason.REJECTED)
"""Failures of one request. All other reasons are failures of the server."""


class RequestFailedError(Exception):
    """A request without a usable response.

    Attributes:
        reason: why it failed.
        detail: what the server reported.
        response_text: text of an unusable response.
        wait_s: wait before the next request that the server requests, in seconds.
    """

    def __init__(
        self,
        reason: FailureReason,
        detail: str = "",
        response_text: str | None = None,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
        self.response_text = response_text
        self.wait_s = wait_s


class StopRunError(Exception):
    """The run cannot continue. All responses so far are in the response cache."""


class RequestRejectedError(StopRunError):
    """The server permanently rejects requests of this kind: wrong key, model or field.

    Attributes:
        status: the HTTP status; None if the server accepted the request and ignored a part of it.
        detail: what the server reported.
    """

    def __init__(self, message: str, status: int | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class ServerUnreachableError(StopRunError):
    """No server of an endpoint has ever answered."""


class TooManyFailuresError(StopRunError):
    """More rows failed than `llm.max_failed_share` allows."""


def completion_limit(sampling: Mapping[str, Any]) -> int | None:
    """Return the limit on tokens of a chat response; None if `sampling` sets none."""
    return sampling.get("max_completion_tokens", sampling.get("max_tokens"))


def remove_surrogates(text: str) -> str:
    """Return the text without lone surrogates: JSON may hold them; requests, files and tables cannot."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def seconds_of(answer: Mapping[str, Any]) -> float:
    """Return how long the server took, in seconds."""
    return round(float(answer.get("seconds", 0.0)), 3)
