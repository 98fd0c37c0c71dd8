"""Raw completions: a prompt that the server adds nothing to, and how the model goes on with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sage_dialog.llm.requests import (
    FailureReason,
    LLMResponse,
    PutTogether,
    Request,
    RequestFailedError,
    RequestRejectedError,
    remove_surrogates,
    seconds_of,
)

_JOINED = ("text", "token_ids")  # what the pieces of a stream hold a part of


@dataclass(frozen=True)
class Continuation:
    """How a model went on.

    Args:
        text: as the server has it; special tokens may stand in it.
        token_ids: of what was drawn, the end token among them; None where the server does not tell.
        finish: "stop" at the end token or at a stop string, "length" at the limit on tokens.
        stopped_at: the stop string, or the stop token's id; None at the model's own end token.
        log_probability: of all tokens drawn, as the server has it; None where it was not asked.
    """

    text: str
    token_ids: list[int] | None
    finish: Literal["stop", "length"]
    stopped_at: str | int | None = None
    log_probability: float | None = None


@dataclass(frozen=True)
class CompletionRequest(Request):
    """`n` continuations of one prompt. A cut one is as good as any, and so is an empty one.

    Args:
        prompt: token ids, or text for servers that take no ids; these may put special tokens before it.
        sampling: fields of the request's body.
        draw: tells requests apart that are otherwise the same, as where a server takes no seed.
        revision: of the model; with it replies are kept, so that another model of the same name gets its own.
        heard: called with what has come of the answer, piece by piece.
    """

    prompt: tuple[int, ...] | str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    draw: int = 0
    revision: str = ""
    heard: Callable[[Mapping[str, Any]], None] | None = field(default=None, compare=False, repr=False)

    path = "/completions"

    def fingerprint_inputs(self) -> dict[str, Any]:
        """See `Request.fingerprint_inputs`."""
        return {"completion": self.body(), "draw": self.draw, "revision": self.revision}

    def body(self) -> dict[str, Any]:
        """See `Request.body`."""
        several = {"n": self.n} if self.n > 1 else {}
        return {"model": self.model, "prompt": self.prompt, **self.sampling, **several}

    def read(self, answer: Mapping[str, Any], prompt_tokens: int, completion_tokens: int) -> LLMResponse:
        """The continuations in a server's answer, as JSON; `continuations` gives them back.

        Raises:
            RequestFailedError: if one is filtered or not whole, or not of the form that servers have agreed on.
            RequestRejectedError: if all are whole but not as many as was asked for, or not all is told that was asked.
        """
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
            raise RequestFailedError(FailureReason.FILTERED, "after the model spoke")
        if not isinstance(text, str) or finish not in ("stop", "length"):
            raise RequestFailedError(
                FailureReason.BROKEN, f"a choice of its answer is no whole text; it ended by {finish!r}"
            )
        if self.sampling.get("return_token_ids") and not isinstance(ids, list):
            raise RequestRejectedError("The server gave no token ids, though `return_token_ids` asked for them.")
        token_ids = None if ids is None else [int(token) for token in ids]
        logged = None if self.sampling.get("logprobs") is None else _log_probability(choice)
        return Continuation(remove_surrogates(text), token_ids, finish, choice.get("stop_reason"), logged)

    @property
    def put_together(self) -> PutTogether | None:
        """See `Request.put_together`."""
        return None if self.heard is None else self._add

    def _add(self, answer: dict[str, Any], piece: Mapping[str, Any]) -> None:
        answer.update({name: value for name, value in piece.items() if name != "choices" and value is not None})
        choices = answer.setdefault("choices", [])
        for part in piece.get("choices") or []:
            index = part.get("index") or 0
            choice = next((choice for choice in choices if choice["index"] == index), None)
            if choice is None:
                choices.append(choice := {"index": index, "text": ""})
            for name, value in part.items():
                if value is None or name == "index":
                    continue
                if name in _JOINED:
                    choice[name] = choice[name] + value if name in choice else value
                elif name == "logprobs":
                    tokens = choice.setdefault("logprobs", {"token_logprobs": []})["token_logprobs"]
                    tokens += value.get("token_logprobs") or []
                else:
                    choice[name] = value
        if self.heard is not None and choices:
            self.heard(answer)

    @property
    def max_prompt_tokens(self) -> int:
        """Exactly its ids; of a text, a byte is a token at most, and there is one at its beginning."""
        return len(self.prompt.encode()) + 1 if isinstance(self.prompt, str) else len(self.prompt)

    @property
    def max_completion_tokens(self) -> int | None:
        """See `Request.max_completion_tokens`."""
        limit = self.sampling.get("max_tokens")
        return None if limit is None else self.n * limit


def continuations(reply: LLMResponse) -> list[Continuation]:
    """What the reply to a `CompletionRequest` holds: one for each sample, in their order."""
    return [Continuation(**given) for given in json.loads(reply.text)]


def _log_probability(choice: Mapping[str, Any]) -> float:
    logged = (choice.get("logprobs") or {}).get("token_logprobs")
    if not isinstance(logged, list) or any(value is None for value in logged):
        raise RequestRejectedError("The server gave no log-probabilities, though `logprobs` asked for them.")
    return float(sum(logged))
