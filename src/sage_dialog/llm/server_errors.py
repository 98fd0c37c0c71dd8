"""What servers say when they refuse a request: messages in any of their forms, and what they mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_MESSAGE_FIELDS = ("error", "message", "detail", "details", "errors", "msg", "reason")
_CODE_FIELDS = ("code", "type", "status", "reason", "error_type")
_MARKUP = re.compile(r"(?s)<(script|style).*?</\1>|<[^>]*>")
_TOO_LONG = re.compile(
    r"context[\s_]*(?:length|window|size|limit|overflow)"  # OpenAI, vLLM, SGLang, Ollama, llama.cpp, Anthropic
    r"|maximum (?:model|input|prompt) length|max_model_len|string_above_max_length"
    r"|(?:prompt|inputs?|requests?|messages?)`?(?: is| are)? too (?:long|large)"  # Anthropic, Bedrock
    r"|token count\b.{0,60}\bexceeds|too many (?:input |prompt )?tokens"  # Gemini, Cohere
    r"|`?inputs`? (?:must have less than|tokens \+)"  # TGI
    r"|reduce the length of the (?:messages|prompt|input)",  # Groq
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content_?filter|content_policy|ResponsibleAIPolicy|content management policy|invalid_prompt"  # OpenAI, Azure
    r"|usage polic|safety (?:system|filter|reasons)|moderation|flagged"  # OpenAI, OpenRouter
    r"|PROHIBITED_CONTENT|blocked (?:by|due to|because)|inappropriate content|data_inspection|content exists risk",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(
    r"unsupported|not (?:yet )?(?:supported|permitted|allowed|available|implemented)|unavailable"
    r"|(?:does|do)(?: not|n't) support|unknown|unrecogni[sz]ed|unexpected|extra (?:fields|inputs)|extra_forbidden"
    r"|cannot find field|no such (?:field|parameter)",
    re.IGNORECASE,
)
_SCHEMA = re.compile(r"response[_ ]format|json[_ ]schema|structured[_ ]outputs?|invalid schema", re.IGNORECASE)
_LIMITS = {"max_completion_tokens": "max_tokens", "max_tokens": "max_completion_tokens"}
_NEEDED = ("model", "messages", "prompt", "n", "stream", "stream_options")  # a request has no meaning without them


def error_message(content: str) -> tuple[str, str]:
    """Return the message and the codes in the body of an error: JSON of any form, plain text or HTML."""
    try:
        body = json.loads(content)
    except ValueError:
        return " ".join(_MARKUP.sub(" ", content).split()), ""
    message = "; ".join(dict.fromkeys(_messages(body))) or " ".join(content.split())
    return message, " ".join(dict.fromkeys(_codes(body)))


def is_too_long(message: str) -> bool:
    """Return whether a server refuses a request because it exceeds the model's context."""
    return _TOO_LONG.search(message) is not None


def is_filtered(message: str) -> bool:
    """Return whether a server refuses a request because of what the prompt says."""
    return _FILTERED.search(message) is not None


def unsupported_field(message: str, body: Mapping[str, Any]) -> str | None:
    """Return the field of a request's body that the server says it does not support; None if it names none."""
    if "response_format" in body and _SCHEMA.search(message):
        return "response_format"
    if not _UNSUPPORTED.search(message):
        return None
    named = {name: re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", message) for name in body if name not in _NEEDED}
    positions = {name: found.start() for name, found in named.items() if found}
    return min(positions, key=lambda name: positions[name], default=None)


def other_name(field: str) -> str | None:
    """Return the other name of a field that must not be left out: the limit on tokens."""
    return _LIMITS.get(field)


def _messages(body: Any) -> Iterator[str]:
    if isinstance(body, str) and body.strip():
        yield " ".join(body.split())
    elif isinstance(body, list):
        for inner in body:
            yield from _messages(inner)
    elif isinstance(body, Mapping):
        place = ".".join(str(part) for part in body["loc"]) if isinstance(body.get("loc"), list) else ""
        for field in _MESSAGE_FIELDS:
            for message in _messages(body.get(field)):
                yield f"{place}: {message}" if place else message


def _codes(body: Any) -> Iterator[str]:
    if isinstance(body, list):
        for inner in body:
            yield from _codes(inner)
    elif isinstance(body, Mapping):
        yield from (str(body[field]) for field in _CODE_FIELDS if isinstance(body.get(field), str | int))
        for inner in body.values():
            yield from _codes(inner)
