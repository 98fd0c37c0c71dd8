"""Bits of human replies under each policy, and the labels that a policy predicts, dialogue by dialogue.

A policy that writes blocks reads its own earlier messages with blocks. For the marginal likelihood these hold no label
of a person: each earlier reply carries the chain that the policy itself finds the most probable for it, given what was
said up to then. That chain is a function of the past, so the probabilities of replies remain those of one distribution.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from peft import PeftModel
from tqdm import tqdm
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from sage_dialog.config import Reference
from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.core.hashing import fingerprint
from sage_dialog.core.log_filters import silence_warnings
from sage_dialog.core.policies import Policy, identity
from sage_dialog.core.recipe import Arm
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.evaluation.reference.chain_set import (
    ChainSet,
    Labels,
    arm_of,
    blocks_text,
    chain_set,
    in_arm,
)
from sage_dialog.evaluation.reference.encoding import ReplyEncoder
from sage_dialog.evaluation.reference.marginal import EXACT, ChainScorer, Distributions
from sage_dialog.evaluation.reference.token_tree import Scorer, choose_scorer
from sage_dialog.inference.policy_set import PolicySet
from sage_dialog.sac import Chain
from sage_dialog.schemas import REFERENCE_CHAINS, REFERENCE_LABELS, REFERENCE_LIKELIHOODS
from sage_dialog.training_data.arms import chain_of_arm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy", "scipy")
SOURCES = ("evaluation/reference", "inference/chat_format.py", "sac")
"""Code that decides the numbers."""

LABEL_FIELDS = ("u_emotion", "a_motivation")
"""Fields whose prediction is compared with a person's label."""

MAX_TOO_LONG = 0.05
"""Share of the scored replies that may be longer than a policy's context."""

PLAIN, MARGINAL, GOLD, SHUFFLED = "plain", "marginal", "gold", "shuffled"
"""Conditions: without a chain; summed over chains; behind the labels of people; behind those of another dialogue."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What scores the dialogues of one policy.

    Attributes:
        chains: those of its training; None of a policy without blocks.
    """

    policy: str
    scorer: ChainScorer
    chains: ChainSet | None
    arm: Arm
    system_prompt: str | None
    seed: int


def score_policies(
    base: Policy,
    policies: Mapping[str, Policy],
    items: DataFrame,
    training: Sequence[Chain],
    system_prompt: str | None,
    config: Reference,
    seed: int,
    threads: int | None,
    scratch: Path,
) -> tuple[DataFrame, DataFrame, DataFrame]:
    """Return likelihoods, predicted labels and inferred chains of policies on the scored replies.

    Finished dialogues are kept in `scratch`, and an interrupted run goes on with the others.

    Args:
        items: schemas.REFERENCE_ITEMS.
        training: chains of the training conversations with the whole chain.

    Returns:
        Tables of `schemas.REFERENCE_LIKELIHOODS`, `REFERENCE_LABELS` and `REFERENCE_CHAINS`.

    Raises:
        InputDataError: if there is no training chain for a policy with blocks, or more than a few replies do not fit
            the context of the base.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    disable_progress_bar()
    silence_warnings()
    chosen = PolicySet(base, [policies[name] for name in config.policies])
    rows = to_rows(items)
    by_id = {row["item_id"]: row for row in rows}
    dialogues = [list(of_dialogue) for _, of_dialogue in groupby(rows, key=lambda row: row["dialogue_id"])]
    found: dict[str, list[Row]] = {"likelihoods": [], "labels": [], "chains": []}
    for name in config.policies:
        policy = policies[name]
        arm = arm_of(name)
        chains = chains_of_policy(policy, arm, training) if policy.card.blocks else None
        decisive = {
            "base": identity(base),
            "policy": identity(policy),
            "items": rows,
            "chains": None if chains is None else {field: list(values) for field, values in chains.values.items()},
            "system_prompt": system_prompt,
            "parameters": config.model_dump(include={"max_chains", "chain_share", "samples"}),
            "seed": seed,
            "threads": torch.get_num_threads(),
            "device": str(_device()),
            "libraries": {library: version(library) for library in LIBRARIES},
        }
        folder = scratch / "reference" / name / fingerprint(decisive, *SOURCES)
        files = [folder / f"dialogue-{number:05d}.json" for number in range(len(dialogues))]
        missing = [place for place, file in enumerate(files) if not file.is_file()]
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            setting = _open(chosen, policy, name, arm, chains, system_prompt, config, seed)
            progress = tqdm(
                total=sum(row["scored"] for row in rows),
                initial=sum(row["scored"] for place in set(range(len(files))) - {*missing} for row in dialogues[place]),
                desc=f"replies under {name}",
                unit="reply",
                smoothing=0,
            )
            with progress:
                for place in missing:
                    result = score_dialogue(setting, dialogues[place], by_id)
                    with FileLock(folder / "lock"), atomic_file(files[place]) as partial:
                        partial.write_text(json.dumps(result), "utf-8")
                    progress.update(sum(row["scored"] for row in dialogues[place]))
            del setting
        for file in files:
            for kind, of_dialogue in json.loads(file.read_text("utf-8")).items():
                found[kind] += of_dialogue
    likelihoods = from_rows(found["likelihoods"], REFERENCE_LIKELIHOODS)
    _check_lengths(likelihoods, items, config.policies, chosen.window)
    return likelihoods, from_rows(found["labels"], REFERENCE_LABELS), from_rows(found["chains"], REFERENCE_CHAINS)


def chains_of_policy(policy: Policy, arm: Arm, training: Sequence[Chain]) -> ChainSet:
    """Return the chains that a policy with blocks knows from its training.

    Raises:
        InputDataError: if the training conversations have none.
    """
    if not training:
        raise InputDataError(
            f"{policy.name} writes blocks, and no conversation of sft_conversations from a source of the kind "
            "`listener` has any; make it again by kedro run --pipelines sac_augmentation"
        )
    return chain_set(chain_of_arm(chain, arm) for chain in training)


def score_dialogue(setting: Setting, rows: Sequence[Row], by_id: Mapping[str, Row]) -> dict[str, list[Row]]:
    """Return the rows of the tables for one dialogue.

    Args:
        rows: its replies in their order (schemas.REFERENCE_ITEMS), up to the last scored one.
        by_id: all items, for the donors of shuffled chains.
    """
    setting.scorer.scorer.forget()
    found: dict[str, list[Row]] = {"likelihoods": [], "labels": [], "chains": []}
    if setting.chains is None:
        for row in rows:
            if row["scored"]:
                value = setting.scorer.plain(_messages(setting, row, {}), row["reply"])
                if value is not None:
                    found["likelihoods"].append(_likelihood(setting, row, PLAIN, value, 0, None, EXACT))
        return found
    _score_marginal(setting, rows, found)
    _score_given(setting, rows, by_id, found)
    return found


def _score_marginal(setting: Setting, rows: Sequence[Row], found: dict[str, list[Row]]) -> None:
    assert setting.chains is not None
    written: dict[int, str] = {}  # earlier replies with the chain that the policy infers, by turn
    for row in rows:
        chains = setting.chains if row["history"] else setting.chains.opening()
        random = generator(setting.seed, "sampled chains", row["item_id"])
        history = _messages(setting, row, written)
        marginal = setting.scorer.marginal(history, row["reply"], chains, random, fully=row["scored"])
        if marginal is None:  # and all that follow are longer
            return
        blocks = blocks_text(marginal.best)
        written[row["turn"]] = blocks + row["reply"]
        found["chains"].append({"item_id": row["item_id"], "policy": setting.policy, "chain": blocks.strip()})
        if row["scored"]:
            found["likelihoods"].append(
                _likelihood(
                    *(setting, row, MARGINAL, marginal.log_probability, marginal.chains, marginal.mass),
                    marginal.estimate,
                )
            )
            found["labels"] += _predictions(setting.policy, row, marginal.labels)


def _score_given(setting: Setting, rows: Sequence[Row], by_id: Mapping[str, Row], found: dict[str, list[Row]]) -> None:
    gold = {row["turn"]: in_arm(gold_labels(row), setting.arm) for row in rows}
    written = {row["turn"]: blocks_text(gold[row["turn"]]) + row["reply"] for row in rows}
    setting.scorer.scorer.forget()
    for row in rows:
        if not row["scored"]:
            continue
        chains = {GOLD: gold[row["turn"]]}
        if row["donor"] is not None:
            chains[SHUFFLED] = in_arm(gold_labels(by_id[row["donor"]]), setting.arm)
        values = setting.scorer.given(_messages(setting, row, written), list(chains.values()), row["reply"])
        if values is None:
            return
        for condition, (of_chain, of_reply) in zip(chains, values, strict=True):
            found["likelihoods"].append(
                _likelihood(setting, row, condition, of_reply, 1, min(1.0, math.exp(of_chain)), EXACT)
            )


def gold_labels(row: Mapping[str, Any]) -> Labels:
    """Return the labels that people gave, of a row of schemas.REFERENCE_ITEMS."""
    values: list[Any] = []
    for prefix in ("u", "a"):
        values += [row[f"{prefix}_motivation"], row[f"{prefix}_emotion"], tuple(row[f"{prefix}_topics"] or ())]
    return tuple(values)


def _messages(setting: Setting, row: Row, written: Mapping[int, str]) -> list[dict[str, str]]:
    """Return the history as the policy reads it, with its earlier messages as `written` by turn."""
    system = [{"role": "system", "content": setting.system_prompt}] if setting.system_prompt else []
    history = [
        {"role": message["role"], "content": written.get(turn, message["content"])}
        for turn, message in enumerate(row["history"])
    ]
    return [*system, *history]


def _likelihood(
    setting: Setting, row: Row, condition: str, value: float, chains: int, mass: float | None, estimate: str
) -> Row:
    return {
        **{name: row[name] for name in ("item_id", "dialogue_id", "corpus")},
        "policy": setting.policy,
        "condition": condition,
        "bits": -value / math.log(2),
        "bytes": len(row["reply"].encode()),
        "chains": chains,
        "chain_mass": mass,
        "estimate": estimate,
    }


def _predictions(policy: str, row: Row, labels: Distributions) -> Iterator[Row]:
    for field in LABEL_FIELDS:
        if row[field] is None or field not in labels:
            continue
        scores = {value: score for value, score in labels[field].items() if value is not None}
        if len(scores) > 1:
            yield prediction(policy, row, field, scores)


def prediction(policy: str, row: Mapping[str, Any], field: str, scores: Mapping[Any, float]) -> Row:
    """Return a row of `schemas.REFERENCE_LABELS` from the log-probabilities of labels, up to a constant."""
    order = sorted(scores, key=lambda value: (-scores[value], str(value)))
    gold = row[field]
    top = max(scores.values())
    total = math.fsum(math.exp(score - top) for score in scores.values())
    return {
        **{name: row[name] for name in ("item_id", "dialogue_id", "corpus")},
        "policy": policy,
        "field": field,
        "gold": gold,
        "predicted": order[0],
        "rank": order.index(gold) + 1 if gold in scores else None,
        "probability": math.exp(scores[gold] - top) / total if gold in scores else 0.0,
    }


def _open(
    chosen: PolicySet,
    policy: Policy,
    name: str,
    arm: Arm,
    chains: ChainSet | None,
    system_prompt: str | None,
    config: Reference,
    seed: int,
) -> Setting:
    scorer: Scorer = choose_scorer(load_model(chosen.base, policy), name)
    of_chains = ChainScorer(
        ReplyEncoder(chosen.tokenizer), scorer, config.max_chains, config.chain_share, config.samples, chosen.window
    )
    if chains is not None:
        logger.info(
            "%s knows %d chains of %s: %s",
            *(name, chains.size, ", ".join(chains.varying) or "one value each"),
            "all are summed" if chains.size <= config.max_chains else f"{config.samples} are sampled for each reply",
        )
    return Setting(name, of_chains, chains, arm, system_prompt, seed)


def load_model(base: Policy, policy: Policy) -> PreTrainedModel:
    """Return a policy in float32, its adapter merged into the weights, on a GPU where there is one."""
    on_gpu = {"device_map": {"": _device()}}
    model = AutoModelForCausalLM.from_pretrained(
        base.path,
        dtype=torch.float32,
        use_safetensors=True,
        **(on_gpu if _device().type == "cuda" else {"experts_implementation": "eager"}),
    )
    if policy.card.kind == "adapter":
        model = PeftModel.from_pretrained(model, policy.path, autocast_adapter_dtype=False).merge_and_unload()
    return model.eval()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_lengths(likelihoods: DataFrame, items: DataFrame, policies: Sequence[str], window: int) -> None:
    """Warn of replies that did not fit the context of the base; refuse to go on where they are many."""
    scored = int(items["scored"].sum())
    for policy in policies:
        counts = likelihoods[likelihoods["policy"] == policy].groupby("condition")["item_id"].nunique()
        fitting = int(counts.min()) if len(counts) else 0
        if fitting == scored:
            continue
        text = (
            f"{policy}: {scored - fitting} of {scored} replies are longer with their history than the context of the "
            f"base, {window} tokens"
        )
        if scored - fitting > MAX_TOO_LONG * scored:
            raise InputDataError(f"{text}; read less of each dialogue by reference.max_turns")
        logger.warning("%s; they are left out for all policies", text)
