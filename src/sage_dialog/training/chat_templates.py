"""Chat templates to train with, which mark what the assistant writes, the end of its turn included.

The loss is on what a template has between ``{% generation %}`` and ``{% endgeneration %}``. Few bases come with such
marks; `chat_templates/` has them for families of bases. Which one is a base's is told by what its own template makes of
conversations, not by how that is written, so nothing is trained on that the base would read otherwise. What is trained
is sampled with the base's own template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from sage_dialog.inference.chat_format import ChatFormat, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MISTRAL_0 = {"opens": "[INST] ", "closes": " [/INST]", "leads": "", "follows": "", "strips": False, "system": ""}
_MISTRAL_1 = {**_MISTRAL_0, "opens": " [INST] ", "leads": " ", "system": "first"}
_MISTRAL_3 = {**_MISTRAL_0, "closes": "[/INST]", "leads": " ", "strips": True, "system": "last"}
_NEMO = {**_MISTRAL_0, "opens": "[INST]", "closes": "[/INST]", "system": "last"}
_LLAMA_3: dict[str, object] = {"dates": False, "today": False}
_QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "Mixtral-8x7B-Instruct v0.1, Mistral-7B-Instruct v0.2, as first published": ("mistral", _MISTRAL_0),
    "Mistral-7B-Instruct v0.1, as first published": ("mistral", {**_MISTRAL_0, "follows": " "}),
    "Mixtral-8x7B-Instruct v0.1, Mistral-7B-Instruct v0.1 and v0.2": ("mistral", _MISTRAL_1),
    "Mistral-7B-Instruct v0.3, Mixtral-8x22B-Instruct v0.1": ("mistral", _MISTRAL_3),
    "Mistral-Nemo-Instruct": ("mistral", _NEMO),
    "Llama 3": ("llama", _LLAMA_3),
    "Llama 3.1": ("llama", {**_LLAMA_3, "dates": True}),
    "Llama 3.2, 3.3": ("llama", {"dates": True, "today": True}),
    "Qwen 2.5": ("qwen", {"system_prompt": _QWEN, "thoughts": False}),
    "Qwen 3": ("qwen", {"system_prompt": "", "thoughts": True}),
    "Qwen 3 Instruct 2507": ("qwen", {"system_prompt": "", "thoughts": False}),
}
"""The file of `chat_templates/` that has the marks, and how the bases of this name differ from others it serves."""


def training_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's own template if it has marks, else one with marks that reads every conversation the same.

    Raises:
        ValueError: if there is none, or the end of a turn is not among what is marked.
    """
    from trl.chat_template_utils import has_generation_markers, is_chat_template_stop_token_trained

    if not tokenizer.chat_template:
        raise ValueError(f"{_where(tokenizer)} has no chat template; take a base that was trained to converse")
    template: str = tokenizer.get_chat_template()
    if not has_generation_markers(template):
        template = next((marked for marked in _marked() if _alike(tokenizer, marked)), "")
    if not template:
        raise ValueError(
            f"the chat template of {_where(tokenizer)} does not mark what the assistant writes, and is none of those "
            f"known: {'; '.join(FAMILIES)}. Put {{% generation %}} before and {{% endgeneration %}} behind what it "
            "writes of an assistant's message, its end of turn included, in chat_template.jinja of the base"
        )
    if not is_chat_template_stop_token_trained(tokenizer, template):
        raise ValueError(
            f"the chat template of {_where(tokenizer)} leaves the end of the assistant's turn out of "
            "{% generation %}: a policy would never learn to stop. Put {% endgeneration %} behind it"
        )
    return template


def encoded(chat: ChatFormat, messages: Messages) -> Iterator[dict[str, list[int]]]:
    """A conversation as what a trainer learns from: `input_ids`, and `labels` that are -100 but for what is learned.

    One row for all replies; but where a reply is read otherwise later in the conversation than it was written
    (`ChatFormat.prefix_preserving`), one for each, which ends with it and is learned for it alone.

    Args:
        chat: with a template from `training_template`.

    Raises:
        ValueError: if the template refuses the messages, or tokens of a reply cannot be told from others.
    """
    from jinja2 import TemplateError

    replies = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    for place in replies[-1:] if chat.prefix_preserving else replies:
        told = messages[: place + 1] if not chat.prefix_preserving else messages
        try:
            ids, marks = chat.tokens_with_mask(told)
        except TemplateError as error:
            raise ValueError(f"the base's chat template refuses it: {error}") from error
        begins = [at for at, mark in enumerate(marks) if mark and (at == 0 or not marks[at - 1])]
        if len(begins) < sum(at <= place for at in replies):
            raise ValueError("the base's tokenizer drops letters of a reply, so that its tokens cannot be told")
        first = begins[0 if chat.prefix_preserving else -1]
        labels = [
            token if mark and at >= first else -100 for at, (token, mark) in enumerate(zip(ids, marks, strict=True))
        ]
        yield {"input_ids": ids, "labels": labels}


@cache
def _marked() -> tuple[str, ...]:
    """A template with marks for each family."""
    folder = files(__package__) / "templates"
    return tuple(
        f"{{%- set family = {json.dumps(variant)} %}}" + (folder / f"{file}.jinja").read_text("utf-8")
        for file, variant in FAMILIES.values()
    )


def _alike(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Whether a template makes of every probe what the tokenizer's own does, refusals included."""
    return all(
        _rendered(tokenizer, None, probe, reply_follows, told)
        == _rendered(tokenizer, template, probe, reply_follows, told)
        for probe in _probes()
        for reply_follows in (False, True)
        for told in ({}, {"date_string": "1 Jan 2000", "enable_thinking": False}, {"enable_thinking": True})
    )


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    probe: Messages,
    reply_follows: bool,
    told: Mapping[str, object],
) -> str | None:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            list(probe), chat_template=template, add_generation_prompt=reply_follows, tokenize=False, **told
        )
    except TemplateError:
        return None
    return text


def _probes() -> Iterator[Messages]:
    """Conversations in which templates differ: who opens and ends, a system message, one out of turn, odd spaces."""
    asked, said, told = ("user", "Hi, {x}?"), ("assistant", "Well."), ("system", "Be kind.")
    odd, thought = ("assistant", "\n ünd…\n\n"), ("assistant", "<think>\nhm\n</think>\n\nYes.")
    spaced = ("user", "  a\tb \n")
    talks = [
        [asked], [asked, said], [asked, said, spaced], [asked, odd, spaced, odd], [asked, thought, asked, thought],
        [said, asked, said], [asked, asked], [asked, said, said], [asked, said, told, said],
    ]  # fmt: skip
    for talk in talks:
        for opening in ([], [told], [("system", " \nA \n B ")]):
            yield [{"role": role, "content": content} for role, content in (*opening, *talk)]


def _where(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the tokenizer at {tokenizer.name_or_path}" if tokenizer.name_or_path else "this tokenizer"
