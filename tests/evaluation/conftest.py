"""A fabricated finished run: four policies on twelve situations, with a judge that prefers later policies."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from policy_cards import cards_of

from sage_dialog import schemas
from sage_dialog.config import Evaluation, SamplingConfig
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, conform, from_rows, to_rows
from sage_dialog.evaluation.benchmarks.scores import Score, benchmark_scores
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.agreement import judge_agreement
from sage_dialog.evaluation.judging.judge_bias import judge_checks, self_preference
from sage_dialog.evaluation.judging.length import count_words, length_control
from sage_dialog.evaluation.judging.power import sample_sizes
from sage_dialog.evaluation.judging.ranking import ranking
from sage_dialog.evaluation.judging.raters import rater_agreement
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
from sage_dialog.evaluation.rollouts import parse_replies
from sage_dialog.roles.protocols import Comparison, Verdict
from sage_dialog.sac import Chain, Intent, render, strip_blocks

EMOTIONS = ("afraid", "angry", "joyful", "lonely")
POLICIES = {"sage_0": False, "sage_1": True, "sage_2": True, "sage_dpo": True}
PAIRS = (("sage_0", "sage_1"), ("sage_1", "sage_2"), ("sage_0", "sage_dpo"))


RolloutsOf = Callable[..., DataFrame]


@pytest.fixture(scope="session")
def rollouts_of() -> RolloutsOf:
    """A function from each policy's agent messages by situation, with blocks, to a table of ROLLOUTS."""

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
            tables += rows[::-1]  # not ordered by turn: readers sort
        return from_rows(tables, schemas.ROLLOUTS)

    return build


def _rollout_row(
    policy: str, situation: str, turn: int, role: str, text: str, content: str | None = None
) -> dict[str, Any]:
    place = {"policy": policy, "situation_id": situation, "turn": turn, "outcome": "turn limit"}
    return {**place, "role": role, "text": text, "content": content or text}


class PrefersLonger:
    """A judge for tests that prefers the dialogue with more words of the assistant; equal ones tie."""

    name = "offline-test-judge"

    def judge(self, comparisons: list[Comparison]) -> list[Verdict]:
        verdicts = []
        for pair in comparisons:
            first, second = (
                sum(len(message.text.split()) for message in side if message.role == "assistant")
                for side in (pair.first, pair.second)
            )
            vote = "tie" if first == second else "first" if first > second else "second"
            verdicts.append(Verdict(vote, f"{first} words against {second}"))
        return verdicts


@pytest.fixture
def prefers_longer() -> PrefersLonger:
    return PrefersLonger()


@pytest.fixture(scope="session")
def situations() -> DataFrame:
    rows = [
        {
            "situation_id": f"test/{index}",
            "split": "test",
            "emotion": EMOTIONS[index % 4],
            "text": f"Situation {index}.",
        }
        for index in range(12)
    ]
    return from_rows(rows, schemas.SITUATIONS)


@pytest.fixture(scope="session")
def config() -> Evaluation:
    sampling = SamplingConfig.from_base(top_k=100)
    return Evaluation.from_base(agent=sampling, user=sampling, pairs=PAIRS, exchanges=4)


@pytest.fixture(scope="session")
def rollouts(rollouts_of: RolloutsOf, situations: DataFrame) -> DataFrame:
    """Rollouts in which all policies but sage_0 write blocks, some of them invalid, and later ones more words."""
    messages: dict[str, dict[str, list[str]]] = {policy: {} for policy in POLICIES}
    for rank, (policy, blocks) in enumerate(POLICIES.items()):
        for situation in to_rows(situations):
            draw = generator(0, "made-up run", policy, situation["situation_id"])
            messages[policy][situation["situation_id"]] = [
                _message(draw, situation, rank, blocks, place) for place in range(4)
            ]
    return rollouts_of(**messages)


def _message(draw: Any, situation: dict[str, str], rank: int, blocks: bool, place: int) -> str:
    words = " ".join(["That", "is", "quite", "a", "thing", str(place)][: 3 + int(draw.integers(0, 2 + rank))])
    utterance = words + ("?" if draw.random() < 0.6 else ".")
    if not blocks:
        return utterance
    if draw.random() < 0.08:
        return "{u_motivation: sharing, broken " + utterance
    emotion = situation["emotion"] if draw.random() < 0.7 else EMOTIONS[int(draw.integers(0, 4))]
    motivation = ("comfort", "validation", "humor", "celebration")[int(draw.integers(0, 4))]
    feeling = ("supportive", "calm", "cheerful")[int(draw.integers(0, 3))]
    return render(Chain(Intent("sharing", emotion, ("garden",)), Intent(motivation, feeling, ("garden",)), utterance))


@pytest.fixture(scope="session")
def bootstrap() -> Bootstrap:
    return Bootstrap(confidence=0.95, replicates=2000, seed=0)


def _benchmarks() -> dict[str, list[Score]]:
    """Return scores on ten questions, of which the last policy fails four that the first answers."""

    def score(right: int) -> Score:
        items = tuple(float(item < right) for item in range(10))
        return Score("<b>quiz</b>", None, "acc", right / 10, 0.15, 10, 0, True, 0.25, items)

    return {"sage_0": [score(9)], "sage_dpo": [score(5)]}


@pytest.fixture(scope="session")
def replies_of(rollouts_of: RolloutsOf) -> RolloutsOf:
    """A function from each policy's agent messages by situation to a table of REPLIES; sage_0 writes no blocks."""

    def build(**messages: dict[str, list[str]]) -> DataFrame:
        cards = cards_of(**{policy: policy != "sage_0" for policy in messages})
        return parse_replies(rollouts_of(**messages), cards)

    return build


@pytest.fixture(scope="session")
def replies(rollouts: DataFrame) -> DataFrame:
    return parse_replies(rollouts, cards_of(**POLICIES))


@pytest.fixture(scope="session")
def contents(
    bootstrap: Bootstrap, config: Evaluation, situations: DataFrame, rollouts: DataFrame, replies: DataFrame
) -> dict[str, Any]:
    """The inputs of the report by the names of their entries, with one self-play iteration."""
    cards = cards_of(**POLICIES)
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
        for row in to_rows(situations)
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
    searched = to_rows(rollouts[rollouts["policy"] == "sage_dpo"])
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
    said = {"dialogue_id": "d", "role": "user", "text": "Hi.", "original_text": "Hi.", "kept_original": False}
    labels = {"motivation": "sharing", "emotion": None, "topics": [], "annotator": "offline-test-annotator"}
    annotations = [{**said, **labels, "turn": turn} for turn in range(9)]
    annotations.append({**said, **labels, "turn": 9, "emotion": "calm", "topics": ["garden", "roses"]})
    copy = {"source": "esconv", "split": "train", "kind": "near", "overlap": 0.8, "copy_of": "esconv/valid/1"}
    copies = [
        {**copy, "dialogue_id": f"esconv/train/{n}", "copy_source": "esconv", "copy_split": "valid", "removed": n > 0}
        for n in range(3)
    ]
    rates = win_rates(votes, bootstrap.confidence)
    readings = read_emotions(replies, situations)
    candidate_table = from_rows(candidates, schemas.CANDIDATES)
    failures, failing = failure_modes(rollouts, replies, 0.95)
    words = count_words(rollouts)
    too_long = [{"row": f"c{n}", "tokens": 3000 + n, "max_length": 2048} for n in range(1200)]
    return {
        "params:evaluation": config,
        "params:seed": 3,
        "annotator": SimpleNamespace(name="offline-test-annotator"),
        "selector": SimpleNamespace(name="offline-test-selector"),
        "judges": [SimpleNamespace(name="offline-test-judge")],
        "policy_cards": cards,
        "situations": situations,
        "rollouts": rollouts,
        "replies": replies,
        "judge_votes": votes,
        "win_rates": rates,
        "ranking": ranking(votes, bootstrap),
        "judge_checks": judge_checks(votes, 0.95),
        "length_control": length_control(votes, words, 0.95),
        "judge_agreement": judge_agreement(pd.concat([votes, votes.assign(judge="offline-twin")]), bootstrap),
        "rater_agreement": rater_agreement(votes, bootstrap),
        "self_preference": self_preference(votes, cards, bootstrap),
        "sample_sizes": sample_sizes(rates, config.true_shares, 0.95, config.power),
        "emotion_accuracy": emotion_accuracy(readings, situations, config.confidence),
        "mapped_emotions": mapped_emotions(readings, 0.95),
        "unmapped_emotions": unmapped_emotions(readings),
        "emotion_confusion": emotion_confusion(readings, 0.95),
        "confusion_figure": b"\x89PNG of confusions",
        "emotion_top_k": emotion_top_k({"sage_2": candidate_table}, situations, 0.95),
        "reply_statistics": reply_statistics(rollouts, replies, config.confidence),
        "action_figure": b"\x89PNG of actions",
        "transition_figure": b"\x89PNG of transitions",
        "diversity": diversity(rollouts, replies, 0.95, seed=3),
        "failure_modes": failures,
        "failing_replies": failing,
        "form_validity": from_rows(
            [
                {"policy": "sage_1", "hold_form": held, "openings": 1, "n": 48, "count": count, "share": count / 48}
                | {"low": 0.0, "high": 1.0}
                for held, count in ((False, 3), (True, 48))
            ],
            schemas.FORM_VALIDITY,
        ),
        "training_figure": b"\x89PNG of trainings",
        "benchmark_scores": benchmark_scores(_benchmarks(), bootstrap),
        "latest_iteration_verdicts": from_rows([], schemas.ITERATION_VERDICTS),
        "latest_reference_results": from_rows([], schemas.REFERENCE_RESULTS),
        "training_rejects_sage_1": from_rows(too_long, schemas.TRAINING_REJECTS),
        "training_rejects_sage_2": from_rows([], schemas.TRAINING_REJECTS),
        "training_rejects_sage_dpo": from_rows([], schemas.TRAINING_REJECTS),
        "filter_report": from_rows(funnel, schemas.FILTER_REPORT),
        "annotations": from_rows(annotations, schemas.ANNOTATIONS),
        "text_duplicates": from_rows(copies, schemas.TEXT_DUPLICATES),
        "filter_figure": b"\x89PNG\r\n\x1a\n of a funnel\0\0\0\0IEND\xaeB`\x82",
        "candidates_1": candidate_table,
        "trajectories_1": from_rows(searched, schemas.TRAJECTORIES),
        "truth_scores": from_rows(scores, schemas.EXTERNAL_SCORES),
        "truth_win_rates": conform(rates.assign(judge="world truth"), schemas.WIN_RATES),
        "truth_votes": conform(votes.assign(judge="world truth"), schemas.JUDGE_VOTES),
    }
