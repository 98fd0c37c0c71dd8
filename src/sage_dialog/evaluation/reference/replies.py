"""Replies that policies write where people replied, and how they compare in words."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from sage_dialog.config import Reference
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import sample_ids
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.evaluation.replies.diversity import expected_distinct
from sage_dialog.inference.candidates import parse_candidate
from sage_dialog.inference.engine import Engine, Prompt
from sage_dialog.schemas import REFERENCE_REPLIES

logger = logging.getLogger(__name__)

HUMAN = "human"
"""The row of the people who replied."""

Row = dict[str, Any]


def sample_replies(
    engine: Engine,
    policies: Mapping[str, Policy],
    items: DataFrame,
    chains: DataFrame,
    system_prompt: str | None,
    config: Reference,
    seed: int,
) -> DataFrame:
    """Return one sampled reply of each policy to the same histories, as a table of `schemas.REFERENCE_REPLIES`.

    A policy with blocks reads its earlier messages with the chains that it inferred for them. Blocks that do not parse
    stay in the text of a reply, as a user would read them.

    Args:
        items: schemas.REFERENCE_ITEMS.
        chains: schemas.REFERENCE_CHAINS.
    """
    scored = [row for row in to_rows(items) if row["scored"]]
    chosen = []
    for corpus in dict.fromkeys(row["corpus"] for row in scored):
        names = [row["item_id"] for row in scored if row["corpus"] == corpus]
        chosen += sample_ids(names, config.sampled_replies, seed, f"reference samples {corpus}")
    sampled = [row for row in scored if row["item_id"] in set(chosen)]
    rows = [_reply(row, HUMAN, row["reply"], True, None) for row in sampled]
    inferred = {(row["policy"], row["item_id"]): row["chain"] for row in to_rows(chains)}
    for name in config.policies if sampled else ():
        policy = policies[name]
        of_policy = {item: chain for (each, item), chain in inferred.items() if each == name}
        prompts = [_prompt(row, of_policy, system_prompt) for row in sampled]
        replies = engine.sample(policy.name, prompts, config.sampling)
        for row, samples in zip(sampled, replies, strict=True):
            if not samples:
                logger.warning("%s: %s leaves no room for a reply and is left out", name, row["item_id"])
                continue
            candidate = parse_candidate(samples[0], policy.card.blocks)
            unread = policy.card.blocks and candidate.chain is None
            reason = candidate.invalid_reason if unread else None
            rows.append(_reply(row, name, candidate.message.text, samples[0].finished, reason))
    return from_rows(rows, REFERENCE_REPLIES)


def _prompt(row: Row, chains: Mapping[str, str], system_prompt: str | None) -> Prompt:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages = []
    for turn, message in enumerate(row["history"]):
        chain = chains.get(f"{row['dialogue_id']}#{turn}") if message["role"] == "assistant" else None
        content = f"{chain} {message['content']}" if chain else message["content"]
        messages.append({"role": message["role"], "content": content})
    return Prompt((*system, *messages), ("reference", row["item_id"]))


def _reply(row: Row, policy: str, text: str, finished: bool, invalid_reason: str | None) -> Row:
    names = ("item_id", "dialogue_id", "corpus")
    values = {"policy": policy, "text": text, "finished": finished, "invalid_reason": invalid_reason}
    return {name: row[name] for name in names} | values


def words_of(text: str) -> list[str]:
    return text.lower().split()


def bleu_2(replies: Sequence[str], references: Sequence[str]) -> float:
    """Return BLEU of words and pairs of words over all replies together, from 0 to 1, by sacrebleu."""
    score: float = BLEU(max_ngram_order=2).corpus_score(list(replies), [list(references)]).score
    return score / 100


def rouge_l(reply: str, reference: str) -> float:
    """Return the F measure of the longest common subsequence of words, by rouge-score."""
    score: float = _ROUGE.score(reference, reply)["rougeL"].fmeasure
    return score


_ROUGE = RougeScorer(["rougeL"])


def grams(texts: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """Return how often each run of so many words is in the texts."""
    return Counter(
        tuple(words[start : start + order]) for words in map(words_of, texts) for start in range(len(words) - order + 1)
    )


def distinct_at(texts: Mapping[str, Sequence[str]], order: int) -> dict[str, float]:
    """Return for each policy the share of different runs of words, at the number that the shortest has.

    It is the expected share among runs drawn without replacement, so that no text is cut and length does not count.
    """
    counts = {policy: grams(of_policy, order) for policy, of_policy in texts.items()}
    number = min((found.total() for found in counts.values()), default=0)
    if not number:
        return {}
    return {policy: (expected_distinct(found.values(), number) or 0.0) / number for policy, found in counts.items()}
