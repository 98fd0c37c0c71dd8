"""Raw completions: the server adds nothing to the prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sage_dialog.llm.requests import (
    AddChunk,
    FailureReason,
    LLMResponse,
    Request,
    RequestFailedError,
    RequestRejectedError,
    remove_surrogates,
    seconds_of,
)

_CONCATENATED = ("text", "token_ids")  # fields of which each chunk of a stream holds a part


@dataclass(frozen=True)
class Continuation:
    """One sample of a completion.

    Args:
        text: as the server returns it, with special tokens on some servers.
        token_ids: sampled tokens with the end token; None where the server does not return them.
        finish: "stop" at the end token or a stop string, "length" at the limit on tokens.
        stop_reason: the stop string, or the id of the stop token; None at the model's own end token.
        log_probability: of all sampled tokens; None where it was not requested.
    """

    text: str
    token_ids: list[int] | None
    finish: Literal["stop", "length"]
    stop_reason: str | int | None = None
    log_probability: float | None = None


@dataclass(frozen=True)
class CompletionRequest(Request):
    """`n` continuations of one prompt. Truncated and empty ones are valid.

    Args:
        prompt: token ids, or text for servers that accept no ids and may add special tokens.
        sampling: fields of the body.
        sample: number of the sample, for servers that accept no seed.
        revision: revision of the model, part of the cache key: a new model of the same name gets new responses.
        on_chunk: called with the answer so far after each chunk; None requests the answer at once.
    """

    prompt: tuple[int, ...] | str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    sample: int = 0
    revision: str = ""
    on_chunk: Callable[[Mapping[str, Any]], None] | None = field(default=None, compare=False, repr=False)

    path = "/completions"

    def fingerprint_inputs(self) -> dict[str, Any]:
        return {"completion": self.body(), "sample": self.sample, "revision": self.revision}

    def body(self) -> dict[str, Any]:
        several = {"n": self.n} if self.n > 1 else {}
        return {"model": self.model, "prompt": self.prompt, **self.sampling, **several}

    def parse(self, answer: Mapping[str, Any], prompt_tokens: int, completion_tokens: int) -> LLMResponse:
        """Return the continuations as JSON; `continuations` decodes them."""
        choices = answer.get("choices")
        if not choices or not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices):
            raise RequestFailedError(FailureReason.BROKEN, "its answer holds no choices")
        if any(choice.get("finish_reason") is None for choice in choices):
            raise RequestFailedError(FailureReason.BROKEN, "its answer ends before a choice of it does")
        if len(choices) != self.n:
            few = f"of {self.n} samples that `n` asked for" if self.n > 1 else "samples where one was asked for"
            raise RequestRejectedError(f"The server gave {len(choices)} {few}.")
        ordered = sorted(choices, key=lambda choice: choice.get("index") or 0)
        texts = [asdict(self._continuation(choice)) for choice in ordered]
        return LLMResponse(json.dumps(texts), prompt_tokens, completion_tokens, seconds_of(answer))

    def _continuation(self, choice: Mapping[str, Any]) -> Continuation:
        text, finish, ids = choice.get("text"), choice.get("finish_reason"), choice.get("token_ids")
        if finish == "content_filter":
            raise RequestFailedError(FailureReason.FILTERED)
        if not isinstance(text, str) or finish not in ("stop", "length"):
            raise RequestFailedError(FailureReason.BROKEN, f"a choice has no text, or finish_reason {finish!r}")
        if self.sampling.get("return_token_ids") and not isinstance(ids, list):
            raise RequestRejectedError("The server gave no token ids, though `return_token_ids` asked for them.")
        token_ids = None if ids is None else [int(token) for token in ids]
        logged = None if self.sampling.get("logprobs") is None else _log_probability(choice)
        return Continuation(remove_surrogates(text), token_ids, finish, choice.get("stop_reason"), logged)

    @property
    def add_chunk(self) -> AddChunk | None:
        return None if self.on_chunk is None else self._add

    def _add(self, answer: dict[str, Any], chunk: Mapping[str, Any]) -> None:
        answer.update({name: value for name, value in chunk.items() if name != "choices" and value is not None})
        choices = answer.setdefault("choices", [])
        for part in chunk.get("choices") or []:
            index = part.get("index") or 0
            choice = next((choice for choice in choices if choice["index"] == index), None)
            if choice is None:
                choices.append(choice := {"index": index, "text": ""})
            for name, value in part.items():
                if value is None or name == "index":
                    continue
                if name in _CONCATENATED:
                    choice[name] = choice[name] + value if name in choice else value
                elif name == "logprobs":
                    tokens = choice.setdefault("logprobs", {"token_logprobs": []})["token_logprobs"]
                    tokens += value.get("token_logprobs") or []
                else:
                    choice[name] = value
        if self.on_chunk is not None and choices:
            self.on_chunk(answer)

    @property
    def max_prompt_tokens(self) -> int:
        """Exact for token ids. For a text: a byte is at most a token, and servers add one at its beginning."""
        return len(self.prompt.encode()) + 1 if isinstance(self.prompt, str) else len(self.prompt)

    @property
    def max_completion_tokens(self) -> int | None:
        limit = self.sampling.get("max_tokens")
        return None if limit is None else self.n * limit


def continuations(response: LLMResponse) -> list[Continuation]:
    """Return the samples in the response to a `CompletionRequest`, in order."""
    return [Continuation(**fields) for fields in json.loads(response.text)]


def _log_probability(choice: Mapping[str, Any]) -> float:
    logged = (choice.get("logprobs") or {}).get("token_logprobs")
    if not isinstance(logged, list) or any(value is None for value in logged):
        raise RequestRejectedError("The server gave no log-probabilities, though `logprobs` asked for them.")
    return float(sum(logged))
