"""Chat templates for training, which mark what the assistant writes, end of turn included.

The loss is on the text between ``{% generation %}`` and ``{% endgeneration %}``. Few bases have these markers;
`templates/` adds them for families of bases. A family is recognised by rendering test conversations, not by the source
of the template, so training renders every conversation as the base does. Sampling uses the base's own template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import has_generation_markers, is_chat_template_stop_token_trained

from sage_dialog.inference.chat_format import ChatFormat, Messages

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
"""The file of `templates/`, and the variables by which the bases of a family differ."""


def training_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the tokenizer's own template if it has markers, else one with markers that renders the same text.

    Raises:
        ValueError: if there is none, or the markers leave out the end of a turn.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"{_describe(tokenizer)} has no chat template; use a base that was trained on conversations")
    template: str = tokenizer.get_chat_template()
    if not has_generation_markers(template):
        template = next((marked for marked in _templates() if _renders_equally(tokenizer, marked)), "")
    if not template:
        raise ValueError(
            f"the chat template of {_describe(tokenizer)} does not mark what the assistant writes, and is none of the "
            f"known ones: {'; '.join(FAMILIES)}. In chat_template.jinja of the base, put {{% generation %}} before and "
            "{% endgeneration %} after what it writes for a message of the assistant, end of turn included"
        )
    if not is_chat_template_stop_token_trained(tokenizer, template):
        raise ValueError(
            f"the chat template of {_describe(tokenizer)} leaves the end of the assistant's turn out of "
            "{% generation %}: a policy would never learn to stop. Put {% endgeneration %} after it"
        )
    return template


def encode_conversation(chat: ChatFormat, messages: Messages) -> Iterator[dict[str, list[int]]]:
    """Yield the training examples of a conversation: `input_ids`, and `labels` that are -100 outside of replies.

    One example for all replies; but where the template changes earlier replies (not `ChatFormat.prefix_preserving`),
    one for each reply, which ends with it and has labels for it only.

    Args:
        chat: with a template from `training_template`.

    Raises:
        ValueError: if the template refuses the messages, or the tokens of a reply cannot be located.
    """
    replies = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    for place in replies[-1:] if chat.prefix_preserving else replies:
        try:
            ids, marks = chat.tokens_with_mask(messages if chat.prefix_preserving else messages[: place + 1])
        except TemplateError as error:
            raise ValueError(f"the base's chat template refuses it: {error}") from error
        starts = [at for at, mark in enumerate(marks) if mark and (at == 0 or not marks[at - 1])]
        if len(starts) < sum(at <= place for at in replies):
            raise ValueError("the base's tokenizer drops characters of a reply, so its tokens cannot be located")
        first = starts[0 if chat.prefix_preserving else -1]
        labels = [
            token if mark and at >= first else -100 for at, (token, mark) in enumerate(zip(ids, marks, strict=True))
        ]
        yield {"input_ids": ids, "labels": labels}


@cache
def _templates() -> tuple[str, ...]:
    """Return a template with markers for each family."""
    folder = files(__package__) / "templates"
    return tuple(
        f"{{%- set family = {json.dumps(variant)} %}}" + (folder / f"{file}.jinja").read_text("utf-8")
        for file, variant in FAMILIES.values()
    )


def _renders_equally(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Return whether a template renders every probe as the tokenizer's own does, refusals included."""
    return all(
        _render(tokenizer, None, probe, reply_follows, variables)
        == _render(tokenizer, template, probe, reply_follows, variables)
        for probe in _probes()
        for reply_follows in (False, True)
        for variables in ({}, {"date_string": "1 Jan 2000", "enable_thinking": False}, {"enable_thinking": True})
    )


def _render(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    probe: Messages,
    reply_follows: bool,
    variables: Mapping[str, object],
) -> str | None:
    try:
        text: str = tokenizer.apply_chat_template(
            list(probe), chat_template=template, add_generation_prompt=reply_follows, tokenize=False, **variables
        )
    except TemplateError:
        return None
    return text


def _probes() -> Iterator[Messages]:
    """Yield conversations that templates render differently: first and last role, system messages, odd spaces."""
    user, reply, system = ("user", "Hi, {x}?"), ("assistant", "Well."), ("system", "Be kind.")
    odd, thought = ("assistant", "\n ünd…\n\n"), ("assistant", "<think>\nhm\n</think>\n\nYes.")
    spaced = ("user", "  a\tb \n")
    conversations = [
        [user], [user, reply], [user, reply, spaced], [user, odd, spaced, odd], [user, thought, user, thought],
        [reply, user, reply], [user, user], [user, reply, reply], [user, reply, system, reply],
    ]  # fmt: skip
    for messages in conversations:
        for opening in ([], [system], [("system", " \nA \n B ")]):
            yield [{"role": role, "content": content} for role, content in (*opening, *messages)]


def _describe(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the tokenizer at {tokenizer.name_or_path}" if tokenizer.name_or_path else "this tokenizer"
