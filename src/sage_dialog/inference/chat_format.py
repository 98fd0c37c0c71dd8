"""Rendering of conversations by a base model's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]

TEMPLATE_ARGUMENTS: Mapping[str, Any] = {"date_string": "26 Jul 2024", "enable_thinking": False}
"""Arguments of every chat template. The fixed date (Llama 3.1's default) keeps prompts the same on any day; Llama 3.2
would write today's. Qwen 3's thoughts stay empty: a policy of this project reasons in its blocks."""


class ChatFormat:
    """Renders conversations for a base model, the same way for training, self-play, evaluation and chat.

    Some templates refuse a system message (the first of Mixtral-8x7B-Instruct), move it behind all but the last turns
    (Mistral-7B-Instruct v0.3), or refuse it where the assistant opens, as a simulated user does. For these the system
    prompt is prepended to the user's first message, or becomes that message where the assistant opens.

    Args:
        template: replaces the tokenizer's own template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template

    def text(self, messages: Messages, reply_follows: bool = False) -> str:
        """Return a conversation as the text that the base reads.

        Args:
            messages: a system message only in the first place.
            reply_follows: end where the assistant's next message begins.

        Raises:
            jinja2.TemplateError: if the template refuses the messages.
        """
        return self._render(self.place_system_prompt(messages), reply_follows)

    def tokens(self, messages: Messages, reply_follows: bool = False) -> list[int]:
        """Return the token ids of `text`."""
        return list(self._tokenizer(self.text(messages, reply_follows), add_special_tokens=False)["input_ids"])

    def tokens_with_mask(self, messages: Messages) -> tuple[list[int], list[int]]:
        """Return token ids and, for each, 1 where the template marks it as the assistant's, else 0."""
        encoded = self._tokenizer.apply_chat_template(
            self.place_system_prompt(messages),
            chat_template=self._template,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **TEMPLATE_ARGUMENTS,
        )
        return list(encoded["input_ids"]), list(encoded["assistant_masks"])

    @cached_property
    def supports_system(self) -> bool:
        """Whether the template always writes a system message at the start of the conversation."""
        system, user, assistant = (
            _message("system", "INSTRUCTIONS"),
            _message("user", "ASKED"),
            _message("assistant", "SAID"),
        )
        for turns in ([user, assistant, user, assistant], [assistant, user, assistant, user]):
            shorter, longer = (self._text_or_empty([system, *turns[:number]]) for number in (2, 4))
            before, found, _ = shorter.partition(turns[0]["content"])
            if system["content"] not in before or not found or not longer.startswith(before + found):
                return False
        return True

    @cached_property
    def prefix_preserving(self) -> bool:
        """Whether the prompt of each reply is a prefix of the whole conversation.

        Not so for Qwen 3, which removes the (empty) thoughts from all replies but the last.
        """
        turns = [_message("user", "ASKED"), _message("assistant", "SAID")] * 2
        prompts = (self._text_or_empty(turns[:place], reply_follows=True) for place in (1, 3))
        return all(prompt and self._text_or_empty(turns).startswith(prompt) for prompt in prompts)

    def place_system_prompt(self, messages: Messages) -> list[Mapping[str, str]]:
        """Return the messages with the system prompt in the place that the template supports."""
        if not messages or messages[0]["role"] != "system" or self.supports_system:
            return list(messages)
        system, *turns = messages
        if turns and turns[0]["role"] == "user":
            return [_message("user", f"{system['content']}\n\n{turns[0]['content']}"), *turns[1:]]
        return [_message("user", system["content"]), *turns]

    def _text_or_empty(self, messages: Messages, reply_follows: bool = False) -> str:
        try:
            return self._render(messages, reply_follows)
        except TemplateError:
            return ""

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
