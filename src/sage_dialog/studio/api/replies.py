"""Replies of the API: the message of a reply, complete or in pieces, and its response."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sage_dialog.inference.candidates import utterance_start
from sage_dialog.inference.engine import FinishReason
from sage_dialog.sac import Chain, parse


class MessageStream:
    """Turns the pieces of a reply's text into changes of its message: the blocks first, then the content.

    Text whose blocks do not parse is content as a whole. Content ends before the first of the stop texts.

    Args:
        blocks: whether the policy writes state and action blocks.
        stops: texts that end the content.
    """

    def __init__(self, blocks: bool, stops: tuple[str, ...]) -> None:
        self._blocks, self._stops = blocks, stops
        self._text = ""
        self._sent = 0
        self._blocks_sent = False
        self.stopped = False

    def add(self, piece: str) -> dict[str, Any]:
        """Return the change by a piece of text; what may become part of the blocks or of a stop text is held back."""
        self._text += piece
        start = utterance_start(self._text, self._blocks)
        if start == len(self._text) or self.stopped:
            return {}
        content = self._text[start:]
        found = [place for stop in self._stops if (place := content.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._change(content[: min(found)])
        held = max((_overlap(content, stop) for stop in self._stops), default=0)
        return self._change(content[: len(content) - held])

    def end(self) -> dict[str, Any]:
        """Return the change at the end of the text."""
        if self.stopped:
            return {}
        parsed = not self._blocks or isinstance(parse(self._text), Chain)
        start = utterance_start(self._text, self._blocks)
        return self._change(self._text[start:] if parsed or start < len(self._text) else self._text)

    def _change(self, content: str) -> dict[str, Any]:
        change: dict[str, Any] = {}
        if self._blocks and not self._blocks_sent:
            chain = parse(self._text)
            intents = (chain.state, chain.action) if isinstance(chain, Chain) else (None, None)
            state, action = (None if intent is None else asdict(intent) for intent in intents)
            change = {"state": state, "action": action}
            self._blocks_sent = True
        if new := content[self._sent :]:
            change["content"] = new
            self._sent = len(content)
        return change


def _overlap(content: str, stop: str) -> int:
    """Return the length of the longest beginning of `stop` that the content ends with."""
    lengths = range(min(len(stop) - 1, len(content)), 0, -1)
    return next((length for length in lengths if content.endswith(stop[:length])), 0)


def message(text: str, blocks: bool, stops: tuple[str, ...]) -> tuple[dict[str, Any], bool]:
    """Return the message of a complete text, and whether a stop text ended it."""
    stream = MessageStream(blocks, stops)
    content, fields = "", dict[str, Any]()
    for change in (stream.add(text), stream.end()):
        content += change.pop("content", "")
        fields |= change
    return {"role": "assistant", "content": content, "refusal": None, **fields}, stream.stopped


def finish_reason(finish: FinishReason, stopped: bool) -> str:
    """Return why a reply ended, in OpenAI's words."""
    return "length" if finish is FinishReason.LENGTH and not stopped else "stop"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the number of tokens."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}
