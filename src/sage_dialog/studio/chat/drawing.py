"""Replies that are being drawn in the engine's thread, for pages that come and go meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sage_dialog.config import Steering
from sage_dialog.inference.engine import PolicyEngine
from sage_dialog.llm.requests import RequestFailedError, StopRunError
from sage_dialog.sac import strip_blocks
from sage_dialog.studio.chat.conversation import ChatTurn, Conversation, Settings, StopReplyError, written_reply
from sage_dialog.studio.chat.policies import TalkPolicies, TalkPolicy
from sage_dialog.studio.engine_thread import EngineThread, Job

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """The turns that were drawn, none where a reply was stopped before it began.

    Attributes:
        context_left: as in `Conversation`.
    """

    turns: tuple[ChatTurn, ...]
    context_left: int | None


@dataclass
class Drawing:
    """A reply that is being drawn.

    Attributes:
        user: the message that it answers.
        parent: the number of the turn before it.
        candidates: how many are drawn for a reply that exists; 0 for a reply.
        text: of the reply so far.
        begun: whether the engine has begun with it.
        error: why it failed.
        changed: set, and replaced by another, with each change.
    """

    user: str
    blocks: bool
    parent: int | None = None
    candidates: int = 0
    text: str = ""
    begun: bool = False
    finished: bool = False
    error: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    job: Job | None = None

    def stop(self) -> None:
        """Stop the reply; what it says behind its blocks is kept."""
        if self.job is not None:
            self.job.cancelled.set()

    def notify(self) -> None:
        """Wake up all that wait for a change."""
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(frozen=True)
class _Begun:
    pass


@dataclass(frozen=True)
class _Failed:
    reason: str


class Drawer:
    """Draws the replies of policies in the engine's thread, by the conversation of the chat."""

    def __init__(self, thread: EngineThread, policies: TalkPolicies) -> None:
        self._thread, self._policies = thread, policies

    def reply(
        self,
        policy: TalkPolicy,
        settings: Settings,
        before: Sequence[ChatTurn],
        parent: int | None,
        user: str,
        draws: int,
        on_end: Callable[[Drawn], None],
    ) -> Drawing:
        """Start a reply to `user` after the turns before it; `on_end` is called with its turn, and then pages see it.

        Args:
            parent: the number of the turn before it in a tree of turns.
            draws: how often replies to this message were drawn here before.

        Raises:
            BusyError: if too many replies wait.
        """

        def draw(talk: Conversation, on_text: Callable[[str], None]) -> tuple[ChatTurn, ...]:
            with contextlib.suppress(StopReplyError):  # what it said is its turn
                talk.say(user, on_text, draws)
            return talk.turns[len(before) :]

        return self._start(Drawing(user, policy.blocks, parent), policy, settings, before, draw, on_end)

    def candidates(
        self,
        policy: TalkPolicy,
        settings: Settings,
        turns: Sequence[ChatTurn],
        number: int,
        on_end: Callable[[Drawn], None],
    ) -> Drawing:
        """Start to draw candidates for the last reply; `on_end` is called with their turns. Raises as `reply`."""

        def draw(talk: Conversation, on_text: Callable[[str], None]) -> tuple[ChatTurn, ...]:
            with contextlib.suppress(StopReplyError):
                talk.draw_candidates(number, on_text)
            return talk.candidates

        drawing = Drawing(turns[-1].user, policy.blocks, candidates=number)
        return self._start(drawing, policy, settings, turns, draw, on_end)

    def _start(
        self,
        drawing: Drawing,
        policy: TalkPolicy,
        settings: Settings,
        before: Sequence[ChatTurn],
        draw: Callable[[Conversation, Callable[[str], None]], tuple[ChatTurn, ...]],
        on_end: Callable[[Drawn], None],
    ) -> Drawing:
        def work(job: Job) -> None:
            def on_text(piece: str) -> None:
                if job.cancelled.is_set():
                    raise StopReplyError
                job.put(piece)

            try:
                if job.cancelled.is_set():
                    job.put(Drawn((), None))
                    return
                talk = _conversation(self._policies.open(policy), policy, settings, before)
                job.put(_Begun())
                drawn = draw(talk, on_text)
                job.put(Drawn(drawn, talk.context_left if policy.counts_tokens else None))
            except (ValueError, OSError, RequestFailedError, StopRunError) as error:
                job.put(_Failed(str(error)))
            except Exception as error:
                logger.exception("a reply failed")
                job.put(_Failed(f"The reply failed: {error}"))

        def on_event(event: object) -> None:
            match event:
                case str():
                    drawing.text += event
                case _Begun():
                    drawing.begun = True
                case Drawn() | _Failed():
                    try:
                        if isinstance(event, Drawn):
                            on_end(event)
                        else:
                            drawing.error = event.reason
                    except ValueError as error:  # the disk is full
                        drawing.error = str(error)
                    drawing.finished = True
            drawing.notify()

        drawing.job = self._thread.start(work, on_event)
        return drawing


def _conversation(
    engine: PolicyEngine, policy: TalkPolicy, settings: Settings, before: Sequence[ChatTurn]
) -> Conversation:
    if not policy.blocks:
        settings = settings.model_copy(update={"steering": Steering()})
    turns = tuple(_seen(turn, policy.blocks) for turn in before)
    return Conversation(engine, policy.name, policy.blocks, settings, turns)


def _seen(turn: ChatTurn, blocks: bool) -> ChatTurn:
    """Return a turn as a policy sees it: one without blocks sees none of another policy."""
    text = turn.reply.text if blocks else strip_blocks(turn.reply.text)
    return turn if text == turn.reply.text else replace(turn, reply=written_reply(text, blocks))
