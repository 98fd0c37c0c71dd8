"""Requests of the API: their fields, and the errors of OpenAI's form."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.candidates import Candidate
from sage_dialog.sac import Chain, Intent, render, strip_blocks
from sage_dialog.studio.chat.conversation import ChatTurn, Settings, changed_sampling, written_reply

MAX_N = 16
"""Replies to one request."""

_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "store": (False,),
}
"""Fields of OpenAI's API that have no meaning here, with the values that ask for nothing."""

_TYPE = re.compile(r"\[|^(constrained-)?str$")
"""Parts of the place of a fault that pydantic adds for types."""


class ApiError(Exception):
    """An error that the client gets as OpenAI's clients expect it.

    Attributes:
        param: the field at fault.
        code: a name that programs can compare.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """Return the response's JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _Intent(BaseModel, extra="forbid"):
    motivation: str | None = None
    emotion: str | None = None
    topics: tuple[str, ...] = ()

    def intent(self) -> Intent:
        return Intent(self.motivation, self.emotion, self.topics)


class _Message(BaseModel):
    """A message; an assistant's may have the blocks that this API returned with it. Other fields are ignored."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_TextPart] | None = None
    state: _Intent | None = None
    action: _Intent | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class _StreamOptions(BaseModel, extra="forbid"):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(BaseModel, extra="forbid"):
    """The body of a request for a reply."""

    model: str
    messages: Annotated[list[_Message], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    steering: Steering | None = None
    # No reply depends on them.
    user: str | None = None
    metadata: Any = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None
    # `_WITHOUT_EFFECT`
    top_p: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    response_format: Any = None
    modalities: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    store: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a reply."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def limit(self) -> int | None:
        """The token limit of a reply; None leaves it to the server."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def settings(self, default: Settings) -> Settings:
        """Return the settings of the reply, except the token limit where none is named.

        Temperature 0 takes the most probable token. A system message replaces the server's system prompt, and steering
        the server's.
        """
        values: dict[str, float] = {}
        if self.temperature is not None:
            values |= {"temperature": self.temperature} if self.temperature else {"temperature": 1, "top_k": 1}
        if self.top_k is not None and self.temperature != 0:
            values["top_k"] = self.top_k
        if self.repetition_penalty is not None:
            values["repetition_penalty"] = self.repetition_penalty
        if self.limit is not None:
            values["max_new_tokens"] = self.limit
        sampling: SamplingConfig = changed_sampling(default.sampling, values)
        first = self.messages[0]
        system_prompt = default.system_prompt if first.role in ("user", "assistant") else first.text or None
        steering = default.steering if self.steering is None else self.steering
        return Settings(sampling=sampling, system_prompt=system_prompt, steering=steering)

    def turns(self, settings: Settings, blocks: bool) -> tuple[ChatTurn, ...]:
        """Return the turns before the last message."""
        spoken = self._spoken[:-1]
        pairs = zip(spoken[::2], spoken[1::2], strict=True)
        return tuple(ChatTurn(user.text, _reply(reply, blocks), settings) for user, reply in pairs)

    @property
    def last_text(self) -> str:
        """The user's message to reply to."""
        return self.messages[-1].text

    @property
    def _spoken(self) -> list[_Message]:
        return self.messages[self.messages[0].role in ("system", "developer") :]

    def check(self) -> None:
        """Raise ApiError where the fields do not belong together, or ask for what does not exist here."""
        for name, values in _WITHOUT_EFFECT.items():
            value = getattr(self, name)
            if value is not None and value not in values:
                raise ApiError(400, f"{name} is not supported; leave it out.", name, "unsupported_parameter")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ApiError(400, "max_tokens and max_completion_tokens exclude each other.", "max_tokens")
        if len(self.stops) > 4:
            raise ApiError(400, f"stop: at most 4 texts, not {len(self.stops)}.", "stop")
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options go with stream: true.", "stream_options")
        roles = [message.role for message in self._spoken]
        if "system" in roles or "developer" in roles:
            raise ApiError(400, "messages: a system message stands first, and there is one at most.", "messages")
        if not roles or roles[0] != "user" or roles[-1] != "user" or any(a == b for a, b in pairwise(roles)):
            raise ApiError(
                400,
                f"messages: user and assistant take turns, and the user begins and ends; found {', '.join(roles)}.",
                "messages",
            )
        if not self.last_text.strip():
            raise ApiError(400, "messages: the last message is empty.", "messages")


def parse_request(body: bytes) -> ChatRequest:
    """Return the request in a body. Raises ApiError if it is invalid."""
    try:
        request = ChatRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        # The deepest fault is that of the alternative which was meant.
        fault = max(error.errors(include_input=False, include_url=False), key=lambda each: len(each["loc"]))
        place = [str(part) for part in fault["loc"] if not (isinstance(part, str) and _TYPE.search(part))]
        if fault["type"] == "json_invalid":
            raise ApiError(400, f"The body is not valid JSON: {fault['msg']}.", code="invalid_json") from None
        if fault["type"] == "extra_forbidden":
            raise ApiError(400, f"There is no field {place[-1]!r}.", ".".join(place), "unknown_parameter") from None
        param = place[0] if place else None
        raise ApiError(400, f"{'.'.join(place) or 'The body'}: {fault['msg']}.", param, "invalid_value") from None
    request.check()
    return request


def _reply(message: _Message, blocks: bool) -> Candidate:
    """Return an earlier reply, with its blocks where the policy writes some."""
    if not blocks:
        return written_reply(strip_blocks(message.text), blocks)
    if message.state is None and message.action is None:
        return written_reply(message.text, blocks)
    state, action = message.state or _Intent(), message.action or _Intent()
    try:
        return written_reply(render(Chain(state.intent(), action.intent(), message.text)), blocks)
    except ValueError as error:
        raise ApiError(400, f"messages: {error}.", "messages", "invalid_value") from None
