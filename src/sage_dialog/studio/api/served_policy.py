"""A policy that replies to requests of the API, one after the other."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sage_dialog.core.hashing import fingerprint
from sage_dialog.inference.engine import FinishReason, PolicyEngine, Sample
from sage_dialog.llm.requests import RequestFailedError, StopRunError
from sage_dialog.studio.api.replies import MessageStream, finish_reason, message
from sage_dialog.studio.api.requests import ApiError, ChatRequest
from sage_dialog.studio.chat.conversation import Conversation, Settings, StopReplyError
from sage_dialog.studio.engine_thread import BusyError, EngineThread, Job

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """The reply is being drawn."""


@dataclass(frozen=True)
class Change:
    """A change of the message of the first reply."""

    delta: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """All replies.

    Attributes:
        messages: each with why it ended.
    """

    messages: list[tuple[dict[str, Any], str]]
    prompt_tokens: int
    completion_tokens: int


Event = Begun | Change | Done | ApiError


@dataclass(eq=False)
class Reply:
    """A request and its events, which end with `Done` or an error."""

    request: ChatRequest
    job: Job
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)


class ServedPolicy:
    """Draws the replies of a policy.

    Replies are drawn one at a time, by the same conversation as in the chat, so that a reply is a function of the
    engine's seed and the request.

    Args:
        open_engine: called in the thread of the engine.
        settings: of requests that name none.
    """

    def __init__(
        self, open_engine: Callable[[], PolicyEngine], policy: str, blocks: bool, settings: Settings, seed: int
    ) -> None:
        self.policy, self.blocks = policy, blocks
        self._settings = settings
        self._thread = EngineThread()
        try:
            self._engine = self._thread.call(open_engine)
            self._thread.call(self._conversation(settings, ()).steer, settings.steering)
        except BaseException:
            self._thread.close()
            raise
        self.fingerprint = f"fp_{fingerprint({'seed': seed, **self._engine.fingerprint_inputs})[:12]}"

    def start(self, request: ChatRequest) -> Reply:
        """Return the reply to a request. Raises ApiError if too many wait."""
        events: asyncio.Queue[Event] = asyncio.Queue()
        try:
            job = self._thread.start(lambda job: self._run(job, request), events.put_nowait)
        except BusyError as error:
            raise ApiError(503, str(error), code="server_busy") from None
        return Reply(request, job, events)

    def stop(self) -> None:
        """Stop all replies."""
        self._thread.stop()

    def close(self) -> None:
        """Stop all replies, and wait for the thread."""
        self._thread.close()

    def _run(self, job: Job, request: ChatRequest) -> None:
        try:
            if job.cancelled.is_set():
                raise StopReplyError
            job.put(self._draw(job, request))
        except ApiError as error:
            job.put(error)
        except StopReplyError:
            job.put(ApiError(503, "The server was stopped.", code="server_stopped"))
        except (RequestFailedError, StopRunError) as error:  # of an engine over servers
            job.put(ApiError(502, str(error), code="engine_failed"))
        except Exception as error:
            logger.exception("a reply failed")
            job.put(ApiError(500, f"The reply failed: {error}", code="engine_failed"))

    def _draw(self, job: Job, request: ChatRequest) -> Done:
        talk, prompt_tokens = self._prepare(request)
        job.put(Begun())
        stream = MessageStream(self.blocks, request.stops)
        pieces: list[str] = []

        def on_text(piece: str) -> None:
            if job.cancelled.is_set():
                raise StopReplyError
            pieces.append(piece)
            if (delta := stream.add(piece)) and request.stream:
                job.put(Change(delta))
            if stream.stopped and number == 1:
                raise StopReplyError

        number = request.n or 1
        try:
            samples = talk.sample(request.last_text, number, on_text)
        except StopReplyError:
            if job.cancelled.is_set():
                raise
            # A piece is a token, or several that are one letter.
            samples = [Sample("".join(pieces), len(pieces), FinishReason.STOP)]
        if (delta := stream.end()) and request.stream:
            job.put(Change(delta))
        messages = []
        for sample in samples:
            written, stopped = message(sample.text, self.blocks, request.stops)
            messages.append((written, finish_reason(sample.finish_reason, stopped)))
        return Done(messages, prompt_tokens, sum(sample.tokens for sample in samples))

    def _prepare(self, request: ChatRequest) -> tuple[Conversation, int]:
        """Return the conversation of a request, and the number of tokens of its prompt."""
        settings = request.settings(self._settings)
        key = ("seed", request.seed) if request.seed is not None else ("unseeded", secrets.token_hex(8))
        talk = self._conversation(settings, key)
        try:
            talk.steer(settings.steering)
        except ValueError as error:
            raise ApiError(400, f"steering: {error}", "steering", "invalid_value") from error
        talk.turns = request.turns(settings, self.blocks)
        try:
            prompt_tokens = self._engine.prompt_tokens(talk.prompt(request.last_text))
        except Exception as error:  # of the chat template
            raise ApiError(400, f"messages: the model's chat template refuses them: {error}", "messages") from error
        window, limit = self._engine.window, settings.sampling.max_new_tokens
        if request.limit is None:
            limit = max(min(limit, window - prompt_tokens), 1)
            talk.settings = settings.model_copy(
                update={"sampling": settings.sampling.model_copy(update={"max_new_tokens": limit})}
            )
        if prompt_tokens + limit > window:
            raise ApiError(
                400,
                f"This model's maximum context length is {window} tokens. The messages have {prompt_tokens} tokens, "
                f"and the reply has up to {limit}.",
                "messages",
                "context_length_exceeded",
            )
        return talk, prompt_tokens

    def _conversation(self, settings: Settings, key: tuple[object, ...]) -> Conversation:
        return Conversation(self._engine, self.policy, self.blocks, settings, key=key)
