"""A conversation with a policy: its turns, settings, retries and undo. Independent of the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError
from pydantic import BaseModel, ValidationError

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.inference.candidates import Candidate, parse_candidate, utterance_start
from sage_dialog.inference.engine import FinishReason, OnText, PolicyEngine, Prompt, Sample


class StopReplyError(Exception):
    """Raised by an `on_text` to stop the reply."""


class ContextFullError(ValueError):
    """A conversation that leaves no room for a reply in the model's context.

    Attributes:
        message_alone: whether the last message does not fit even without the turns before it.
    """

    def __init__(self, message: str, message_alone: bool) -> None:
        super().__init__(message)
        self.message_alone = message_alone


class Settings(BaseModel, frozen=True, extra="forbid"):
    """What decides a reply beside the policy, the messages and the seed."""

    sampling: SamplingConfig
    system_prompt: str | None
    steering: Steering = Steering()


@dataclass(frozen=True)
class ChatTurn:
    """The person's text and the policy's reply.

    Attributes:
        settings: of the reply.
        draws: how often replies were drawn for this turn.
    """

    user: str
    reply: Candidate
    settings: Settings
    draws: int = 1


@dataclass
class Conversation:
    """A conversation in which the policy sees what the agent sees in self-play.

    A reply is a function of the engine's seed, `key`, the messages before it, the settings, and the number of draws for
    this turn. KeyboardInterrupt, and `StopReplyError` raised by an `on_text`, stop a reply: its text so far becomes the
    reply if it has begun behind the blocks, and the exception is raised. Any other exception while a reply is drawn
    leaves the conversation unchanged.
    """

    engine: PolicyEngine
    policy: str
    blocks: bool
    settings: Settings
    turns: tuple[ChatTurn, ...] = ()
    candidates: tuple[ChatTurn, ...] = ()
    """Candidates for the last turn."""
    key: tuple[object, ...] = ()

    def say(self, text: str, on_text: OnText | None = None, draws: int = 0) -> Candidate:
        """Return the reply to `text`; `on_text` is called with its pieces as they are generated.

        Args:
            draws: how often replies to this text were drawn here before.

        Raises:
            ContextFullError: if the model's context is full.
            ValueError: if the chat template refuses the conversation, or the policy cannot follow the steering.
        """
        return self._reply(self.turns, text, draws, on_text)

    def retry(self, on_text: OnText | None = None) -> Candidate:
        """Replace the last reply by another, with the current settings. Raises ValueError as `say` does."""
        last = self.last
        return self._reply(self.turns[:-1], last.user, last.draws, on_text)

    def edit(self, text: str, on_text: OnText | None = None) -> Candidate:
        """Replace the last turn by `text` and a reply to it. Raises ValueError as `say` does."""
        _ = self.last
        return self._reply(self.turns[:-1], text, 0, on_text)

    def draw_candidates(self, number: int, on_text: OnText | None = None) -> tuple[Candidate, ...]:
        """Return candidates for the last reply, which remains until one is picked.

        `on_text` is called with the pieces of the first. Raises ValueError as `say` does.
        """
        last = self.last
        samples = self._sample(self.turns[:-1], last.user, last.draws, number, on_text)
        replies = tuple(parse_candidate(sample, self.blocks) for sample in samples)
        self._replace_last(replace(last, draws=last.draws + 1))
        self.candidates = tuple(ChatTurn(last.user, reply, self.settings, last.draws + 1) for reply in replies)
        return replies

    def pick(self, number: int) -> Candidate:
        """Replace the last reply by a candidate, counted from 1. Raises ValueError if there is none of that number."""
        if not self.candidates:
            raise ValueError("There are no candidates to pick from; /candidates draws some.")
        if not 1 <= number <= len(self.candidates):
            raise ValueError(f"There is no candidate {number}; candidates are 1 to {len(self.candidates)}.")
        self._replace_last(self.candidates[number - 1])
        return self.last.reply

    def undo(self) -> ChatTurn:
        """Remove and return the last turn. Raises ValueError if there is none."""
        last = self.last
        self.turns, self.candidates = self.turns[:-1], ()
        return last

    def clear(self) -> None:
        """Remove all turns; the settings remain."""
        self.turns, self.candidates = (), ()

    def steer(self, steering: Steering) -> None:
        """Set the steering of the next replies.

        Raises:
            ValueError: if the policy cannot follow it; the steering remains as it was.
        """
        self.engine.sample(self.policy, [], self.settings.sampling, steering=steering)  # no prompt: only a check
        self.settings = self.settings.model_copy(update={"steering": steering})

    def set_sampling(self, **values: float) -> None:
        """Change fields of the sampling of the next replies. Raises ValueError if a value is out of its range."""
        sampling = changed_sampling(self.settings.sampling, values)
        if sampling.max_new_tokens >= self.engine.window:
            raise ValueError(
                f"The model's context holds {self.engine.window:,} tokens, so a reply cannot have "
                f"{sampling.max_new_tokens:,}."
            )
        self.settings = self.settings.model_copy(update={"sampling": sampling})

    def set_system_prompt(self, system_prompt: str | None) -> None:
        """Set the system prompt that the policy sees from the next reply on."""
        self.settings = self.settings.model_copy(update={"system_prompt": system_prompt})

    @property
    def last(self) -> ChatTurn:
        """The last turn. Raises ValueError if there is none."""
        if not self.turns:
            raise ValueError("The conversation is empty.")
        return self.turns[-1]

    @property
    def context_left(self) -> int | None:
        """Number of tokens left for the next message and its reply; None if the chat template refuses the turns."""
        try:
            return max(self.engine.window - self.engine.prompt_tokens(self._prompt(self.turns, "")), 0)
        except TemplateError:
            return None

    def messages(self) -> tuple[dict[str, str], ...]:
        """Return the chat messages that the policy sees."""
        return agent_view(chat_messages(self.turns), self.settings.system_prompt)

    def prompt(self, text: str) -> Prompt:
        """Return the prompt of a reply to `text`."""
        return self._prompt(self.turns, text)

    def sample(self, text: str, number: int, on_text: OnText | None = None) -> list[Sample]:
        """Return samples of the reply to `text`, and leave the conversation unchanged. Raises ValueError as `say`."""
        return self._sample(self.turns, text, 0, number, on_text)

    def _reply(self, before: Sequence[ChatTurn], text: str, draws: int, on_text: OnText | None) -> Candidate:
        pieces: list[str] = []

        def record(piece: str) -> None:
            pieces.append(piece)
            if on_text is not None:
                on_text(piece)

        try:
            (sample,) = self._sample(before, text, draws, 1, None if on_text is None else record)
            reply = parse_candidate(sample, self.blocks)
        except (KeyboardInterrupt, StopReplyError):
            written = "".join(pieces)
            if written[utterance_start(written, self.blocks) :].strip():
                self._end_turn(before, text, written_reply(written, self.blocks, "stopped"), draws)
            raise
        self._end_turn(before, text, reply, draws)
        return reply

    def _end_turn(self, before: Sequence[ChatTurn], text: str, reply: Candidate, draws: int) -> None:
        self.turns = (*before, ChatTurn(text, reply, self.settings, draws + 1))
        self.candidates = ()

    def _sample(
        self, before: Sequence[ChatTurn], text: str, draw: int, number: int, on_text: OnText | None = None
    ) -> list[Sample]:
        prompt, settings = self._prompt(before, text, draw), self.settings
        try:
            (samples,) = self.engine.sample(
                self.policy, [prompt], settings.sampling, number, settings.steering, on_text
            )
            if not samples:
                raise self._context_error(before, text)
        except TemplateError as error:  # such as of a template without system messages
            raise ValueError(f"The model's chat template does not accept this conversation: {error}") from error
        return samples

    def _prompt(self, before: Sequence[ChatTurn], text: str, draw: int = 0) -> Prompt:
        view = agent_view([*chat_messages(before), Message("user", text)], self.settings.system_prompt)
        return Prompt(view, ("chat", *self.key, len(before), draw))

    def _context_error(self, before: Sequence[ChatTurn], text: str) -> ContextFullError:
        def tokens(before: Sequence[ChatTurn], text: str) -> int:
            return self.engine.prompt_tokens(self._prompt(before, text))

        reply, window = self.settings.sampling.max_new_tokens, self.engine.window
        of_message = tokens((), text) - tokens((), "")
        if (left := window - reply - tokens((), "")) < of_message:
            letters = max(left, 0) * len(text) // max(of_message, 1)
            return ContextFullError(
                f"The message is too long: it has {len(text):,} characters ({of_message:,} tokens). The model's "
                f"context of {window:,} tokens, which also holds the system prompt and a reply of up to {reply:,} "
                f"tokens, has room for about {letters:,} characters.",
                message_alone=True,
            )
        return ContextFullError(
            f"The conversation with this message has {tokens(before, text):,} tokens. With a reply of up to {reply:,} "
            f"tokens it does not fit the model's context of {window:,} tokens.",
            message_alone=False,
        )

    def _replace_last(self, turn: ChatTurn) -> None:
        self.turns = (*self.turns[:-1], turn)


def changed_sampling(sampling: SamplingConfig, values: Mapping[str, float]) -> SamplingConfig:
    """Return the sampling with other values. Raises ValueError if one is out of its range."""
    try:
        return SamplingConfig.model_validate(sampling.model_dump() | dict(values))
    except ValidationError as error:
        raise ValueError("; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())) from error


def written_reply(
    text: str, blocks: bool, invalid_reason: str | None = None, log_probability: float | None = None
) -> Candidate:
    """Return the content of a message as a reply, invalid for a reason of its own or by its text."""
    reply = parse_candidate(Sample(text, 0, FinishReason.STOP, log_probability), blocks)
    return replace(reply, invalid_reason=invalid_reason or reply.invalid_reason)


def chat_messages(turns: Sequence[ChatTurn]) -> list[Message]:
    """Return the messages of both sides."""
    return [message for turn in turns for message in (Message("user", turn.user), turn.reply.message)]


def add_boost(steering: Steering, field: str, keyword: str, weight: float) -> Steering:
    """Return the steering with a boost of a keyword; it replaces a fixed value, and weight 0 removes the boost."""
    boosts: Mapping[Any, Mapping[str, float]] = steering.boosts
    weights = {**boosts.get(field, {}), keyword: weight}
    if weight == 0:
        del weights[keyword]
        return _steer_field(steering, field, weights, steering.fixed)
    return _steer_field(steering, field, weights, _without(steering.fixed, field))


def fix_value(steering: Steering, field: str, value: str | tuple[str, ...] | None) -> Steering:
    """Return the steering with a fixed value, which replaces boosts of the field."""
    return _steer_field(steering, field, {}, dict[Any, Any](steering.fixed) | {field: value})


def clear_field(steering: Steering, field: str | None) -> Steering:
    """Return the steering without this field, or an empty one for None."""
    unsteered = Steering(boost_scale=steering.boost_scale)
    return _steer_field(steering, field, {}, _without(steering.fixed, field)) if field else unsteered


def _without(values: Mapping[Any, Any], field: str) -> dict[Any, Any]:
    return {name: value for name, value in values.items() if name != field}


def _steer_field(steering: Steering, field: str, weights: Mapping[str, float], fixed: Mapping[Any, Any]) -> Steering:
    """Return the steering with these boosts of a field. Raises ValueError if a field cannot hold a value."""
    boosts: dict[Any, Any] = {**steering.boosts}
    boosts[field] = weights
    try:
        kept = {name: each for name, each in boosts.items() if each}
        return Steering(boosts=kept, boost_scale=steering.boost_scale, fixed=dict(fixed))
    except ValidationError as error:
        raise ValueError("; ".join(str(details["msg"]) for details in error.errors())) from error
