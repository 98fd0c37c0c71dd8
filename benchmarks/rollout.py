"""How many candidates a second an agent turn costs: our engine against the published design, on the same model.

    python benchmarks/rollout.py [--model mixtral|llama|both] [--threads 2]
    python benchmarks/rollout.py --quick       # under 50 seconds: the Mixtral, 8 dialogues
    python benchmarks/rollout.py --device cuda --size 1b

    sequential   one dialogue at a time, transformers' generate with num_return_sequences=16
    ours, N      TransformersEngine: N dialogues in lock-step, each prompt's keys and values kept once
    bare, N      the forward passes alone that ours needs for N dialogues, nothing drawn

A random model of about 15 million parameters, or a thousand million, prompts of 400 tokens, 48 new ones, 16
candidates, the paper's sampling (temperature 1.1, top-k 100, repetition penalty 1.1). The sides run in turn; figures
are medians. The time of sequential and ours has the tokenizing of the prompts in it. On a CPU, both sides reckon in
float32 and run experts one by one ("eager"), the fastest of transformers' ways there; on a GPU in bfloat16, with
experts as transformers runs them, and up to 64 dialogues.

Goals: on the Mixtral, ours at least 5 times sequential with 16 dialogues. The last line is one JSON object:
`speedup_vs_sequential` (ours with 16 dialogues; with 8, the only batch, under --quick), `share_of_bare_decode` (ours
against bare at the batch size where ours is fastest; of the Mixtral where both are run) and what was measured.
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
"""In lock-step where ours is compared with sequential."""
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
    given = parser.parse_args()
    names = ["mixtral"] if given.quick else ["mixtral", "llama"] if given.model == "both" else [given.model]
    found = {name: measured(name, given.size, given.device, given.threads, given.quick) for name in names}
    main_one = found.get("mixtral") or found[names[0]]
    figures = {key: main_one[key] for key in ("speedup_vs_sequential", "share_of_bare_decode")}
    print(json.dumps({**vars(given), **figures, "models": found}))


def measured(name: str, size: str, device: str, threads: int, quick: bool) -> dict[str, Any]:
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
        return [Prompt(({"role": "user", "content": text},), ("benchmark", place)) for place, text in enumerate(texts)]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        parameters = _save_model(name, SHAPES[name, size], words, torch.bfloat16 if device == "cuda" else None, path)
        policy = Policy.write_card(path, PolicyCard("base", "base", False, "base", weights_revision(path)))
        engine = TransformersEngine(policy, [], seed=0, threads=threads, device=device)
        plain, tokenizer = _plain(path, device), AutoTokenizer.from_pretrained(path)
        sizes = (8,) if quick else (1, 4, DIALOGUES, 64) if device == "cuda" else (1, 4, DIALOGUES)
        sides: dict[str, Callable[[], int]] = {
            "sequential": partial(_sequential, plain, tokenizer, *prompts(1), sampling)
        }
        for number in sizes:
            asked = prompts(number)
            sides[f"ours, {number}"] = partial(_ours, engine, asked, sampling)
            tokens = [engine._policies.tokens(prompt) for prompt in asked]
            sides[f"bare, {number}"] = partial(_bare, engine._model, tokens)
        rates: dict[str, list[float]] = {side: [] for side in sides}

        def timed(work: Callable[[], int]) -> float:
            began = time.perf_counter()
            candidates = work()
            if device == "cuda":
                torch.cuda.synchronize()
            return candidates / (time.perf_counter() - began)

        for repeat in range(3):
            for side, work in sides.items():
                if repeat == 0 and not quick:
                    timed(work)  # the first time pays for what is set up once
                rates[side].append(timed(work))
    middle = {side: statistics.median(values) for side, values in rates.items()}
    best = max(sizes, key=lambda number: middle[f"ours, {number}"])
    compared = DIALOGUES if DIALOGUES in sizes else max(sizes)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{threads} threads"
    print(f"\n{name}, {parameters / 1e6:.1f} M parameters, {where}: candidates a second")
    for side, rate in middle.items():
        print(f"  {side:<12}{rate:8.1f}   {rate / middle['sequential']:5.2f} times sequential")
    return {
        "parameters": parameters,
        "where": where,
        "speedup_vs_sequential": round(middle[f"ours, {compared}"] / middle["sequential"], 2),
        "share_of_bare_decode": round(middle[f"ours, {best}"] / middle[f"bare, {best}"], 3),
        "candidates_per_s": {side: round(rate, 2) for side, rate in middle.items()},
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
    """The prefill, and one forward pass a token for all rows, with our attention and cache, and nothing else.

    The prompts are token ids.
    """
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


def _plain(path: Path, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    on_cpu = {"dtype": torch.float32, "experts_implementation": "eager"}
    ways = on_cpu if device == "cpu" else {"dtype": torch.bfloat16}
    return AutoModelForCausalLM.from_pretrained(path, **ways).to(device).eval()


def _save_model(name: str, shape: dict[str, int], words: list[str], dtype: Any, path: Path) -> int:
    """A random model with a tokenizer of words; how many parameters it has."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
        PreTrainedTokenizerFast,
    )

    vocabulary = {word: place for place, word in enumerate(["<end>", "user", "assistant", *words])}
    of_words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    of_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_words, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    special = {"max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    torch.manual_seed(0)
    if name == "mixtral":
        model = MixtralForCausalLM(MixtralConfig(**shape, **special, num_experts_per_tok=2))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape, **special))
    with torch.no_grad():  # no reply ends before its last token, so that every side writes as many
        model.lm_head.weight[0] = 0.0
    model.to(dtype or torch.float32).save_pretrained(path)
    return sum(weights.numel() for weights in model.parameters())


if __name__ == "__main__":
    main()
