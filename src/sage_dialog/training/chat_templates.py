"""Training examples from conversations, with any chat template: the loss is on replies, end of turn included.

A reply begins where the prompt of sampling ends. Both are found by rendering, so the base's own template is used as it
is; ``{% generation %}`` markers, which few bases have, are not needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from sage_dialog.inference.chat_format import ChatFormat, Messages


def training_format(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Return the chat format of a base that can be trained.

    Args:
        tokenizer: from `load_tokenizer`.

    Raises:
        ValueError: if it has no chat template, or one that ends a reply with none of the base's stop tokens.
    """
    name = f"the tokenizer at {tokenizer.name_or_path}" if tokenizer.name_or_path else "this tokenizer"
    if not tokenizer.chat_template:
        fault = f"{name} has no chat template. Use a base that was trained on conversations, or"
    elif ChatFormat(tokenizer).end_of_turn is None:
        fault = (
            f"the chat template of {name} writes no reply that ends with a stop token ({tokenizer.eos_token}, or "
            "eos_token_id of generation_config.json), so a policy would never learn to stop;"
        )
    else:
        return ChatFormat(tokenizer)
    raise ValueError(
        f"{fault} put the files of the base into a folder, with a chat_template.jinja of yours, and name it as "
        "`folder` of sage_0 with `revision: null` (docs/recipes.md)"
    )


def encode_conversation(chat: ChatFormat, messages: Messages) -> list[dict[str, list[int]]]:
    """Return the training examples of a conversation: `input_ids`, and `labels` that are -100 outside of replies.

    One example for all replies; but where the template changes earlier replies, as Qwen 3's does, one for each reply,
    which ends with it and has labels for it only.

    Args:
        chat: from `training_format`.

    Raises:
        ValueError: if the template refuses the messages, or the tokens of a reply cannot be located.
    """
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    try:
        whole = chat.text(messages) if places else ""
        replies = [chat.locate_reply(messages[: place + 1]) for place in places]
    except TemplateError as error:
        raise ValueError(f"the base's chat template refuses it: {error}") from error
    if replies and all(whole.startswith(text[:end]) for text, _, end in replies):
        return [_example(chat, whole, [(begin, end) for _, begin, end in replies])]
    return [_example(chat, text, [(begin, end)]) for text, begin, end in replies]


def _example(chat: ChatFormat, text: str, replies: Sequence[tuple[int, int]]) -> dict[str, list[int]]:
    """Return the tokens of a text, with labels for the replies, given by their first character and their end."""
    encoded = chat.encode(text)
    ids = list(encoded["input_ids"])
    labels = [-100] * len(ids)
    for begin, end in replies:
        first, last = encoded.char_to_token(begin), encoded.char_to_token(end - 1)
        if first is None or last is None:
            raise ValueError("the base's tokenizer drops characters of a reply, so its tokens cannot be located")
        labels[first : last + 1] = ids[first : last + 1]
    return {"input_ids": ids, "labels": labels}
