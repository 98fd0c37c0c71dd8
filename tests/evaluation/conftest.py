"""A made-up finished run: four policies on twelve situations, with a judge that prefers later policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.config import Evaluation
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.corpora.reddit.funnel_figure import funnel_figure
from sage_dialog.evaluation.benchmarks.scores import Score, benchmark_scores
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.agreement import judge_agreement
from sage_dialog.evaluation.judging.judge_bias import judge_checks, self_preference
from sage_dialog.evaluation.judging.length import length_control, words_said
from sage_dialog.evaluation.judging.power import sample_sizes
from sage_dialog.evaluation.judging.ranking import ranking
from sage_dialog.evaluation.judging.votes import collect_votes, win_rates
from sage_dialog.evaluation.replies.diversity import diversity
from sage_dialog.evaluation.replies.emotions import (
    emotion_accuracy,
    emotion_confusion,
    emotion_top_k,
    mapped_emotions,
    read_emotions,
    unmapped_emotions,
)
from sage_dialog.evaluation.replies.failures import failure_modes
from sage_dialog.evaluation.replies.replies import reply_statistics
from sage_dialog.evaluation.report.report import Contents
from sage_dialog.pipelines.evaluation.nodes import by_policy
from sage_dialog.roles.protocols import Comparison, Verdict
from sage_dialog.sac import Chain, Intent, render, strip_blocks

EMOTIONS = ("afraid", "angry", "joyful", "lonely")
POLICIES = {"sage_0": False, "sage_1": True, "sage_2": True, "sage_dpo": True}
PAIRS = (("sage_0", "sage_1"), ("sage_1", "sage_2"), ("sage_0", "sage_dpo"))


RolloutsOf = Callable[..., DataFrame]


@pytest.fixture
def rollouts_of() -> RolloutsOf:
    """A function from each policy's agent messages by situation, blocks included, to a table of ROLLOUTS."""

    def build(**messages: dict[str, list[str]]) -> DataFrame:
        tables = []
        for policy, by_situation in messages.items():
            rows = []
            for situation, contents in by_situation.items():
                rows.append(_rollout_row(policy, situation, 0, "user", f"This is {situation}."))
                for place, content in enumerate(contents):
                    text = strip_blocks(content)
                    rows.append(_rollout_row(policy, situation, 2 * place + 1, "assistant", text, content))
                    rows.append(
                        _rollout_row(policy, situation, 2 * place + 2, "user", f"Answer {place} in {situation}.")
                    )
            tables += rows[::-1]  # not in the order of the turns: readers sort by turn
        return from_rows(tables, schemas.ROLLOUTS)

    return build


def _rollout_row(
    policy: str, situation: str, turn: int, role: str, text: str, content: str | None = None
) -> dict[str, Any]:
    place = {"policy": policy, "situation_id": situation, "turn": turn, "outcome": "turn limit"}
    return {**place, "role": role, "text": text, "content": content or text}


class PrefersLonger:
    """A judge for tests: the dialogue with more words from the assistant; equal ones tie."""

    name = "offline-test-judge"

    def judge(self, comparisons: list[Comparison]) -> list[Verdict]:
        verdicts = []
        for pair in comparisons:
            first, second = (
                sum(len(said.text.split()) for said in side if said.role == "assistant")
                for side in (pair.first, pair.second)
            )
            vote = "tie" if first == second else "first" if first > second else "second"
            verdicts.append(Verdict(vote, f"{first} words against {second}"))
        return verdicts


@pytest.fixture
def prefers_longer() -> PrefersLonger:
    return PrefersLonger()


@pytest.fixture
def situations() -> pa.Table:
    rows = [
        {
            "situation_id": f"test/{index}",
            "split": "test",
            "emotion": EMOTIONS[index % 4],
            "text": f"Situation {index}.",
        }
        for index in range(12)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.SITUATIONS)


@pytest.fixture
def config() -> Evaluation:
    sampling = {"temperature": 1.0, "top_k": 100}
    return Evaluation.from_base(agent=sampling, user=sampling, pairs=PAIRS, exchanges=4)


@pytest.fixture
def rollouts(rollouts_of: RolloutsOf, situations: pa.Table) -> DataFrame:
    """sage_0 writes no blocks; the others do, but for a few broken ones, and later ones say more."""
    messages: dict[str, dict[str, list[str]]] = {policy: {} for policy in POLICIES}
    for rank, (policy, blocks) in enumerate(POLICIES.items()):
        for situation in situations.to_pylist():
            draw = generator(0, "made-up run", policy, situation["situation_id"])
            messages[policy][situation["situation_id"]] = [
                _message(draw, situation, rank, blocks, place) for place in range(4)
            ]
    return rollouts_of(**messages)


def _message(draw: Any, situation: dict[str, str], rank: int, blocks: bool, place: int) -> str:
    said = " ".join(["That", "is", "quite", "a", "thing", str(place)][: 3 + int(draw.integers(0, 2 + rank))])
    utterance = said + ("?" if draw.random() < 0.6 else ".")
    if not blocks:
        return utterance
    if draw.random() < 0.08:
        return "{u_motivation: sharing, broken " + utterance
    read = situation["emotion"] if draw.random() < 0.7 else EMOTIONS[int(draw.integers(0, 4))]
    means = ("comfort", "validation", "humor", "celebration")[int(draw.integers(0, 4))]
    feels = ("supportive", "calm", "cheerful")[int(draw.integers(0, 3))]
    return render(Chain(Intent("sharing", read, ("garden",)), Intent(means, feels, ("garden",)), utterance))


@pytest.fixture
def bootstrap() -> Bootstrap:
    return Bootstrap(confidence=0.95, replicates=2000, seed=0)


def _benchmarks() -> dict[str, list[Score]]:
    """Ten questions; the last policy has forgotten the last four."""

    def score(right: int) -> Score:
        items = tuple(float(item < right) for item in range(10))
        return Score("<b>quiz</b>", None, "acc", right / 10, 0.15, 10, 0, True, items)

    return {"sage_0": [score(9)], "sage_dpo": [score(5)]}


@pytest.fixture
def contents(bootstrap: Bootstrap, config: Evaluation, situations: pa.Table, rollouts: DataFrame) -> Contents:
    rollouts = by_policy(rollouts)
    with_blocks = [policy for policy, blocks in POLICIES.items() if blocks]
    votes = collect_votes(rollouts, config.pairs, PrefersLonger())
    scores = [
        {
            "scorer": "world truth",
            "policy": policy,
            "situation_id": row["situation_id"],
            "statistic": statistic,
            "exchange": exchange,
            "value": float(generator(1, policy, row["situation_id"], exchange).random() < 0.3 + 0.15 * rank),
        }
        for rank, policy in enumerate(POLICIES)
        for row in situations.to_pylist()
        for exchange in (1, 2)
        for statistic in (
            "suitable",
            "on topic",
            "fresh",
            "attuned",
            "emotion read",
            "plan suits own reading",
            "said as planned",
        )
    ]
    searched = rollouts["sage_dpo"].to_pylist()
    candidates = [
        {
            "situation_id": row["situation_id"],
            "turn": row["turn"],
            "candidate": index,
            "text": row["content"] if valid else "{u_motivation: broken",
            "utterance": f"Candidate {index} says this." if valid else None,
            "u_motivation": "sharing",
            "u_emotion": "afraid",
            "u_topics": [],
            "a_motivation": "comfort" if valid else None,
            "a_emotion": "calm" if valid else None,
            "a_topics": ["garden"] if valid else None,
            "valid": valid,
            "invalid_reason": None if valid else "state block: expected another start",
            "chosen": index == 0,
        }
        for row in searched
        if row["role"] == "assistant"
        for index, valid in enumerate((True, True, True, False))
    ]
    for row in searched:
        if row["role"] == "assistant":
            row |= {
                "u_motivation": "sharing",
                "u_emotion": "afraid",
                "u_topics": ["garden"],
                "a_motivation": "comfort",
                "a_emotion": "calm",
                "a_topics": ["garden"],
            }
    funnel = [
        {"month": month, "step": step, "rule": rule, "unit": unit, "n_in": n_in, "n_removed": removed}
        for month in ("2015-02", "2015-03")
        for step, (rule, unit, n_in, removed) in enumerate(
            [
                ("not_json", "line", 5000, 12),
                ("lone_surrogate", "line", 4988, 0),
                ("deleted", "comment", 4988, 600),
                ("not_a_leaf", "comment", 4388, 2288),
                ("sentiment", "path", 2100, 1800),
            ],
            start=1,
        )
    ]
    cards = [
        {
            "policy": policy,
            "kind": "adapter" if blocks else "base",
            "blocks": blocks,
            "revision": "0123456789abcdef" * 4,
            "base": "sage_0",
            "base_revision": "fedcba9876543210" * 4,
            "parent": "sage_0" if blocks else None,
            "parent_revision": None,
        }
        for policy, blocks in POLICIES.items()
    ]
    rates = win_rates(votes, bootstrap)
    readings = read_emotions(rollouts, with_blocks, situations)
    confusion = emotion_confusion(readings, 0.95)
    searched_for = pa.Table.from_pylist(candidates, schema=schemas.CANDIDATES)
    failures, examples = failure_modes(rollouts, with_blocks, 0.95, seed=3)
    same = [{**vote, "judge": "offline-twin"} for vote in votes]
    words = words_said(rollouts)
    return Contents(
        config=config,
        seed=3,
        roles={
            "annotator": "offline-test-annotator",
            "selector": "offline-test-selector",
        },
        judges=["offline-test-judge"],
        policies=pa.Table.from_pylist(cards, schema=schemas.POLICIES),
        situations=situations,
        rollouts=rollouts,
        judge_votes=pa.Table.from_pylist(votes, schema=schemas.JUDGE_VOTES),
        win_rates=pa.Table.from_pylist(rates, schema=schemas.WIN_RATES),
        ranking=pa.Table.from_pylist(ranking(votes, bootstrap), schema=schemas.RANKING),
        judge_checks=pa.Table.from_pylist(judge_checks(votes, words, 0.95), schema=schemas.JUDGE_CHECKS),
        length_control=pa.Table.from_pylist(length_control(votes, words, 0.95), schema=schemas.LENGTH_CONTROL),
        judge_agreement=pa.Table.from_pylist(judge_agreement(votes + same, bootstrap), schema=schemas.JUDGE_AGREEMENT),
        self_preference=pa.Table.from_pylist(self_preference(votes, cards, bootstrap), schema=schemas.SELF_PREFERENCE),
        sample_sizes=pa.Table.from_pylist(
            sample_sizes(rates, config.true_shares, 0.95, config.power), schema=schemas.SAMPLE_SIZES
        ),
        emotion_accuracy=pa.Table.from_pylist(
            emotion_accuracy(rollouts, with_blocks, situations, config.confidence), schema=schemas.EMOTION_ACCURACY
        ),
        mapped_emotions=pa.Table.from_pylist(mapped_emotions(readings, 0.95), schema=schemas.MAPPED_EMOTIONS),
        unmapped_emotions=pa.Table.from_pylist(unmapped_emotions(readings), schema=schemas.UNMAPPED_EMOTIONS),
        emotion_confusion=pa.Table.from_pylist(confusion, schema=schemas.EMOTION_CONFUSION),
        confusion_figure=b"\x89PNG of what is taken for what",
        emotion_top_k=pa.Table.from_pylist(
            emotion_top_k({"sage_2": searched_for}, situations, 0.95), schema=schemas.EMOTION_TOP_K
        ),
        reply_statistics=pa.Table.from_pylist(
            reply_statistics(rollouts, config.confidence), schema=schemas.REPLY_STATISTICS
        ),
        action_figure=b"\x89PNG of actions",
        transition_figure=b"\x89PNG of what follows what",
        diversity=pa.Table.from_pylist(diversity(rollouts, with_blocks, 0.95, seed=3), schema=schemas.DIVERSITY),
        failure_modes=pa.Table.from_pylist(failures, schema=schemas.FAILURE_MODES),
        training_figure=b"\x89PNG of trainings",
        benchmark_scores=pa.Table.from_pylist(
            benchmark_scores(_benchmarks(), bootstrap), schema=schemas.BENCHMARK_SCORES
        ),
        training_rejects={
            policy: pa.Table.from_pylist(rows, schema=schemas.TRAINING_REJECTS)
            for policy, rows in (
                ("sage_1", [{"row": f"c{n}", "tokens": 3000 + n, "max_length": 2048} for n in range(1200)]),
                ("sage_2", []),
                ("sage_dpo", []),
            )
        },
        failure_examples=pa.Table.from_pylist(examples, schema=schemas.FAILURE_EXAMPLES),
        filter_report=pa.Table.from_pylist(funnel, schema=schemas.FILTER_REPORT),
        filter_figure=funnel_figure(funnel),
        candidates=searched_for,
        trajectories=pa.Table.from_pylist(searched, schema=schemas.TRAJECTORIES),
        external_scores=pa.Table.from_pylist(scores, schema=schemas.EXTERNAL_SCORES),
        external_win_rates=pa.Table.from_pylist(
            [{**row, "judge": "world truth"} for row in rates], schema=schemas.WIN_RATES
        ),
        external_votes=pa.Table.from_pylist(
            [{**vote, "judge": "world truth"} for vote in votes], schema=schemas.JUDGE_VOTES
        ),
    )
