"""Negotiations of policies with a partner that was learnt from people, and what comes of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from sage_dialog.config import SamplingConfig
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, conform, from_rows, to_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.reference.results import permutation_p
from sage_dialog.evaluation.statistics import holm
from sage_dialog.imagination.negotiation import (
    KINDS,
    MARK,
    TASK,
    Items,
    agree,
    is_selection,
    is_valid_selection,
    parse_selection,
    system_prompt,
    worth,
)
from sage_dialog.inference.candidates import Candidate, parse_candidate
from sage_dialog.inference.engine import Engine, Prompt
from sage_dialog.offline_rl.evaluation import goal_scores
from sage_dialog.offline_rl.play import Rank, choose
from sage_dialog.schemas import GOAL_SCORES, NEGOTIATION_COMPARISONS, NEGOTIATION_ROLLOUTS, PARTNER_LIKENESS

logger = logging.getLogger(__name__)

AGENT, PARTNER = "assistant", "user"


@dataclass
class Talk:
    """A negotiation in progress."""

    id: str
    negotiation_id: str
    counts: Items
    values: dict[str, Items]  # of each side
    agent_begins: bool
    messages: list[tuple[str, str]] = field(default_factory=list)  # side and text
    critic_values: list[tuple[float, float]] = field(default_factory=list)
    ended: bool = False

    @property
    def next_side(self) -> str:
        return AGENT if self.agent_begins == (len(self.messages) % 2 == 0) else PARTNER

    def prompt(self, side: str, template: str) -> Prompt:
        """Return what a side reads: its own values, and of the other side's selection the mark alone."""
        view = [{"role": "system", "content": system_prompt(template, self.counts, self.values[side])}]
        for speaker, text in self.messages:
            own = speaker == side
            view.append(
                {"role": AGENT if own else PARTNER, "content": MARK if is_selection(text) and not own else text}
            )
        return Prompt(tuple(view), ("negotiation", side, self.id, len(self.messages)))

    def say(self, side: str, text: str, max_messages: int) -> None:
        selecting = any(is_selection(said) for _, said in self.messages)
        self.messages.append((side, text))
        self.ended = selecting or (len(self.messages) >= max_messages and not is_selection(text))

    def selected(self, side: str) -> tuple[int, ...] | None:
        text = next((text for speaker, text in self.messages if speaker == side and is_selection(text)), "")
        return parse_selection(text, self.counts)


def play_negotiations(
    engine: Engine,
    policy: str,
    partner_engine: Engine,
    partner: str,
    contexts: DataFrame,
    template: str,
    sampling: SamplingConfig,
    partner_sampling: SamplingConfig,
    max_messages: int,
    candidates: int = 1,
    rank: Rank | None = None,
    name: str | None = None,
) -> DataFrame:
    """Play each context to the end and return the dialogues (schemas.NEGOTIATION_ROLLOUTS).

    All policies have the same contexts and the same partner, which draws the same random numbers.

    Args:
        contexts: schemas.NEGOTIATION_CONTEXTS.
        max_messages: of both sides; a talk without a selection by then ends without an agreement.
        candidates, rank, name: as of `play.play`.
    """
    talks = [
        Talk(
            *(row["situation_id"], row["negotiation_id"], row["counts"]),
            {AGENT: row["values"], PARTNER: row["partner_values"]},
            row["agent_begins"],
        )
        for row in to_rows(contexts)
    ]
    while playing := [talk for talk in talks if not talk.ended]:
        for side in (AGENT, PARTNER):
            speaking = [talk for talk in playing if talk.next_side == side and not talk.ended]
            prompts = [talk.prompt(side, template) for talk in speaking]
            if side == AGENT:
                drawn = list(map(_first_selection, _sample(engine, policy, prompts, sampling, candidates)))
                chosen = choose([talk.critic_values for talk in speaking], prompts, drawn, rank)
            else:
                drawn = _sample(partner_engine, partner, prompts, partner_sampling, 1)
                chosen = [each[0] if each else None for each in drawn]
            for talk, candidate in zip(speaking, chosen, strict=True):
                if candidate is None:  # the talk fills the model's context
                    talk.ended = True
                else:
                    talk.say(side, candidate.text, max_messages)
    rows = [_row(talk, name or policy, template) for talk in talks]
    logger.info("%s: %d of %d negotiations agree", name or policy, sum(row["success"] for row in rows), len(rows))
    return from_rows(rows, NEGOTIATION_ROLLOUTS)


def negotiation_scores(rollouts: DataFrame, confidence: float, replicates: int, seed: int) -> DataFrame:
    """Return the scores of each policy: those of goal_scores, the partner's points, and both where the sides agree."""
    partner = rollouts.assign(reward=rollouts["partner_reward"])
    tables = [goal_scores(rollouts, confidence, replicates, seed)]
    for table, statistic in (
        (partner, "partner reward"),
        (rollouts[rollouts["success"]], "reward of agreements"),
        (partner[partner["success"]], "partner reward of agreements"),
    ):
        scores = goal_scores(table, confidence, replicates, seed)
        tables.append(scores[scores["statistic"] == "reward"].assign(statistic=statistic))
    scores = pd.concat(tables, ignore_index=True)
    return conform(scores[scores["task"] == TASK], GOAL_SCORES)


def negotiation_comparisons(
    rollouts: DataFrame, reference: str, confidence: float, replicates: int, seed: int
) -> DataFrame:
    """Return paired permutation tests of each policy against the reference (schemas.NEGOTIATION_COMPARISONS).

    Holm's adjustment is for all policies of a statistic.
    """
    bootstrap = Bootstrap(confidence, replicates, seed)
    policies = [name for name in dict.fromkeys(rollouts["policy"]) if name != reference]
    rows: list[dict[str, Any]] = []
    for statistic, column in (("reward", "reward"), ("success", "success"), ("partner reward", "partner_reward")):
        values = rollouts.pivot(index="situation_id", columns="policy", values=column).astype(float)
        found = []
        for policy in policies:
            both = values[[policy, reference]].dropna().to_numpy(float)
            differences = both[:, 0] - both[:, 1]
            drawn = bootstrap.totals(
                np.column_stack([differences, np.ones(len(both))]), np.zeros((0, 2)), 0.0, statistic, policy, reference
            )
            difference = float(differences.mean())
            low, high = bootstrap.interval(drawn[:, 0] / drawn[:, 1], difference)
            found.append(
                {
                    **{"task": TASK, "statistic": statistic, "policy_a": policy, "policy_b": reference},
                    **{"n": len(both), "wins_a": int((differences > 0).sum()), "wins_b": int((differences < 0).sum())},
                    **{"difference": difference, "low": low, "high": high},
                    "p": permutation_p(differences, bootstrap, "negotiation", statistic, policy, reference),
                }
            )
        adjusted = holm([row["p"] for row in found])
        rows += [row | {"p_holm": p} for row, p in zip(found, adjusted, strict=True)]
    return from_rows(rows, NEGOTIATION_COMPARISONS)


def partner_likeness(
    rollouts: DataFrame, negotiations: DataFrame, folds: int, confidence: float, replicates: int, seed: int
) -> DataFrame:
    """Return how well a classifier tells messages of the simulated partner from people's (schemas.PARTNER_LIKENESS).

    People's are those of the same side in the human negotiations over the same contexts. The value is the area under
    the ROC curve of logistic regression on words and pairs of words, cross-validated by negotiation: 0.5 where the
    messages cannot be told apart, 1 where each can. The interval is of a bootstrap over negotiations. There is no value
    where one side has messages in so few negotiations that some fold would learn from the other's alone.

    Raises:
        ValueError: if there are fewer negotiations than folds.
    """
    rows = []
    for policy, played in rollouts.groupby("policy", sort=False):
        human = negotiations[negotiations["record"].isin(played["situation_id"])]
        found = [
            (message["content"], simulated, row["negotiation_id"])
            for simulated, table in ((1, played), (0, human))
            for row in to_rows(table[["negotiation_id", "messages"]])
            for message in row["messages"]
            if message["role"] == PARTNER and not is_selection(message["content"])
        ]
        if (count := played["negotiation_id"].nunique()) < folds:
            raise ValueError(f"{count} negotiations are too few for negotiation.folds = {folds}; set it lower")
        texts, labels, groups = ([each[place] for each in found] for place in range(3))
        row = {"policy": policy, "simulated": sum(labels), "human": len(labels) - sum(labels)}
        parts = StratifiedGroupKFold(folds, shuffle=True, random_state=int(generator(seed, "folds").integers(2**31)))
        if not _in_each_fold(parts, np.array(labels), groups):
            logger.warning("%s: %d messages of the partner and %d of people are too few to compare", *row.values())
            rows.append(row)
            continue
        classifier = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+"),
            LogisticRegression(C=3.0, max_iter=1000),
        )
        scores = cross_val_predict(classifier, texts, labels, groups=groups, cv=parts, method="decision_function")
        number = np.unique(groups, return_inverse=True)[1]
        rng = generator(seed, "likeness bootstrap", policy)
        drawn = [
            roc_auc_score(labels, scores, sample_weight=rng.standard_exponential(number.max() + 1)[number])
            for _ in range(replicates)
        ]
        low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
        value = float(roc_auc_score(labels, scores))
        rows.append(row | {"value": value, "low": min(float(low), value), "high": max(float(high), value)})
    return from_rows(rows, PARTNER_LIKENESS)


def _in_each_fold(parts: StratifiedGroupKFold, labels: np.ndarray, groups: Sequence[Any]) -> bool:
    """Return whether there is an example of both labels to learn from, whichever fold is left out."""
    if min(labels.sum(), len(labels) - labels.sum(), len(set(groups))) < parts.n_splits:
        return False
    return all(len(set(labels[train])) == 2 for train, _ in parts.split(labels, labels, groups))


def _sample(
    engine: Engine, policy: str, prompts: Sequence[Prompt], sampling: SamplingConfig, count: int
) -> list[list[Candidate]]:
    if not prompts:
        return []
    sampled = engine.sample(policy, prompts, sampling, count)
    return [[parse_candidate(sample, False) for sample in samples] for samples in sampled]


def _first_selection(candidates: list[Candidate]) -> list[Candidate]:
    """Return the candidates without all selections but the first.

    A critic may choose when to end the talk. What was agreed is no choice: it would take the most valuable items.
    """
    first = next((each for each in candidates if is_selection(each.text)), None)
    return [each for each in candidates if each is first or not is_selection(each.text)]


def _row(talk: Talk, policy: str, template: str) -> dict[str, Any]:
    selected, other = talk.selected(AGENT), talk.selected(PARTNER)
    success = agree(talk.counts, selected, other)
    own = [text for speaker, text in talk.messages if speaker == AGENT]
    selections = [text for text in own if is_selection(text)]
    selecting = any(is_selection(text) for _, text in talk.messages)
    first = talk.critic_values[0] if talk.critic_values else (None, None)
    view = talk.prompt(AGENT, template).messages
    return {
        "policy": policy,
        "task": TASK,
        "situation_id": talk.id,
        "messages": list(view),
        "hidden": [
            {"name": kind, "value": str(value)} for kind, value in zip(KINDS, talk.values[PARTNER], strict=True)
        ],
        "replies": len(own),
        "unclear": int(selecting and not (selections and is_valid_selection(selections[0], talk.counts))),
        "reward": float(worth(talk.values[AGENT], selected)) if success and selected else 0.0,
        "success": success,
        "value": first[0],
        "action_value": first[1],
        "negotiation_id": talk.negotiation_id,
        "selected": selected,
        "partner_selected": other,
        "partner_reward": float(worth(talk.values[PARTNER], other)) if success and other else 0.0,
    }
