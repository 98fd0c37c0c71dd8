"""What an engine knows of its policies before it samples from any: names, tokenizer, window, how they are steered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property

from transformers import AutoConfig, AutoTokenizer

from sage_dialog.config import Steering
from sage_dialog.core.policies import Policy
from sage_dialog.inference.chat_format import ChatFormat
from sage_dialog.inference.engine import Prompt
from sage_dialog.inference.steering import Guide, Vocabulary
from sage_dialog.inference.transformers.detokenizer import decode_tokens


class PolicySet:
    """A base and the adapters that belong to it, each once. No weights are read.

    Raises:
        ValueError: if `base` is an adapter, two policies share a name, or an adapter's card names another
            base revision than that of `base`, or some hold all weights (`sft.lora: null`) and others do not.
    """

    def __init__(self, base: Policy, policies: Sequence[Policy]) -> None:
        self.base = base
        self.adapters = {policy.name: policy for policy in _adapters(base, policies)}
        self.tokenizer = AutoTokenizer.from_pretrained(base.path)
        self._chat = ChatFormat(self.tokenizer)
        self._config = AutoConfig.from_pretrained(base.path)
        self._guided: tuple[Steering, Guide] | None = None

    def policy(self, name: str) -> Policy:
        """The policy of that name. Raises KeyError where none was given."""
        if name == self.base.name:
            return self.base
        if name not in self.adapters:
            loaded = ", ".join(sorted({self.base.name, *self.adapters}))
            raise KeyError(f"policy {name!r} is not loaded; this engine holds {loaded}")
        return self.adapters[name]

    @property
    def window(self) -> int:
        """Tokens the model can attend to at once; within a sliding window, sliding never begins."""
        window: int | None = getattr(self._config, "sliding_window", None)
        limit: int = self._config.max_position_embeddings
        return min(limit, window) if window else limit

    def tokens(self, prompt: Prompt) -> list[int]:
        """A prompt by the base's chat template, up to where the reply begins."""
        return self._chat.tokens(prompt.messages, reply_follows=True)

    def as_text(self, prompt: Prompt) -> str:
        """A prompt as text for a server that tokenizes by itself, special tokens written out.

        Tokenizers that put a BOS before every text would double the template's own, so it is left to them.

        Raises:
            ValueError: if the server would make other tokens of it than `tokens`.
        """
        text = self._chat.text(prompt.messages, reply_follows=True)
        for sent in (text, text.removeprefix(self.tokenizer.bos_token or "")):
            if self.tokenizer(sent)["input_ids"] == self.tokens(prompt):
                return sent
        raise ValueError(
            "a prompt cannot be sent as text, because its tokens would be others on the server; take a server that "
            "takes token ids, and set the engine's `takes.token_prompts`"
        )

    def text(self, tokens: list[int]) -> str:
        """What the tokens of a reply write, special ones left out."""
        return decode_tokens(self.tokenizer, tokens)

    def guide(self, name: str, steering: Steering) -> Guide:
        """A steering worked out for the policy's tokenizer.

        Raises:
            ValueError: if the policy writes no blocks, or the tokenizer cannot write what is to be steered to.
        """
        if not self.policy(name).card.blocks:
            raise ValueError(
                f"policy {name!r} writes no state and action blocks, so there is nothing to steer; leave `steering` "
                f"empty for it, or take a policy that was trained with blocks"
            )
        if self._guided is None or self._guided[0] != steering:
            end, size = self.tokenizer.eos_token_id, self._config.vocab_size
            self._guided = steering, Guide(self._vocabulary, steering, end, size)
        return self._guided[1]

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer)


def _adapters(base: Policy, policies: Sequence[Policy]) -> list[Policy]:
    """The policies that need loading, each once, all known to belong to `base`."""
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
    whole = [policy for policy in adapters if has_full_weights(policy)]
    if whole and (lora := [policy for policy in adapters if policy not in whole]):
        raise ValueError(
            f"policy {whole[0].name!r} at {whole[0].path} holds all weights, {lora[0].name!r} at {lora[0].path} those "
            f"of LoRA, and one engine cannot hold both; train them alike (`sft.lora`)"
        )
    return adapters


def has_full_weights(policy: Policy) -> bool:
    """Whether an adapter has every weight of its base anew (`sft.lora: null`)."""
    config = policy.path / "adapter_config.json"
    return config.exists() and bool(json.loads(config.read_text()).get("modules_to_save"))
