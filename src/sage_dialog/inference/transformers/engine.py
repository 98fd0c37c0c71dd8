"""The engine in this process: one base in memory, every policy an adapter on it."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from pydantic import BaseModel, Field
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.log_filters import silence_warnings
from sage_dialog.core.policies import Policy, identity
from sage_dialog.core.seeds import generator
from sage_dialog.inference.engine import FinishReason, OnText, Prompt, Sample
from sage_dialog.inference.policy_set import PolicySet
from sage_dialog.inference.transformers.decoding import decode
from sage_dialog.inference.transformers.detokenizer import IncrementalDetokenizer
from sage_dialog.inference.transformers.int8 import quantize_linear_layers
from sage_dialog.inference.transformers.memory import Footprint, batches
from sage_dialog.inference.transformers.reuse import Method, choose_method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "int8"]

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy")

MEMORY_GB = 1.0
"""Memory of a batch on a CPU, independent of free memory, because the batch decides rounding. More gains little."""

FREE_SHARE = 0.8
"""The share of a GPU's free memory that a batch may take."""


MERGED_AT_ONCE = 2
"""Merged policies in memory: those of self-play, agent and user."""


class Arguments(BaseModel, frozen=True, extra="forbid"):
    """The `args` of the catalog entry; `TransformersEngine` describes them."""

    device: Device = "auto"
    dtype: Dtype = "auto"
    merge_adapters: bool = False
    cuda_graphs: bool = True
    memory_gb: float | None = Field(None, gt=0)


class _Weights(NamedTuple):
    model: PreTrainedModel
    peft: PeftModel | None
    method: Method
    footprint: Footprint
    state: object


class TransformersEngine:
    """An `Engine` over a base and adapters that were trained on this base.

    All devices and dtypes use the same uniform numbers, so samples differ only by rounding.

    Args:
        threads: of torch on the CPU; None leaves their number to torch.
        device: "auto" takes the GPU if there is one; CUDA_VISIBLE_DEVICES selects one of several.
        dtype: of weights and activations. "auto" is float32 on a CPU and bfloat16 on a GPU. "int8", on a CPU only,
            computes linear layers in eight bits (`int8`) and the rest in float32.
        merge_adapters: adds adapters to copies of the base's weights, instead of computing both at each token. Loads
            the base again for each policy, and keeps `MERGED_AT_ONCE` of them.
        cuda_graphs: on a GPU, launches a decode step at once (`graphed_steps`), where the architecture allows it.
        memory_gb: memory in 10^9 bytes for a batch of prompts beside the weights, which decides the batch size; a
            prompt that needs more is decoded alone. None: `MEMORY_GB` on a CPU, `FREE_SHARE` of the free memory on a
            GPU.

    Raises:
        ValueError: if an argument is invalid, the policies do not belong together (`PolicySet`), or there is no GPU
            for "cuda"; by `sample`, if the architecture of the base cannot be sampled, or logits are not finite.
    """

    arguments = Arguments

    def __init__(
        self,
        base: Policy,
        policies: Sequence[Policy],
        seed: int,
        threads: int | None = None,
        device: Device = "auto",
        memory_gb: float | None = None,
        dtype: Dtype = "auto",
        merge_adapters: bool = False,
        cuda_graphs: bool = True,
    ) -> None:
        Arguments(
            device=device, dtype=dtype, merge_adapters=merge_adapters, cuda_graphs=cuda_graphs, memory_gb=memory_gb
        )
        if threads is not None:
            torch.set_num_threads(threads)
        disable_progress_bar()  # of loading weights; self-play has its own
        silence_warnings()
        self._policies = PolicySet(base, policies)
        self._seed = seed
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"device is cuda, but torch {torch.__version__} finds no GPU; install a torch with CUDA, or set "
                f"device: auto or cpu (`args` of the entry `engine` in conf/*/catalog_generation.yml)"
            )
        self._device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        if dtype == "int8" and self._device.type != "cpu":
            raise ValueError(
                "dtype is int8, which needs the CPU; set device: cpu or dtype: bfloat16 (`args` of the entry `engine` "
                "in conf/*/catalog_generation.yml)"
            )
        on_device: Dtype = "float32" if self._device.type == "cpu" else "bfloat16"
        self._dtype: Dtype = on_device if dtype == "auto" else dtype
        self._merge_adapters = merge_adapters
        self._cuda_graphs = cuda_graphs and self._device.type == "cuda"
        self._memory_gb = memory_gb
        self._loaded: dict[str, _Weights] = {}  # the least recently sampled first
        self._active = base.name

    @property
    def _weights(self) -> _Weights:
        if self._active not in self._loaded:
            while len(self._loaded) >= MERGED_AT_ONCE:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[self._active] = self._load()
        return self._loaded[self._active]

    def _load(self) -> _Weights:
        on_gpu = {"device_map": {"": self._device}}
        model = AutoModelForCausalLM.from_pretrained(
            self._policies.base.path,
            dtype=torch.bfloat16 if self._dtype == "bfloat16" else torch.float32,
            use_safetensors=True,
            # "eager" is transformers' fastest way on a CPU to run mixture-of-experts layers.
            **({"experts_implementation": "eager"} if self._device.type == "cpu" else on_gpu),
        ).eval()
        base = self._policies.base
        where = f"policy {base.name!r} at {base.path}"
        method = choose_method(model, self._policies.window, where, self._cuda_graphs)
        peft: PeftModel | None = None
        for name, policy in self._policies.adapters.items():
            if self._merge_adapters and name != self._active:
                continue
            if peft is None:
                peft = PeftModel.from_pretrained(model, policy.path, name, autocast_adapter_dtype=False)
            else:
                peft.load_adapter(policy.path, name, autocast_adapter_dtype=False)
        if self._merge_adapters and peft is not None:
            model, peft = peft.merge_and_unload().eval(), None
        if self._dtype == "int8":
            quantize_linear_layers(model)
            self._check_int8(model)
        return _Weights(model, peft, method, Footprint.of(model, method.shared_prefix), _state(model))

    def _check_int8(self, model: PreTrainedModel) -> None:
        """Raise ValueError if a layer of the architecture reads the weights of its linear layers itself."""
        try:
            with torch.inference_mode():
                model(input_ids=torch.tensor([[0, 1]]))
        except AttributeError as error:
            base = self._policies.base
            raise ValueError(
                f"dtype is int8, which does not fit {type(model).__name__}, the architecture of policy "
                f"{base.name!r} at {base.path} ({error}); set dtype: float32 (`args` of the entry `engine` in "
                "conf/*/catalog_generation.yml)"
            ) from None

    @property
    def _model(self) -> PreTrainedModel:
        return self._weights.model

    @property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        return {
            "engine": "transformers",
            "base": identity(self._policies.base),
            "device": self._device.type,
            "gpu": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else None,
            "dtype": self._dtype,
            "merge_adapters": self._merge_adapters,
            "cuda_graphs": self._cuda_graphs,
            "threads": torch.get_num_threads(),
            "memory_gb": self._memory_gb,
            **{library: version(library) for library in LIBRARIES},
        }

    @property
    def window(self) -> int:
        return self._policies.window

    def prompt_tokens(self, prompt: Prompt) -> int:
        return len(self._policies.tokens(prompt))

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: OnText | None = None,
    ) -> list[list[Sample]]:
        """Sample as `Engine.sample` does. The engine remains usable after an exception, also one of `on_text`."""
        self._switch(policy)
        guide = self._policies.guide(policy, steering, sampling)
        tokens = [self._policies.tokens(prompt) for prompt in prompts]
        new = sampling.max_new_tokens
        method, footprint = self._weights.method, self._weights.footprint
        branching = method.branching and self._device.type == "cpu"  # a GPU would wait at each token
        room = (self._policies.window if method.shared_prefix else self._policies.positions) - new
        lengths = {index: len(prompt) for index, prompt in enumerate(tokens) if len(prompt) <= room}
        replies: list[list[Sample]] = [[] for _ in prompts]
        try:
            budget = self._memory_budget if method.together else 0
            pending = deque(batches(lengths, samples, new, footprint, budget))
            while pending:
                batch = pending.popleft()
                draws = np.array(
                    [
                        [generator(self._seed, "sample", *prompts[index].item, j).random(new) for j in range(samples)]
                        for index in batch
                    ]
                )
                on_token = None
                if on_text is not None and 0 in batch:
                    detokenizer = IncrementalDetokenizer(self._policies.tokenizer, on_text)
                    on_token = batch.index(0), detokenizer.add
                end = self._policies.tokenizer.eos_token_id
                texts = [tokens[index] for index in batch]
                try:
                    decoded = decode(self._model, texts, draws, sampling, end, guide, on_token, method.start, branching)
                except torch.OutOfMemoryError:
                    if len(batch) == 1 or on_token is not None:
                        raise
                    decoded = None
                if decoded is None:  # outside of `except`: the error holds the frames, and they hold the tensors
                    logger.warning("no memory for %d prompts at once; going on with half of them", len(batch))
                    half = len(batch) // 2
                    pending.extendleft((batch[half:], batch[:half]))
                    torch.cuda.empty_cache()
                    self._discard_if_changed()
                    self._switch(policy)
                    continue
                if on_token is not None:
                    detokenizer.end()
                for index, rows in zip(batch, decoded, strict=True):
                    for row in rows:
                        if not math.isfinite(row.log_probability):
                            raise ValueError(self._not_finite(policy, prompts[index]))
                        finish = FinishReason.STOP if row.finished else FinishReason.LENGTH
                        text = self._policies.text(row.tokens)
                        replies[index].append(Sample(text, len(row.tokens), finish, row.log_probability))
        except BaseException:
            self._discard_if_changed()
            raise
        return replies

    def _discard_if_changed(self) -> None:
        """Load the weights again at the next use if an interrupted adapter left changes on the base."""
        if _state(self._model) != self._weights.state:
            del self._loaded[self._active]

    def _not_finite(self, policy: str, prompt: Prompt) -> str:
        path = self._policies.policy(policy).path
        return (
            f"policy {policy!r} at {path} gives logits that are not finite (NaN or infinity) for the prompt "
            f"{'/'.join(map(str, prompt.item))}: its weights are damaged, or its numbers overflow in "
            f"{self._dtype}. Look at training_log_{policy}; train it again, with a smaller "
            "learning rate if the loss rose"
        )

    def _switch(self, policy: str) -> None:
        as_base = self._policies.policy(policy) is self._policies.base
        if self._merge_adapters:
            self._active = policy
            if policy in self._loaded:
                self._loaded[policy] = self._loaded.pop(policy)
        peft = self._weights.peft
        if peft is not None and as_base:
            peft.base_model.disable_adapter_layers()
        elif peft is not None:
            peft.base_model.enable_adapter_layers()
            peft.set_adapter(policy, inference_mode=True)

    @property
    def _memory_budget(self) -> int:
        """Bytes for a batch."""
        if self._memory_gb is not None or self._device.type == "cpu":
            return int(1e9 * (MEMORY_GB if self._memory_gb is None else self._memory_gb))
        free, _ = torch.cuda.mem_get_info(self._device)
        reusable = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(FREE_SHARE * (free + reusable))


def _state(model: torch.nn.Module) -> object:
    """Return what an interrupted forward pass could leave changed: the addresses of a model's tensors, its hooks."""
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    return hooks, {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
