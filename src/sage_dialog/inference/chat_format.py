"""Rendering of conversations by a base model's chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]

TEMPLATE_ARGUMENTS: Mapping[str, Any] = {"date_string": "26 Jul 2024", "enable_thinking": False}
"""Arguments of every chat template. The fixed date (Llama 3.1's default) keeps prompts the same on any day; Llama 3.2
would write today's. Qwen 3's thoughts stay empty: a policy of this project reasons in its blocks."""

_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ '2024-07-26' if format == '%Y-%m-%d' else '26 Jul 2024' }}{%- endmacro -%}"
)
"""The same date for templates that take it from the clock, such as gpt-oss's."""

_QUESTION, _REPLY = {"role": "user", "content": "ASKED"}, {"role": "assistant", "content": "SAID"}


class ChatFormat:
    """Renders conversations for a base model, the same way for training, self-play, evaluation and chat.

    Some templates refuse a system message (the first of Mixtral-8x7B-Instruct), move it behind all but the last turns
    (Mistral-7B-Instruct v0.3), or refuse it where the assistant opens, as a simulated user does. For these the system
    prompt is prepended to the user's first message, or becomes that message where the assistant opens.

    Some templates prompt for more than a reply: for a thought (DeepSeek), or for the channel of the next message
    (gpt-oss). For these a prompt ends with what stands before a reply in a conversation.

    What messages say is text: a special token that stands in one, such as the `</s>` by which Reddit marks sarcasm, is
    written with a space in it (`< /s>`), so that nobody ends a turn or opens one by typing it.

    Args:
        tokenizer: from `load_tokenizer`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def text(self, messages: Messages, reply_follows: bool = False) -> str:
        """Return a conversation as the text that the base reads.

        Args:
            messages: a system message only in the first place.
            reply_follows: end where the assistant's next message begins.

        Raises:
            jinja2.TemplateError: if the template refuses the messages.
        """
        placed = self.place_system_prompt(messages)
        if not reply_follows:
            ends_with_reply = bool(placed) and placed[-1]["role"] == "assistant"
            return self._render(placed) + (self._missing_end if ends_with_reply else "")
        if self._prompts_for_reply:
            return self._render(placed, add_generation_prompt=True)
        return self._render([*placed, _REPLY]).rpartition(_REPLY["content"])[0]

    def tokens(self, messages: Messages, reply_follows: bool = False) -> list[int]:
        """Return the token ids of `text`."""
        return list(self.encode(self.text(messages, reply_follows))["input_ids"])

    def encode(self, text: str) -> BatchEncoding:
        """Return the tokens of a rendered text."""
        return self._tokenizer(text, add_special_tokens=False, verbose=False)  # callers compare lengths themselves

    def locate_reply(self, messages: Messages) -> tuple[str, int, int]:
        """Return the text of messages that end with a reply, the place in it where the reply begins, and its end.

        It begins where the prompt of sampling ends, and ends with the end of turn; templates may write more after that.

        Raises:
            jinja2.TemplateError: if the template refuses the messages.
            ValueError: if the reply cannot be located in the text.
        """
        text, content = self.text(messages), self.as_text(messages[-1]["content"])
        before, after, _ = text.rpartition(self._after_reply)
        if self.end_of_turn is None or not after:
            raise ValueError("the base's chat template does not end a reply of it with the end of turn")
        prompt = self.text(messages[:-1], reply_follows=True) if len(messages) > 1 else None
        if prompt is not None and before.startswith(prompt):
            begin = len(prompt)
        else:  # what nobody samples: an opening without a question, or a reply to a reply with Qwen 3
            written = content if before.endswith(content) else content.strip()
            if not before.endswith(written):
                raise ValueError("the base's chat template changes a reply of it, so that it cannot be located")
            begin = len(before) - len(written)
        return text, begin, len(before) + len(self.end_of_turn)

    @cached_property
    def end_of_turn(self) -> str | None:
        """What the template writes after a reply, up to the tokenizer's end token; None where it writes none."""
        before, end, _ = self._after_reply.partition(self._tokenizer.eos_token or "\0")
        return before + end if end else None

    @cached_property
    def supports_system(self) -> bool:
        """Whether the template always writes a system message at the start of the conversation."""
        system = {"role": "system", "content": "INSTRUCTIONS"}
        for turns in ([_QUESTION, _REPLY] * 2, [_REPLY, _QUESTION] * 2):
            shorter, longer = (self._text_or_empty([system, *turns[:number]]) for number in (2, 4))
            before, found, _ = shorter.partition(turns[0]["content"])
            if system["content"] not in before or not found or not longer.startswith(before + found):
                return False
        return True

    def place_system_prompt(self, messages: Messages) -> list[Mapping[str, str]]:
        """Return the messages with the system prompt in the place that the template supports."""
        if not messages or messages[0]["role"] != "system" or self.supports_system:
            return list(messages)
        system, *turns = messages
        if turns and turns[0]["role"] == "user":
            return [{"role": "user", "content": f"{system['content']}\n\n{turns[0]['content']}"}, *turns[1:]]
        return [{"role": "user", "content": system["content"]}, *turns]

    @cached_property
    def _prompts_for_reply(self) -> bool:
        """Whether the template's own prompt ends, but for spaces, where a reply begins in a conversation."""
        for turns in ([_QUESTION], [_QUESTION, _REPLY, _QUESTION]):
            prompt, whole = (
                self._text_or_empty(turns, add_generation_prompt=True),
                self._text_or_empty([*turns, _REPLY]),
            )
            if not whole.startswith(prompt) or whole[len(prompt) :].partition(_REPLY["content"])[0].strip():
                return False
        return True

    @cached_property
    def _after_reply(self) -> str:
        """What the template writes after the last reply of a conversation."""
        _, found, after = self._text_or_empty([_QUESTION, _REPLY]).rpartition(_REPLY["content"])
        return after + self._missing_end if found else ""

    @cached_property
    def _missing_end(self) -> str:
        """The end token, where the next turn begins with it and the template leaves it out after a last reply (GLM)."""
        last, end = self._text_or_empty([_QUESTION, _REPLY]), self._tokenizer.eos_token or "\0"
        following = self._text_or_empty([_QUESTION, _REPLY, _QUESTION]).removeprefix(last)
        return end if last.endswith(_REPLY["content"]) and following.startswith(end) else ""

    def _text_or_empty(self, messages: Messages, **options: Any) -> str:
        try:
            return self._render(messages, **options)
        except TemplateError:
            return ""

    def _render(self, messages: Messages, **options: Any) -> str:
        texts = [{**message, "content": self.as_text(message["content"])} for message in messages]
        rendered: str = self._tokenizer.apply_chat_template(
            texts, chat_template=self._template, tokenize=False, **TEMPLATE_ARGUMENTS, **options
        )
        return rendered

    def as_text(self, content: str) -> str:
        """Return the content of a message without special tokens: each has a space after its first character."""
        pattern = self._special_tokens
        return content if pattern is None else pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", content)

    @cached_property
    def _special_tokens(self) -> re.Pattern[str] | None:
        """Matches a special token, the longest first; not one that is a word, as in a vocabulary of words."""
        added = self._tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special} | set(self._tokenizer.all_special_tokens)
        marks = sorted((token for token in special if len(token) > 1 and not token.isalnum()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, marks))) if marks else None

    @cached_property
    def _template(self) -> str | None:
        own = str(self._tokenizer.get_chat_template()) if self._tokenizer.chat_template else ""
        return _FIXED_DATE + own if "strftime_now" in own else None


def load_tokenizer(name: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a base. Its end token is the one that ends a turn in its chat template.

    Gemma, Phi and others name another end token in the tokenizer, and list that of a turn in `generation_config.json`.

    Args:
        name: a folder, or a name that `AutoTokenizer.from_pretrained` takes.
        options: of `AutoTokenizer.from_pretrained`.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **options)
    generation = Path(name) / "generation_config.json"
    ids = json.loads(generation.read_text()).get("eos_token_id") if generation.is_file() else None
    if tokenizer.chat_template and ids is not None:
        named = tokenizer.convert_ids_to_tokens(ids if isinstance(ids, list) else [ids])
        ends = [end for end in (tokenizer.eos_token, *named) if end]
        chat = ChatFormat(tokenizer)
        for turns in ([_QUESTION, _REPLY, _QUESTION], [_QUESTION, _REPLY]):
            after = chat._text_or_empty(turns).partition(_REPLY["content"])[2]
            if found := [end for end in ends if end in after]:
                tokenizer.eos_token = min(found, key=after.index)
                break
    return tokenizer
