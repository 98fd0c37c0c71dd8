"""Measure the speed of fine-tuning: ours against a plain SFTTrainer, on the same rows and the same model.

    python benchmarks/training.py [--rows 480] [--repeats 3] [--threads 1] [--base FOLDER]
    python benchmarks/training.py --quick       # under 50 seconds, two minutes with --base: fewer rows, once

    plain       TRL's SFTTrainer with the same hyperparameters; random order, padded to the longest row of a batch
    ours        fine_tune with group_by_length and logits_at_labels_only, its log and the adapter saved in scratch
    all logits  ours without logits_at_labels_only

A random Mixtral of about a million parameters, LoRA on all layers, batches of 8, one epoch. Lengths are even, all about
120 tokens, or skewed, log-normal (sigma 0.6) with the same mean, as in human dialogues. Half of the words are the
assistant's, as in the demo's training mix (45 %, with blocks 55 %).

With --base, a folder with a real language model such as SmolLM2-135M-Instruct: LoRA on q_proj and v_proj, batches of 4,
a fifteenth of the rows, even lengths.

Each side runs in its own process, in alternating order. The rate is tokens without padding per CPU second in
`Trainer.train`, which other work on the machine changes little. Peak memory is that of the process, libraries included.

Goals: `even_ratio` (ours to plain) at least 0.97 (no slower), `skewed_ratio` at least 1.3, and `real_ratio` (ours to
all logits) at least 1.25. The last line is one JSON object with these and what was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from sage_dialog.config import BaseModelConfig, FineTuning, LoraSettings
from sage_dialog.core.seeds import generator

MEAN, SIGMA, WORDS_A_MESSAGE = 120, 0.6, 20
CONFIG = FineTuning.from_base(
    learning_rate=1e-3, batch_size=8, max_length=1000, group_by_length=True, epochs=1.0, logits_at_labels_only=True
)
LORA = LoraSettings.from_base(r=16, alpha=32)
SIDES = {"even": ("plain", "ours"), "skewed": ("plain", "ours"), "real": ("all logits", "ours")}
REAL_ROWS = 1 / 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="96 rows, once")
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--base", type=Path, help="folder of a real language model, for real_ratio")
    options = parser.parse_args()
    kinds = [kind for kind in SIDES if kind != "real" or options.base]
    rows, repeats = (96, 1) if options.quick else (options.rows, options.repeats)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trl.trainer.sft_trainer", "peft", "pyarrow", "sage_dialog.training.sft"])
    found: dict[str, list[dict[str, float]]] = {f"{kind} {side}": [] for kind in kinds for side in SIDES[kind]}
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, maxtasksperchild=1) as pool:
        pool.apply(write_base, (folder, options.threads))
        for repeat in range(repeats):
            for kind in kinds:
                for side in SIDES[kind][:: 1 if repeat % 2 == 0 else -1]:
                    job = (folder, options.base, kind, side, rows, options.threads)
                    found[f"{kind} {side}"].append(pool.apply(train, job))
    rates = {name: statistics.median(run["tokens"] / run["cpu_s"] for run in runs) for name, runs in found.items()}
    memory = {name: max(run["peak_mb"] for run in runs) for name, runs in found.items()}
    print(f"{rows} rows, {repeats} times, {options.threads} threads    tokens/CPU s    padding    labels    peak MB")
    for name, rate in rates.items():
        shares = f"{found[name][0]['padding']:11.0%}{found[name][0]['labels']:10.0%}"
        print(f"  {name:<32}{rate:14.0f}{shares}{memory[name]:11.0f}")
    ratios = {f"{kind}_ratio": round(rates[f"{kind} ours"] / rates[f"{kind} {SIDES[kind][0]}"], 3) for kind in kinds}
    measured = {"tokens_per_cpu_s": {name: round(rate) for name, rate in rates.items()}, "peak_mb": memory}
    print(json.dumps({"quick": options.quick, "rows": rows, "threads": options.threads, **ratios, **measured}))


def write_base(folder: str, threads: int) -> None:
    """Train a base for one step; its weights make no difference to the speed."""
    from sage_dialog.microworld.base_model import train_base
    from sage_dialog.microworld.base_text import documents
    from sage_dialog.microworld.world import load_world

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    train_base(documents(load_world(), 400, 0), BaseModelConfig.from_base(steps=1), 0, Path(folder) / "base", threads)


def train(folder: str, real: Path | None, kind: str, side: str, rows: int, threads: int) -> dict[str, float]:
    """Train once, and return tokens without padding, CPU seconds, peak memory in MB, and the shares of padding among
    all positions and of labels among tokens.
    """
    import torch
    from trl import SFTTrainer

    from sage_dialog.core.hub_models import hub_base
    from sage_dialog.core.policies import Policy

    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    torch.set_num_threads(threads)
    base = hub_base(None, None, real) if real and kind == "real" else Policy.open(Path(folder) / "base")
    data = conversations(base.path, kind, math.ceil(rows * REAL_ROWS) if kind == "real" else rows)
    counts: dict[str, float] = {"tokens": 0, "all": 0, "labels": 0}
    original_train, original_step = SFTTrainer.train, SFTTrainer.training_step

    def step(trainer: Any, model: Any, inputs: Any, *more: Any) -> Any:
        counts["tokens"] += int(inputs["attention_mask"].sum())
        counts["all"] += inputs["attention_mask"].numel()
        counts["labels"] += int((inputs["labels"] != -100).sum())
        return original_step(trainer, model, inputs, *more)

    def timed_train(trainer: Any, *arguments: Any, **named: Any) -> Any:
        start = time.process_time()
        done = original_train(trainer, *arguments, **named)
        counts["cpu_s"] = time.process_time() - start
        return done

    SFTTrainer.train, SFTTrainer.training_step = timed_train, step
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if side == "plain":
            plain(base, data, Path(scratch), threads)
        else:
            ours(base, data, Path(scratch), threads, kind == "real", side == "ours")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    padding, labels = 1 - counts["tokens"] / counts["all"], counts["labels"] / counts["tokens"]
    return {**counts, "peak_mb": round(peak), "padding": padding, "labels": labels}


def ours(base: Any, rows: list[dict[str, Any]], scratch: Path, threads: int, real: bool, labels_only: bool) -> None:
    from sage_dialog.core.tables import from_rows
    from sage_dialog.schemas import SFT_CONVERSATIONS
    from sage_dialog.training.sft import fine_tune

    config = CONFIG.model_copy(update={"logits_at_labels_only": labels_only, "batch_size": 4 if real else 8})
    lora = LORA.model_copy(update={"target_modules": ("q_proj", "v_proj")} if real else {})
    table = from_rows(rows, SFT_CONVERSATIONS)
    fine_tune("sage_1", base, None, table, config, lora, 0, scratch, blocks=True, threads=threads)


def plain(base: Any, rows: list[dict[str, Any]], scratch: Path, threads: int) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(scratch), learning_rate=CONFIG.learning_rate, per_device_train_batch_size=CONFIG.batch_size,
        num_train_epochs=CONFIG.epochs, warmup_steps=CONFIG.warmup_ratio, lr_scheduler_type=CONFIG.lr_scheduler_type,
        max_length=None, assistant_only_loss=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=str(base.path),
        args=arguments,
        train_dataset=Dataset.from_list([{"messages": conversation["messages"]} for conversation in rows]),
        peft_config=LoraConfig(r=LORA.r, lora_alpha=LORA.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model()


def conversations(tokenizer: Path, kind: str, rows: int) -> list[dict[str, Any]]:
    """Return conversations with lengths drawn by kind and number; a word is one or two tokens."""
    from transformers import AutoTokenizer

    pieces = AutoTokenizer.from_pretrained(tokenizer)
    words = [
        word for word in ("you", "can", "do", "this", "today", "home", "feel", "good") if pieces.tokenize(" " + word)
    ]
    conversations = []
    for number in range(rows):
        draw = generator(0, f"benchmark {kind}", number)
        median = MEAN / math.exp(SIGMA**2 / 2) if kind == "skewed" else MEAN
        spread = draw.uniform(0.95, 1.05) if kind != "skewed" else math.exp(SIGMA * draw.standard_normal())
        left = max(8, min(900, round(median * spread)))
        messages = []
        while left > 0 or len(messages) % 2:
            size = max(2, min(left, WORDS_A_MESSAGE))
            text = " ".join(words[place] for place in draw.integers(len(words), size=size))
            messages.append({"role": "assistant" if len(messages) % 2 else "user", "content": text})
            left -= size
        conversations.append({"conversation_id": f"c{number}", "source": kind, "messages": messages})
    return conversations


if __name__ == "__main__":
    main()
