"""Sampling in this process with transformers: one base in memory, every policy an adapter on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from sage_dialog.generation.decoding import Decoded, decode
from sage_dialog.generation.engine import Finish, Prompt, Sample
from sage_dialog.generation.shared_prefix import IMPLEMENTATION
from sage_dialog.generation.steering import Guide, Vocabulary
from sage_dialog.parameters import SamplingDials, Steering
from sage_dialog.policies import Policy
from sage_dialog.seeds import generator

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy")

MAX_ROWS = 512
"""Samples decoded together. On two cores, more rows a step gain nothing and cost memory."""

MAX_PROMPT_TOKENS = 32_768
"""Padded prompt tokens of one batch; bounds the memory of the prefill."""


class TransformersEngine:
    """An `Engine` over a base and adapters trained on that very base.

    Weights are float32 on the CPU. Mixture-of-experts layers run expert by expert ("eager"), the fastest
    of transformers' ways there.

    Raises:
        ValueError: if `base` is an adapter, two policies share a name, or an adapter's card names another
            base revision than that of `base`.
    """

    def __init__(self, base: Policy, policies: Sequence[Policy], seed: int, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        adapters = _adapters(base, policies)
        disable_progress_bar()  # of the weights; self-play shows its own
        self._seed = seed
        self._blocks = {policy.name: policy.card.blocks for policy in (base, *policies)}
        self._guided: tuple[Steering, Guide] | None = None
        self._base_name = base.name
        self._tokenizer = AutoTokenizer.from_pretrained(base.path)
        self._model = AutoModelForCausalLM.from_pretrained(
            base.path,
            dtype=torch.float32,
            attn_implementation=IMPLEMENTATION,
            experts_implementation="eager",
            use_safetensors=True,
        ).eval()
        self._window = _window(self._model.config)
        self._peft: PeftModel | None = None
        for policy in adapters:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self._model, policy.path, adapter_name=policy.name)
            else:
                self._peft.load_adapter(policy.path, adapter_name=policy.name)

    @property
    def decides(self) -> Mapping[str, object]:
        """See `Engine.decides`."""
        return {"engine": "transformers", **{name: version(name) for name in LIBRARIES}}

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingDials,
        samples: int = 1,
        steering: Steering | None = None,
        heard: Callable[[str], None] | None = None,
    ) -> list[list[Sample]]:
        """See `Engine.sample`.

        Raises:
            KeyError: if no policy of that name was loaded.
        """
        self._switch(policy)
        guide = self._guide(policy, steering) if steering else None
        tokens = [self._tokens(prompt) for prompt in prompts]
        room = self._window - sampling.max_new_tokens
        fitting = [index for index, prompt in enumerate(tokens) if len(prompt) <= room]
        replies: list[list[Sample]] = [[] for _ in prompts]
        for batch in _batches(fitting, [len(prompt) for prompt in tokens], samples):
            draws = np.stack([self._draws(prompts[index], samples, sampling.max_new_tokens) for index in batch])
            decoded = decode(
                self._model, [tokens[index] for index in batch], draws, sampling, self._tokenizer.eos_token_id, guide
            )
            for index, rows in zip(batch, decoded, strict=True):
                texts = self._tokenizer.batch_decode(
                    [row.tokens for row in rows], skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                replies[index] = [_sample(text, row) for text, row in zip(texts, rows, strict=True)]
        return replies

    def _tokens(self, prompt: Prompt) -> list[int]:
        rendered = self._tokenizer.apply_chat_template(
            list(prompt.messages), add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return rendered["input_ids"]

    def _draws(self, prompt: Prompt, samples: int, length: int) -> np.ndarray:
        return np.stack([generator(self._seed, "sample", *prompt.item, j).random(length) for j in range(samples)])

    def _guide(self, policy: str, steering: Steering) -> Guide:
        if not self._blocks[policy]:
            raise ValueError(
                f"policy {policy!r} writes no state and action blocks, so there is nothing to steer; leave `steering` "
                f"empty for it, or take a policy that was trained with blocks"
            )
        if self._guided is None or self._guided[0] != steering:
            end, size = self._tokenizer.eos_token_id, self._model.config.vocab_size
            self._guided = steering, Guide(self._vocabulary, steering, end, size)
        return self._guided[1]

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._tokenizer)

    def _switch(self, policy: str) -> None:
        if self._peft is not None and policy in self._peft.peft_config:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(policy, inference_mode=True)
        elif policy != self._base_name:
            loaded = sorted({self._base_name, *(self._peft.peft_config if self._peft is not None else ())})
            raise KeyError(f"policy {policy!r} is not loaded; this engine holds {', '.join(loaded)}")
        elif self._peft is not None:
            self._peft.base_model.disable_adapter_layers()


def _sample(text: str, row: Decoded) -> Sample:
    return Sample(text, len(row.tokens), Finish.STOP if row.finished else Finish.LENGTH)


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
    return [policy for policy in by_name.values() if policy.card.kind == "adapter"]


def _window(config: object) -> int:
    """Tokens the model can attend to at once; within a sliding window, sliding never begins."""
    window = getattr(config, "sliding_window", None)
    limit = config.max_position_embeddings  # type: ignore[attr-defined]
    return min(limit, window) if window else limit


def _batches(indices: Sequence[int], lengths: Sequence[int], samples: int) -> Iterator[list[int]]:
    """Prompts of like length together, longest first, within the limits of a batch."""
    batch: list[int] = []
    for index in sorted(indices, key=lambda index: (-lengths[index], index)):
        longest = lengths[batch[0]] if batch else 0
        if batch and ((len(batch) + 1) * samples > MAX_ROWS or (len(batch) + 1) * longest > MAX_PROMPT_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
