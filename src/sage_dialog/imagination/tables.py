"""Imagination as tables: personas, dialogues, critiques, rewards, and what is measured of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from sage_dialog.config.imagination import Imagination
from sage_dialog.config.tasks import Task
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.dialogue import Message
from sage_dialog.imagination.partner import outcome_of, state_of
from sage_dialog.imagination.protocols import DialogueCritic, ImaginedDialogue, Imaginer, Persona
from sage_dialog.imagination.wording import Wording
from sage_dialog.schemas import (
    CRITIQUE_EFFECTS,
    CRITIQUES,
    IMAGINED_DIALOGUES,
    PERSONA_DIVERSITY,
    PERSONAS,
    REWARDS,
)

logger = logging.getLogger(__name__)

NEIGHBOURS = 400
"""Personas of a task whose likeness is measured, the first ones: it takes quadratic time."""


def draw_personas(imaginer: Imaginer, config: Imagination, seed: int) -> DataFrame:
    """Return `config.personas` personas of each task (schemas.PERSONAS)."""
    rows = [
        {
            "persona_id": persona.id,
            "task": name,
            "text": persona.text,
            "shared": _pairs(persona.shared),
            "hidden": _pairs(persona.hidden),
            "author": imaginer.name,
        }
        for name, task in config.tasks.items()
        for persona in imaginer.personas(name, task, config.personas, seed)
    ]
    return from_rows(rows, PERSONAS)


def imagine_dialogues(imaginer: Imaginer, personas: DataFrame, config: Imagination, seed: int) -> DataFrame:
    """Return a dialogue with each persona (schemas.IMAGINED_DIALOGUES)."""
    rows = []
    for name, task, of_task in _by_task(personas, config):
        people = [read_persona(row) for row in of_task]
        for persona, dialogue in zip(people, imaginer.imagine(name, task, people, seed), strict=True):
            rows.append(
                {
                    "dialogue_id": persona.id,
                    "task": name,
                    "persona_id": persona.id,
                    "author": imaginer.name,
                    "messages": _messages(dialogue.messages),
                    "last_state": _pairs(dialogue.last_state),
                    "invalid_reason": dialogue.invalid_reason,
                }
            )
    return from_rows(rows, IMAGINED_DIALOGUES)


def critique_dialogues(
    critic: DialogueCritic, personas: DataFrame, imagined_dialogues: DataFrame, config: Imagination
) -> DataFrame:
    """Return what the critic makes of each dialogue (schemas.CRITIQUES).

    Raises:
        InputDataError: if more of a task's dialogues are dropped than `config.max_dropped_share`.
    """
    people = {row["persona_id"]: read_persona(row) for row in to_rows(personas)}
    rows = []
    for name, task, of_task in _by_task(imagined_dialogues, config):
        readable = [row for row in of_task if row["invalid_reason"] is None]
        dialogues = [(people[row["persona_id"]], read_dialogue(row)) for row in readable]
        critiques = dict(
            zip((row["dialogue_id"] for row in readable), critic.critique(name, task, dialogues), strict=True)
        )
        for row in of_task:
            found = critiques.get(row["dialogue_id"])
            common = {"dialogue_id": row["dialogue_id"], "task": name, "critic": critic.name}
            if found is None:
                invalid = {"verdict": "drop", "faults": [row["invalid_reason"]], "messages": [], "last_state": []}
                rows.append(common | invalid)
                continue
            after = {"messages": _messages(found.messages), "last_state": _pairs(found.last_state)}
            rows.append(common | {"verdict": found.verdict, "faults": list(found.faults)} | after)
        _check_dropped(name, rows[-len(of_task) :], config.max_dropped_share)
    return from_rows(rows, CRITIQUES)


def score_dialogues(critiques: DataFrame, config: Imagination) -> DataFrame:
    """Return the reward of each dialogue that was not dropped, by its task's outcomes (schemas.REWARDS)."""
    rows = []
    for name, task, of_task in _by_task(critiques, config):
        for row in of_task:
            if row["verdict"] != "drop":
                outcome = outcome_of(task, state_of(read_values(row["last_state"])))
                replies = sum(message["role"] == "assistant" for message in row["messages"])
                scored = {"replies": replies, "reward": outcome.reward, "success": outcome.success}
                rows.append({"dialogue_id": row["dialogue_id"], "task": name} | scored)
    return from_rows(rows, REWARDS)


def persona_diversity(personas: DataFrame, config: Imagination) -> DataFrame:
    """Return how different the personas of each task are (schemas.PERSONA_DIVERSITY)."""
    rows = []
    for name, _, of_task in _by_task(personas, config):
        hidden = [tuple(sorted(read_values(row["hidden"]).items())) for row in of_task]
        texts = [row["text"] for row in of_task]
        words = [pair for text in texts for pair in _pairs_of_words(text)]
        statistics = {
            "different texts": len(set(texts)) / len(texts),
            "different pairs of words": len(set(words)) / max(1, len(words)),
            "entropy of what is hidden": _entropy(hidden),
            "likeness to the nearest other": _nearest(texts[:NEIGHBOURS]),
        }
        rows += [{"task": name, "statistic": key, "n": len(texts), "value": value} for key, value in statistics.items()]
    return from_rows(rows, PERSONA_DIVERSITY)


def critique_effects(
    personas: DataFrame, imagined_dialogues: DataFrame, critiques: DataFrame, config: Imagination
) -> DataFrame:
    """Return what the critique changes (schemas.CRITIQUE_EFFECTS): shares and means before and after it.

    What users tell early is counted by the task's own wordings, whichever role wrote and criticised the dialogues.
    """
    people = {row["persona_id"]: read_persona(row) for row in to_rows(personas)}
    imagined = {row["dialogue_id"]: row for row in to_rows(imagined_dialogues)}
    rows: list[dict[str, Any]] = []
    for name, task, of_task in _by_task(critiques, config):
        wording = Wording(task)
        before, after, verdicts = [], [], []
        for row in of_task:
            source = imagined[row["dialogue_id"]]
            persona = people[source["persona_id"]]
            verdicts.append(row["verdict"])
            if source["messages"]:
                before.append(_measures(task, wording, persona, source))
            if row["verdict"] != "drop":
                after.append(_measures(task, wording, persona, row))
        for verdict in ("keep", "rewrite", "drop"):
            share = verdicts.count(verdict) / len(verdicts)
            common = {"task": name, "statistic": f"share: {verdict}", "before": None, "after": share}
            rows.append(common | {"n_before": len(verdicts), "n_after": len(verdicts)})
        for statistic in ("tells early", "success", "agent messages", "words of the user"):
            values = [[measured[statistic] for measured in side if statistic in measured] for side in (before, after)]
            common = {"task": name, "statistic": statistic, "n_before": len(values[0]), "n_after": len(values[1])}
            rows.append(common | {key: _mean(side) for key, side in zip(("before", "after"), values, strict=True)})
    return from_rows(rows, CRITIQUE_EFFECTS)


def read_persona(row: Mapping[str, Any]) -> Persona:
    return Persona(row["persona_id"], read_values(row["shared"]), read_values(row["hidden"]), row["text"])


def read_dialogue(row: Mapping[str, Any]) -> ImaginedDialogue:
    messages = tuple(Message(**message) for message in row["messages"])
    return ImaginedDialogue(messages, read_values(row["last_state"]), row["invalid_reason"])


def read_values(pairs: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {pair["name"]: pair["value"] for pair in pairs}


def _by_task(table: DataFrame, config: Imagination) -> Iterable[tuple[str, Task, list[dict[str, Any]]]]:
    for name, task in config.tasks.items():
        if rows := to_rows(table[table["task"] == name]):
            yield name, task, rows


def _check_dropped(name: str, critiques: list[dict[str, Any]], limit: float) -> None:
    dropped = [row for row in critiques if row["verdict"] == "drop"]
    if not dropped:
        return
    last = f"{dropped[-1]['dialogue_id']}: {'; '.join(dropped[-1]['faults'])}"
    found = f"{len(dropped)} of {len(critiques)} imagined dialogues of the task {name} are dropped (the last: {last})"
    if len(dropped) > limit * len(critiques):
        raise InputDataError(
            f"{found}, more than imagination.max_dropped_share = {limit:g} allows. Change the prompts or the task, or "
            "raise the limit."
        )
    logger.warning("%s", found)


def _measures(task: Task, wording: Wording, persona: Persona, row: Mapping[str, Any]) -> dict[str, float]:
    act, early, words = None, False, []
    for message in row["messages"]:
        if message["role"] == "assistant":
            act = wording.act(message["content"])
            continue
        answers = set() if act is None else {rule.reply for rule in task.acts[act].rules}
        words.append(len(message["content"].split()))
        replies_of_user = (name for name, _ in wording.replies(message["content"], persona.shared))
        early = early or any(task.replies[name].tells and name not in answers for name in replies_of_user)
    replies = sum(message["role"] == "assistant" for message in row["messages"])
    found = {"tells early": float(early), "agent messages": float(replies), "words of the user": float(np.mean(words))}
    if row["last_state"]:
        found["success"] = float(outcome_of(task, state_of(read_values(row["last_state"]))).success)
    return found


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _entropy(values: list[tuple[tuple[str, str], ...]]) -> float:
    """Return the entropy of the values in bits."""
    counts = np.unique(np.array([str(value) for value in values]), return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _nearest(texts: list[str]) -> float:
    """Return the mean over texts of the largest share of word pairs that another text has in common (Jaccard)."""
    sets = [set(_pairs_of_words(text)) for text in texts]
    nearest = [
        max((len(one & other) / max(1, len(one | other)) for j, other in enumerate(sets) if j != i), default=0.0)
        for i, one in enumerate(sets)
    ]
    return float(np.mean(nearest))


def _pairs_of_words(text: str) -> list[tuple[str, str]]:
    words = text.lower().split()
    return list(zip(words, islice(words, 1, None), strict=False))


def _messages(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in messages]


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]
