"""Measure the candidates per second of an agent turn: our engine against the published design, on the same model.

    python benchmarks/rollout.py [--model mixtral|llama|both] [--threads 2]
    python benchmarks/rollout.py --quick       # under 50 seconds: the Mixtral, 8 dialogues
    python benchmarks/rollout.py --device cuda --size 1b

    sequential   one dialogue at a time, transformers' generate with num_return_sequences=16
    ours, N      TransformersEngine: N dialogues in lock-step, each prompt's keys and values kept once
    bare, N      the forward passes alone that ours needs for N dialogues, without sampling

A random model of about 15 million or a billion parameters, prompts of 400 tokens, 48 new tokens, 16 candidates, the
paper's sampling (temperature 1.1, top-k 100, repetition penalty 1.1). The sides alternate; figures are medians. The
times of sequential and ours include the tokenization of the prompts. On a CPU, both sides compute in float32 and run
experts one by one ("eager"), the fastest implementation of transformers there; on a GPU in bfloat16, with the default
implementation of experts, and up to 64 dialogues.

Goal: on the Mixtral, ours at least 5 times sequential with 16 dialogues. The last line is one JSON object:
`speedup_vs_sequential` (ours with 16 dialogues, or 8 under --quick), `share_of_bare_decode` (ours against bare at the
batch size at which ours is fastest), both of the Mixtral where both models are run, and all measurements.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the Mixtral alone, 8 dialogues")
    parser.add_argument("--model", choices=("mixtral", "llama", "both"), default="both")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=("15m", "1b"), default="15m", help="parameters of the model")
    options = parser.parse_args()
    names = ["mixtral"] if options.quick else ["mixtral", "llama"] if options.model == "both" else [options.model]
    figures_by_model = {
        name: measure(name, options.size, options.device, options.threads, options.quick) for name in names
    }
    reported = figures_by_model.get("mixtral") or figures_by_model[names[0]]
    figures = {key: reported[key] for key in ("speedup_vs_sequential", "share_of_bare_decode")}
    print(json.dumps({**vars(options), **figures, "models": figures_by_model}))


def measure(name: str, size: str, device: str, threads: int, quick: bool) -> dict[str, Any]:
    import torch
    from transformers import AutoTokenizer

    from sage_dialog.config import SamplingConfig
    from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
    from sage_dialog.inference.engine import Prompt
    from sage_dialog.inference.transformers.engine import TransformersEngine

    torch.set_num_threads(threads)
    sampling = SamplingConfig.from_base(temperature=1.1, top_k=100, repetition_penalty=1.1, max_new_tokens=NEW)
    draw = random.Random(0)
    words = [f"w{number}" for number in range(SHAPES[name, size]["vocab_size"] - 3)]

    def prompts(number: int) -> list[Prompt]:
        texts = [" ".join(draw.choice(words) for _ in range(PROMPT - 2)) for _ in range(number)]
        return [Prompt(({"role": "user", "content": text},), ("benchmark", index)) for index, text in enumerate(texts)]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        parameters = _save_model(name, SHAPES[name, size], words, torch.bfloat16 if device == "cuda" else None, path)
        policy = Policy.write_card(path, PolicyCard("base", "base", False, "base", weights_revision(path)))
        engine = TransformersEngine(policy, [], seed=0, threads=threads, device=device)
        plain, tokenizer = _load_plain(path, device), AutoTokenizer.from_pretrained(path)
        sizes = (8,) if quick else (1, 4, DIALOGUES, 64) if device == "cuda" else (1, 4, DIALOGUES)
        sides: dict[str, Callable[[], int]] = {
            "sequential": partial(_sequential, plain, tokenizer, *prompts(1), sampling)
        }
        for number in sizes:
            batch = prompts(number)
            sides[f"ours, {number}"] = partial(_ours, engine, batch, sampling)
            tokens = [engine._policies.tokens(prompt) for prompt in batch]
            sides[f"bare, {number}"] = partial(_bare, engine._model, tokens)
        rates: dict[str, list[float]] = {side: [] for side in sides}

        def measure_rate(work: Callable[[], int]) -> float:
            start = time.perf_counter()
            candidates = work()
            if device == "cuda":
                torch.cuda.synchronize()
            return candidates / (time.perf_counter() - start)

        for repeat in range(3):
            for side, work in sides.items():
                if repeat == 0 and not quick:
                    measure_rate(work)  # warm-up
                rates[side].append(measure_rate(work))
    medians = {side: statistics.median(values) for side, values in rates.items()}
    best = max(sizes, key=lambda number: medians[f"ours, {number}"])
    compared = DIALOGUES if DIALOGUES in sizes else max(sizes)
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"{threads} threads"
    print(f"\n{name}, {parameters / 1e6:.1f} M parameters, {hardware}: candidates a second")
    for side, rate in medians.items():
        print(f"  {side:<12}{rate:8.1f}   {rate / medians['sequential']:5.2f} times sequential")
    return {
        "parameters": parameters,
        "where": hardware,
        "speedup_vs_sequential": round(medians[f"ours, {compared}"] / medians["sequential"], 2),
        "share_of_bare_decode": round(medians[f"ours, {best}"] / medians[f"bare, {best}"], 3),
        "candidates_per_s": {side: round(rate, 2) for side, rate in medians.items()},
    }


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


def _ours(engine: Any, prompts: list[Any], sampling: Any) -> int:
    replies = engine.sample("base", prompts, sampling, CANDIDATES)
    assert all(len(samples) == CANDIDATES for samples in replies)
    return len(prompts) * CANDIDATES


def _bare(model: Any, prompts: list[list[int]]) -> int:
    """Run the prefill and one forward pass per token for all rows, with our attention and cache, without sampling."""
    import torch
    from transformers.cache_utils import Cache

    from sage_dialog.inference.transformers.decoding import _prefill
    from sage_dialog.inference.transformers.shared_prefix import ReservedLayer

    with torch.inference_mode():
        _, prefix, lengths = _prefill(model, prompts, CANDIDATES)
        positions = lengths.repeat_interleave(CANDIDATES)[:, None]
        token = torch.full((len(prompts) * CANDIDATES, 1), 5, device=positions.device)
        cache = Cache(layers=[ReservedLayer(NEW) for _ in prefix.layers])
        for step in range(NEW - 1):
            model(input_ids=token, position_ids=positions + step, past_key_values=cache, use_cache=True, prefix=prefix)
    return len(prompts) * CANDIDATES


def _load_plain(path: Path, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    on_cpu = {"dtype": torch.float32, "experts_implementation": "eager"}
    settings = on_cpu if device == "cpu" else {"dtype": torch.bfloat16}
    return AutoModelForCausalLM.from_pretrained(path, **settings).to(device).eval()


def _save_model(name: str, shape: dict[str, int], words: list[str], dtype: Any, path: Path) -> int:
    """Save a random model with a word tokenizer and return its number of parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
        PreTrainedTokenizerFast,
    )

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
    with torch.no_grad():  # never the end token: each reply has NEW tokens on every side
        model.lm_head.weight[0] = 0.0
    model.to(dtype or torch.float32).save_pretrained(path)
    return sum(weights.numel() for weights in model.parameters())


if __name__ == "__main__":
    main()
