"""A base and its adapters as every engine needs them: names, tokenizer, context window, steering."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from transformers import AutoConfig

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy
from sage_dialog.inference.chat_format import ChatFormat, load_tokenizer
from sage_dialog.inference.engine import Prompt
from sage_dialog.inference.steering import Guide
from sage_dialog.inference.transformers.detokenizer import decode_tokens
from sage_dialog.inference.vllm.structured_outputs import reply_pattern
from sage_dialog.inference.vocabulary import Vocabulary
from sage_dialog.sac.grammar import ValueLimits

GUIDES = 4
"""Cached guides: in self-play agent and user take turns, each with its own."""

_LIMITS = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "context_length", "seq_length")
"""Names of the longest text in configurations; the first is that of nearly all."""

_UNLIMITED = 2**20
"""Tokens where neither configuration nor tokenizer has a limit, as with recurrent states."""


class PolicySet:
    """A base and its adapters, each once. Reads no weights.

    Raises:
        ValueError: if `base` is an adapter, two policies share a name, an adapter's card names another base revision,
            or some adapters hold all weights (`sft.lora: null`) and others LoRA's.
    """

    def __init__(self, base: Policy, policies: Sequence[Policy]) -> None:
        self.base = base
        self.adapters = {policy.name: policy for policy in _adapters(base, policies)}
        self.tokenizer = load_tokenizer(base.path)
        self._chat = ChatFormat(self.tokenizer)
        self._text_config = AutoConfig.from_pretrained(base.path).get_text_config()
        self._guide = lru_cache(GUIDES)(self._build_guide)

    def policy(self, name: str) -> Policy:
        """Return the policy of that name. Raises KeyError if there is none."""
        if name == self.base.name:
            return self.base
        if name not in self.adapters:
            loaded = ", ".join(sorted({self.base.name, *self.adapters}))
            raise KeyError(f"policy {name!r} is not loaded; this engine has {loaded}")
        return self.adapters[name]

    @property
    def window(self) -> int:
        """Number of tokens that every layer can attend to at once. It never exceeds a sliding window."""
        windows = (getattr(self._text_config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        return min([self.positions, *(window for window in windows if window)])

    @property
    def positions(self) -> int:
        """Number of tokens of the longest text that the model can read."""
        limits = (getattr(self._text_config, name, None) for name in _LIMITS)
        return next((limit for limit in limits if limit), min(self.tokenizer.model_max_length, _UNLIMITED))

    @property
    def dtype(self) -> str:
        """The number format of the base by its configuration; "auto" where it names none."""
        return str(self._text_config.dtype or "auto").removeprefix("torch.")

    def tokens(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt by the base's chat template, up to the start of the reply."""
        return self._chat.tokens(prompt.messages, reply_follows=True)

    def as_text(self, prompt: Prompt) -> str:
        """Return a prompt as text for a server that tokenizes it, special tokens written out.

        A BOS token that the server's tokenizer adds is left out.

        Raises:
            ValueError: if the server would get other tokens than `tokens`.
        """
        text = self._chat.text(prompt.messages, reply_follows=True)
        for candidate in (text, text.removeprefix(self.tokenizer.bos_token or "")):
            if self.tokenizer(candidate)["input_ids"] == self.tokens(prompt):
                return candidate
        raise ValueError(
            "a prompt cannot be sent as text, because the server would tokenize it differently; use a server that "
            "accepts token ids, and set the engine's `supports.token_prompts`"
        )

    def text(self, tokens: list[int]) -> str:
        """Return the text of a reply's tokens, without special tokens."""
        return decode_tokens(self.tokenizer, tokens)

    def guide(self, name: str, steering: Steering | None, sampling: SamplingConfig) -> Guide | None:
        """Return the guide of a steering and of a held form; None where a policy is sampled freely.

        A form is held only where the policy writes blocks.

        Raises:
            ValueError: if the policy writes no blocks, or the tokenizer cannot write a value.
        """
        blocks = self.policy(name).card.blocks
        limits = sampling.limits if blocks else None
        if not steering and limits is None:
            return None
        if not blocks:
            raise ValueError(
                f"policy {name!r} writes no state and action blocks, so there is nothing to steer; leave `steering` "
                f"empty, or use a policy that was trained with blocks"
            )
        return self._guide((steering or Steering()).model_dump_json(), limits)

    def reply_pattern(self, sampling: SamplingConfig) -> str:
        """Return a regular expression of the replies that hold the form. Raises ValueError if it is not held."""
        if sampling.limits is None:
            raise ValueError("the form is not held")
        return reply_pattern(sampling.limits, self._vocabulary.strips_first_space)

    def _build_guide(self, steering: str, limits: ValueLimits | None) -> Guide:
        end, size = self.tokenizer.eos_token_id, self._text_config.vocab_size
        return Guide(self._vocabulary, Steering.model_validate_json(steering), end, size, limits)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer)


def _adapters(base: Policy, policies: Sequence[Policy]) -> list[Policy]:
    """Return the policies to load, each once, after checking that they belong to `base`."""
    if base.card.kind != "base":
        raise ValueError(f"policy {base.name!r} at {base.path} is an adapter; give the engine its base")
    by_name: dict[str, Policy] = {}
    for policy in policies:
        if policy.card.base_revision != base.card.base_revision:
            raise ValueError(
                f"policy {policy.name!r} at {policy.path} belongs to base revision {policy.card.base_revision}, but "
                f"{base.name!r} at {base.path} is {base.card.base_revision}; train the policy again on this base, or "
                f"load the base it was trained on"
            )
        if by_name.setdefault(policy.name, policy).path != policy.path:
            raise ValueError(f"two policies are named {policy.name!r}: {by_name[policy.name].path} and {policy.path}")
    adapters = [policy for policy in by_name.values() if policy.card.kind == "adapter"]
    full = [policy for policy in adapters if policy.has_full_weights]
    if full and (lora := [policy for policy in adapters if policy not in full]):
        raise ValueError(
            f"policy {full[0].name!r} at {full[0].path} holds all weights, {lora[0].name!r} at {lora[0].path} those of "
            f"LoRA, and one engine cannot hold both; train them alike (`sft.lora`)"
        )
    return adapters
