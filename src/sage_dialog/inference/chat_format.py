"""How a base reads a conversation: by its chat template, its system prompt where the template has a place for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]

TEMPLATE_ARGUMENTS: Mapping[str, Any] = {"date_string": "26 Jul 2024", "enable_thinking": False}
"""What every template is told. The date is the one that Llama 3.1 names itself: with today's, as Llama 3.2 writes where
it is not told, neither training nor sampling could be repeated tomorrow. Thoughts of Qwen 3 stay empty: what a policy
of this project thinks before it speaks stands in its blocks."""


class ChatFormat:
    """Renders conversations for a base, the same way for training, self-play, evaluation and chat.

    Some templates refuse a system message (the first of Mixtral-8x7B-Instruct), write it behind all but the last turns
    (Mistral-7B-Instruct v0.3), or refuse it where the assistant speaks first, as a simulated user does. For their bases
    the system prompt stands at the beginning of the user's first message, and is that message where the assistant opens.

    Args:
        template: in place of the tokenizer's own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template

    def text(self, messages: Messages, reply_follows: bool = False) -> str:
        """A conversation as the base reads it.

        Args:
            messages: with `role` and `content`; a system message only in the first place.
            reply_follows: whether it ends where the assistant's next message begins.

        Raises:
            jinja2.TemplateError: if the template refuses the messages.
        """
        return self._render(self.place_system_prompt(messages), reply_follows)

    def tokens(self, messages: Messages, reply_follows: bool = False) -> list[int]:
        """`text` as tokens."""
        return list(self._tokenizer(self.text(messages, reply_follows), add_special_tokens=False)["input_ids"])

    def tokens_with_mask(self, messages: Messages) -> tuple[list[int], list[int]]:
        """Tokens of a conversation, and of each a 1 where the template says that the assistant writes it, else 0."""
        marked = self._tokenizer.apply_chat_template(
            self.place_system_prompt(messages),
            chat_template=self._template,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **TEMPLATE_ARGUMENTS,
        )
        return list(marked["input_ids"]), list(marked["assistant_masks"])

    @cached_property
    def supports_system(self) -> bool:
        """Whether the template writes a system message where the conversation begins, and always there."""
        system_prompt, asked, said = (
            _message("system", "PREAMBLE"),
            _message("user", "ASKED"),
            _message("assistant", "SAID"),
        )
        for talk in ([system_prompt, asked, said, asked, said], [system_prompt, said, asked, said, asked]):
            shorter, whole = self._accepted(talk[:3]), self._accepted(talk)
            before, found, _ = shorter.partition(talk[1]["content"])
            if "PREAMBLE" not in before or not found or not whole.startswith(before + found):
                return False
        return True

    @cached_property
    def prefix_preserving(self) -> bool:
        """Whether a reply is read, later in a conversation, with the very text around it with which it was written.

        Not so by Qwen 3, which takes the (empty) thoughts out of all replies but the last.
        """
        talk = [_message("user", "ASKED"), _message("assistant", "SAID")] * 2
        prompts = (self._accepted(talk[:place], reply_follows=True) for place in (1, 3))
        return all(prompt and self._accepted(talk).startswith(prompt) for prompt in prompts)

    def _accepted(self, messages: Messages, reply_follows: bool = False) -> str:
        """The text; none where the template refuses the messages."""
        from jinja2 import TemplateError

        try:
            return self._render(messages, reply_follows)
        except TemplateError:
            return ""

    def place_system_prompt(self, messages: Messages) -> list[Mapping[str, str]]:
        """The messages as the template takes them, the system prompt where it has a place."""
        if not messages or messages[0]["role"] != "system" or self.supports_system:
            return list(messages)
        system_prompt, *spoken = messages
        if spoken and spoken[0]["role"] == "user":
            opening = _message("user", f"{system_prompt['content']}\n\n{spoken[0]['content']}")
            return [opening, *spoken[1:]]
        return [_message("user", system_prompt["content"]), *spoken]

    def _render(self, messages: Messages, reply_follows: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages),
            chat_template=self._template,
            add_generation_prompt=reply_follows,
            tokenize=False,
            **TEMPLATE_ARGUMENTS,
        )
        return text


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
