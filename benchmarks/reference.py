"""Pool the reference evaluation of several seeds, and measure the speed of fine-tuning.

    python benchmarks/reference.py --store data/real    # keep the results of a finished `make real`
    python benchmarks/reference.py                      # pool all that is kept
    python benchmarks/reference.py --quick              # the same, with less for the speed: within 50 seconds

A seed draws its own training dialogues, adapters and held-out replies. What is kept of it, in
`benchmarks/results/reference/CORPUS_SEED.json`, are the bits of each reply under each policy, the labels that were
predicted, and the figures of sampled replies; no text. Pooled figures are those of docs/reference.md on the replies of
all seeds. Dialogues are their units, and a dialogue that several seeds drew is one. Kept results of other parameters
are not pooled.

The speed is that of SFT in training tokens per CPU second, on the base and the first conversations of `--data`, against
a bare PyTorch loop on the same batches: LoRA on all layers, logits only where there are labels, AdamW. Goal:
`tokens_per_s_ratio` at least 0.9. It is null where there is no such run.

The last line is one JSON object: the figures of ESConv, and those of other corpora by name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import pandas as pd
from finished_runs import (
    below,
    differences,
    latest_parameters,
    latest_policy,
    latest_table,
    latest_version,
    save_json,
)

from sage_dialog.config import FineTuning, LoraSettings, Reference
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.schemas import REFERENCE_LABELS, REFERENCE_REPLIES

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks/results/reference"
MAIN_CORPUS = "esconv"
TABLES = {
    "likelihoods": ["item_id", "dialogue_id", "policy", "condition", "bits", "bytes", "chain_mass", "estimate"],
    "labels": ["item_id", "dialogue_id", "policy", "field", "gold", "predicted", "rank"],
    "results": ["measure", "policy", "n", "value"],
}
"""What is kept of each table, in columns."""
OF_REPLIES = ("bleu_2", "rouge_l", "distinct_1", "distinct_2", "words", "invalid_share")
USED = ("sft", "reference", "sac_augmentation.mix", "sac_augmentation.system_prompts")
"""Parameters on which results depend."""
LORA = {"r": 16, "alpha": 32, "dropout": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--store", type=Path, metavar="DATA", help="data folder of a finished run to keep")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of what is kept")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SAGE_DATA", PROJECT / "data/real")))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    begin = time.perf_counter()
    if options.store:
        store(options.store, options.results)
        return
    figures = pooled_figures(kept_results(options.results))
    speed = training_speed_of(options.data, 3 if options.quick else 24, options.threads)
    main_figures = figures.pop(MAIN_CORPUS, {"reason": f"no results of {MAIN_CORPUS} in {options.results}"})
    last = {"quick": options.quick, **main_figures, **figures, "threads": options.threads, **speed}
    print(json.dumps(last | {"wall_s": round(time.perf_counter() - begin, 1)}))


def store(data: Path, folder: Path) -> None:
    """Keep the results of a finished run in `data`."""
    results = latest_table(data, "reference_results")
    likelihoods = latest_table(data, "reference_likelihoods")
    tables = {
        "likelihoods": likelihoods.assign(bits=likelihoods["bits"].round(4)),
        "labels": pd.concat([latest_table(data, f"reference_{name}") for name in ("baselines", "labels")]),
        "results": results[results["measure"].isin(OF_REPLIES) & results["against"].isna()],
    }
    sources = latest_table(data, "sft_conversations")["source"].value_counts()
    log = {name: latest_table(data, f"training_log_{name}") for name in ("sage_1", "sage_1_plain")}
    parameters = latest_parameters(data, "reference_results")
    (corpus,) = results["corpus"].unique()
    kept = {
        "corpus": corpus,
        "seed": parameters["seed"],
        "split": parameters["reference.split"],
        "conversations": {source: int(n) for source, n in sources.items()},
        "training_tokens": {name: int(rows["tokens"].max()) for name, rows in log.items()},
        "updates": {name: int(rows["step"].max()) for name, rows in log.items()},
        "parameters": below(parameters, USED),
        **{
            name: json.loads(tables[name][columns].to_json(orient="split", index=False))
            for name, columns in TABLES.items()
        },
    }
    file = folder / f"{corpus}_{parameters['seed']}.json"
    save_json(file, kept)
    print(f"kept in {file}")


def kept_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what is kept, by corpus, in the order of the seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        kept = json.loads(file.read_text())
        found.setdefault(kept["corpus"], []).append(kept)
    for corpus, seeds in found.items():
        seeds.sort(key=lambda kept: kept["seed"])
        first = seeds[0]["parameters"]
        for kept in seeds[1:]:
            two = f"seeds {seeds[0]['seed']} and {kept['seed']}"
            if changed := list(differences(first, kept["parameters"])):
                raise SystemExit(f"{corpus}: {two} are of other parameters: {'; '.join(changed)}. Remove one")
            if others := sorted(_predictors(kept) ^ _predictors(seeds[0])):
                raise SystemExit(f"{corpus}: one of {two} lacks predictions of {', '.join(others)}. Make them again")
    return found


def pooled_figures(kept: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Print the figures of each seed and of all, and return those of the last line by corpus."""
    from sage_dialog.evaluation.reference.results import reference_results

    found = {}
    policies = ["sage_0", "sage_1_plain", "sage_1"]
    config = Reference.from_base(policies=policies, pairs=[["sage_1_plain", "sage_1"], ["sage_0", "sage_1_plain"]])
    for corpus, seeds in kept.items():
        runs = {str(one["seed"]): one for one in seeds}
        by_seed = {}
        for name, chosen in [*((name, [one]) for name, one in runs.items()), ("all", list(seeds))]:
            likelihoods, labels = (_pooled(chosen, table) for table in ("likelihoods", "labels"))
            items = likelihoods[["corpus", "item_id"]].drop_duplicates("item_id").assign(reply="")  # texts are not kept
            nothing = from_rows([], REFERENCE_LABELS)
            by_seed[name] = to_rows(
                reference_results(likelihoods, labels, nothing, items, from_rows([], REFERENCE_REPLIES), config, 0)
            )
        _print_corpus(corpus, seeds, by_seed)
        found[corpus] = {"seeds": [one["seed"] for one in seeds], **_figures(by_seed["all"])}
    return found


def _pooled(seeds: Sequence[Mapping[str, Any]], table: str) -> DataFrame:
    """Return a table of all seeds; a reply that several seeds drew stands in it once for each."""
    parts = [
        pd.DataFrame(one[table]["data"], columns=one[table]["columns"]).assign(
            corpus=one["corpus"], item_id=lambda rows, one=one: rows["item_id"] + f"@{one['seed']}"
        )
        for one in seeds
    ]
    return pd.concat(parts, ignore_index=True)


def _predictors(kept: Mapping[str, Any]) -> set[str]:
    """Return the policies and baselines that predict labels; replies that one of them lacks would not be compared."""
    column = kept["labels"]["columns"].index("policy")
    return {row[column] for row in kept["labels"]["data"]}


def _print_corpus(corpus: str, seeds: Sequence[Mapping[str, Any]], results: Mapping[str, list[dict[str, Any]]]) -> None:
    print(f"\n{corpus}, {seeds[0]['split']}: figures by seed, and of all with their interval")
    for one in seeds:
        print(
            f"  seed {one['seed']}: {one['conversations']}, tokens {one['training_tokens']}, updates {one['updates']}"
        )
    keys = ("measure", "policy", "condition", "against")
    values = {name: {tuple(row[key] for key in keys): row for row in rows} for name, rows in results.items()}
    for key, row in values["all"].items():
        measure, policy, condition, against = key
        compared = against is not None
        which = "difference" if compared else "value"
        own = "".join(f"{values[name][key][which]:>9.4f}" for name in values if name != "all" and key in values[name])
        low, high = row["difference_low" if compared else "low"], row["difference_high" if compared else "high"]
        interval = "" if low is None else f" ({low:.4f} to {high:.4f})"
        p = f", p {row['p_adjusted']:.3g}" if compared else ""
        less = f" less {against} {row['against_condition'] or ''}".rstrip() if compared else ""
        mass = f", mass {row['chain_mass']:.2f}" if row["chain_mass"] is not None else ""
        what = f"{measure} {policy} {condition or ''}".rstrip() + less
        print(f"  {what:<70}{own}  all {row[which]:.4f}{interval}{p}{mass}, n {row['n']} in {row['dialogues']}")
    for one in seeds:
        rows = [dict(zip(one["results"]["columns"], row, strict=True)) for row in one["results"]["data"]]
        for measure in OF_REPLIES:
            cells = [f"{row['policy']} {row['value']:.3f}" for row in rows if row["measure"] == measure]
            if cells:
                print(f"  seed {one['seed']} {measure}: {', '.join(cells)}")


def _figures(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def value(measure: str, policy: str) -> float | None:
        of = [row for row in results if (row["measure"], row["policy"], row["against"]) == (measure, policy, None)]
        return round(of[0]["value"], 5) if of else None

    def p(measure: str, against: str) -> float | None:
        of = [row for row in results if (row["measure"], row["policy"], row["against"]) == (measure, "sage_1", against)]
        return round(of[0]["p_adjusted"], 4) if of else None

    pair = next(row for row in results if row["measure"] == "bits_per_byte" and row["against"] == "sage_1_plain")
    return {
        "replies": pair["n"],
        "dialogues": pair["dialogues"],
        "chain_minus_plain_bpb": round(pair["difference"], 4),
        "chain_minus_plain_bpb_interval": [round(pair[f"difference_{end}"], 4) for end in ("low", "high")],
        "chain_minus_plain_p": p("bits_per_byte", "sage_1_plain"),
        "emotion_top1": value("emotion_accuracy", "sage_1"),
        "tfidf_top1": value("emotion_accuracy", "tfidf"),
        "emotion_p": p("emotion_accuracy", "tfidf"),
        "tfidf_same_top1": value("emotion_accuracy", "tfidf_same"),
        "emotion_same_p": p("emotion_accuracy", "tfidf_same"),
        "strategy_accuracy": value("strategy_accuracy", "sage_1"),
        "majority_accuracy": value("strategy_accuracy", "majority"),
        "strategy_p": p("strategy_accuracy", "majority"),
    }


def training_speed_of(data: Path, rows: int, threads: int) -> dict[str, Any]:
    """Return the speeds on the base and the conversations of a run; null, with the reason, where there is none."""
    base = latest_policy(data, "sage_0")
    if not base or not latest_version(data, "sft_conversations"):
        reason = f"{data} holds no sage_0 or no sft_conversations: run `make real`, or name a run's data by --data"
        return {"tokens_per_s": None, "tokens_per_s_ratio": None, "tokens_per_s_reason": reason}
    return training_speed(base, latest_table(data, "sft_conversations"), rows, threads)


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


if __name__ == "__main__":
    main()
