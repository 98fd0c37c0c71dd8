"""Measure policies of a finished run on held-out conversations of people, and the speed of their training.

    python benchmarks/reference.py --data data/real            # after `make real`
    python benchmarks/reference.py --data data/real --quick    # within 50 seconds on two free cores: few dialogues

The folder holds the policies sage_0, sage_1_plain and sage_1, and the tables corpus_dialogues, text_duplicates and
sft_conversations of a run on a labelled corpus. Measures are those of the pipeline `reference` (docs/reference.md):
bits per byte of human replies, sage_1 with its chain summed out against sage_1_plain, with an interval over dialogues;
the user's emotion beside TF-IDF with logistic regression, and the strategy of the reply beside the most common one.
--quick takes the first exchanges of a few dialogues, from which nothing but the working of it all can be concluded.

The speed is that of SFT in training tokens per CPU second, against a bare PyTorch loop on the same batches: LoRA on all
layers, logits only where there are labels, AdamW. Goal: `tokens_per_s_ratio` at least 0.9. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from sage_dialog.config import FineTuning, LoraSettings, Reference
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, from_rows, to_rows

PROJECT = Path(__file__).resolve().parents[1]
NAMES = ("sage_0", "sage_1_plain", "sage_1")
TABLES = {
    "corpus_dialogues": "02_intermediate",
    "text_duplicates": "02_intermediate",
    "sft_conversations": "05_model_input",
}
QUICK = {"dialogues": 3, "replies_per_dialogue": 1, "max_turns": 4, "chain_share": 0.5, "replicates": 1000}
LORA = {"r": 16, "alpha": 32, "dropout": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SAGE_DATA", PROJECT / "data/real")))
    parser.add_argument("--split", choices=("valid", "test"), default="valid")
    parser.add_argument("--dialogues", type=int, default=100)
    parser.add_argument("--replies", type=int, default=4, help="scored replies of a dialogue")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    missing = [name for name in NAMES if not _versions(options.data / "06_models" / name)]
    missing += [name for name, layer in TABLES.items() if not _versions(options.data / layer / f"{name}.parquet")]
    if missing:
        parser.error(
            f"{options.data} holds no {', '.join(missing)}; run `make real` first, or name the data folder of a "
            "finished run by --data"
        )
    begin = time.perf_counter()
    tables = {name: _table(options.data / layer / f"{name}.parquet") for name, layer in TABLES.items()}
    policies = {name: Policy.open(_versions(options.data / "06_models" / name)[-1] / name) for name in NAMES}
    if tables["corpus_dialogues"].empty:
        parser.error(f"corpus_dialogues in {options.data} is empty; name a run on a labelled corpus (docs/corpora.md)")
    sizes: dict[str, Any] = {"dialogues": options.dialogues, "replies_per_dialogue": options.replies}
    config = Reference.from_base(split=options.split, **(QUICK if options.quick else sizes))
    found = {"quick": options.quick, "threads": options.threads, **measure(policies, tables, config, options)}
    rows = tables["sft_conversations"]
    found |= training_speed(policies["sage_0"], rows, 3 if options.quick else 24, options.threads)
    print(json.dumps(found | {"wall_s": round(time.perf_counter() - begin, 1)}))


def measure(
    policies: dict[str, Policy], tables: dict[str, DataFrame], config: Reference, options: argparse.Namespace
) -> dict[str, Any]:
    """Print the figures of bits and labels, and return those of the last line."""
    from sage_dialog.config import SacAugmentation
    from sage_dialog.core.log_filters import silence_libraries
    from sage_dialog.evaluation.reference.baselines import baseline_labels
    from sage_dialog.evaluation.reference.chain_set import training_chains
    from sage_dialog.evaluation.reference.items import reference_items
    from sage_dialog.evaluation.reference.likelihoods import score_policies
    from sage_dialog.evaluation.reference.results import reference_results
    from sage_dialog.schemas import REFERENCE_REPLIES
    from sage_dialog.training_data.annotation import training_dialogues

    silence_libraries()
    dialogues, conversations = tables["corpus_dialogues"], tables["sft_conversations"]
    opened = any(messages[1 if messages[0]["role"] == "system" else 0]["role"] == "assistant"
                 for messages in conversations.loc[conversations["source"] == "listener", "messages"])  # fmt: skip
    items = reference_items(dialogues, config, 0, opened)
    prompt = SacAugmentation.from_base().system_prompts.get("listener")
    chains = training_chains(conversations, ["listener"])
    with tempfile.TemporaryDirectory() as scratch:
        likelihoods, labels, _ = score_policies(
            policies["sage_0"], policies, items, chains, prompt, config, 0, options.threads, Path(scratch)
        )
    removed = tables["text_duplicates"]
    training = training_dialogues(dialogues, set(removed.loc[removed["removed"], "dialogue_id"]))
    if options.quick:
        training = training.groupby("corpus", group_keys=False).head(150)
    baselines = baseline_labels(items, training, config)
    replies = from_rows([], REFERENCE_REPLIES)
    results = to_rows(reference_results(likelihoods, labels, baselines, items, replies, config, 0))
    for row in results:
        if row["against"] is None:
            interval = "" if row["low"] is None else f"  {row['low']:.3f} to {row['high']:.3f}"
            what = f"{row['measure']} {row['policy']} {row['condition'] or ''}"
            print(
                f"  {row['corpus']}: {what:<48}{row['value']:8.3f}{interval}  n = {row['n']}, {row['estimate'] or ''}"
            )

    def value(measure: str, policy: str) -> float | None:
        of = [row for row in results if (row["measure"], row["policy"], row["against"]) == (measure, policy, None)]
        return round(of[0]["value"], 4) if of else None

    pair = [row for row in results if row["measure"] == "bits_per_byte" and row["against"] == "sage_1_plain"]
    strategy = [row for row in results if (row["measure"], row["against"]) == ("strategy_accuracy", "majority")]
    return {
        "replies": int(items["scored"].sum()),
        "chain_minus_plain_bpb": round(pair[0]["difference"], 4),
        "chain_minus_plain_bpb_interval": [round(pair[0][f"difference_{end}"], 4) for end in ("low", "high")],
        "chain_minus_plain_p": round(pair[0]["p_value"], 4),
        "emotion_top1": value("emotion_accuracy", "sage_1"),
        "tfidf_top1": value("emotion_accuracy", "tfidf"),
        "strategy_accuracy": value("strategy_accuracy", "sage_1"),
        "majority_accuracy": value("strategy_accuracy", "majority"),
        "strategy_p": round(strategy[0]["p_value"], 4) if strategy else None,
    }


def training_speed(base: Policy, conversations: DataFrame, rows: int, threads: int) -> dict[str, Any]:
    """Return training tokens per CPU second of SFT and of a bare loop, on the first messages of conversations."""
    import torch
    from trl import SFTTrainer

    from sage_dialog.schemas import SFT_CONVERSATIONS
    from sage_dialog.training.sft import fine_tune

    torch.set_num_threads(threads)
    short = [{**row, "messages": row["messages"][:5]} for row in to_rows(conversations.head(rows))]
    table = from_rows(short, SFT_CONVERSATIONS)
    config = FineTuning.from_base(
        learning_rate=5e-4, batch_size=1, epochs=1.0, max_length=2048, logits_at_labels_only=True
    )
    lora = LoraSettings.from_base(**LORA)
    counted = {"tokens": 0, "cpu_s": 0.0}
    train, step = SFTTrainer.train, SFTTrainer.training_step

    def counted_step(trainer: Any, model: Any, inputs: Any, *more: Any) -> Any:
        counted["tokens"] += int(inputs["attention_mask"].sum())
        return step(trainer, model, inputs, *more)

    def timed_train(trainer: Any, *arguments: Any, **named: Any) -> Any:
        start = time.process_time()
        done = train(trainer, *arguments, **named)
        counted["cpu_s"] += time.process_time() - start
        return done

    SFTTrainer.train, SFTTrainer.training_step = timed_train, counted_step
    try:
        with tempfile.TemporaryDirectory() as scratch:
            fine_tune("speed", base, None, table, config, lora, 0, Path(scratch), blocks=True, threads=threads)
    finally:
        SFTTrainer.train, SFTTrainer.training_step = train, step
    bare_tokens, bare_s = bare_loop(base, short, lora, config)
    assert bare_tokens == counted["tokens"], "both train on the same tokens"
    ours, bare = counted["tokens"] / counted["cpu_s"], bare_tokens / bare_s
    print(f"  SFT: {ours:.0f} training tokens per CPU second; a bare PyTorch loop {bare:.0f}")
    return {
        "tokens_per_s": round(ours, 1),
        "bare_tokens_per_s": round(bare, 1),
        "tokens_per_s_ratio": round(ours / bare, 3),
    }


def bare_loop(base: Policy, rows: list[dict[str, Any]], lora: LoraSettings, config: FineTuning) -> tuple[int, float]:
    """Train an adapter on the rows one by one; return the number of tokens and the CPU seconds."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    from sage_dialog.inference.chat_format import load_tokenizer
    from sage_dialog.training.chat_templates import encode_conversation, training_format

    chat = training_format(load_tokenizer(base.path))
    examples = [example for row in rows for example in encode_conversation(chat, row["messages"])]
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    adapter = get_peft_model(
        model, LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    ).train()
    optimizer = torch.optim.AdamW([each for each in adapter.parameters() if each.requires_grad], config.learning_rate)
    inner = adapter.get_base_model()
    tokens, start = 0, time.process_time()
    for example in examples:
        ids, labels = (torch.tensor([example[name]]) for name in ("input_ids", "labels"))
        hidden = inner.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        kept = labels[:, 1:] != -100
        loss = cross_entropy(inner.lm_head(hidden[kept]), labels[:, 1:][kept])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        tokens += ids.numel()
    return tokens, time.process_time() - start


def _versions(folder: Path) -> list[Path]:
    """Return the folders of the versions of an entry, the oldest first."""
    return sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))


def _table(folder: Path) -> DataFrame:
    import pandas as pd

    return pd.read_parquet(_versions(folder)[-1] / folder.name, dtype_backend="pyarrow")


if __name__ == "__main__":
    main()
