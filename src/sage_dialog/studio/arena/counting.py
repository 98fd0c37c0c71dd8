"""People's votes become rows of `judge_votes`, each held to the dialogues that it was given on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dialog.evaluation.judging.votes import PERSON
from sage_dialog.evaluation.rollouts import whole_dialogues
from sage_dialog.studio.arena.ballots import dialogue_digest
from sage_dialog.studio.arena.vote_file import HumanVote

if TYPE_CHECKING:
    import pyarrow as pa

GONE = "no such dialogue"
CHANGED = "the dialogue has changed"

_LETTERS = {("ab", "first"): "a", ("ab", "second"): "b", ("ba", "first"): "b", ("ba", "second"): "a"}


def count_votes(
    votes: Mapping[str, Sequence[HumanVote]], rollouts: Mapping[str, pa.Table], pairs: Sequence[tuple[str, str]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The votes that hold for these rollouts, and those that do not.

    A vote is on the very words that were read. It does not hold where the dialogue is not there ("no such dialogue"),
    or where a word of it is another now ("the dialogue has changed").

    Args:
        votes: as `vote_file.read_folder` gives them.
        rollouts: tables of `schemas.TRAJECTORIES` by policy.
        pairs: which policy of a pair is a, which b; of others, a is the one that stands first in `rollouts`.

    Returns:
        Rows of `schemas.JUDGE_VOTES`, by rater, then pair, then situation, a comment as the raw reply; and rows of
        `schemas.VOTE_REJECTS`, by rater in the order in which they were given.
    """
    voted_on = {policy for of_rater in votes.values() for vote in of_rater for policy in (vote.first, vote.second)}
    digests = {
        (policy, situation): dialogue_digest(dialogue)
        for policy, table in rollouts.items()
        if policy in voted_on
        for situation, dialogue in whole_dialogues(table).items()
    }
    places = {policy: place for place, policy in enumerate(rollouts)}
    configured = {pair: number for number, pair in enumerate(pairs)}

    def rank(policy_a: str, policy_b: str) -> tuple[int, int, int]:
        return configured.get((policy_a, policy_b), len(configured)), places[policy_a], places[policy_b]

    counted: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for rater, of_rater in votes.items():
        rows = []
        for vote in of_rater:
            order = _order(vote, pairs, places)
            policy_a, policy_b = (vote.first, vote.second) if order == "ab" else (vote.second, vote.first)
            row = {
                "situation_id": vote.situation_id,
                "policy_a": policy_a,
                "policy_b": policy_b,
                "order": order,
                "judge": PERSON + rater,
                "vote": _LETTERS.get((order, vote.vote), "tie"),
                "raw_response": vote.comment,
            }
            if reason := _fault(vote, digests):
                rejects.append({**row, "reason": reason})
            else:
                rows.append(row)
        counted += sorted(rows, key=lambda row: (rank(row["policy_a"], row["policy_b"]), row["situation_id"]))
    return counted, rejects


def _order(vote: HumanVote, pairs: Sequence[tuple[str, str]], places: Mapping[str, int]) -> str:
    if (vote.first, vote.second) in pairs:
        return "ab"
    if (vote.second, vote.first) in pairs:
        return "ba"
    return "ab" if places.get(vote.first, -1) <= places.get(vote.second, -1) else "ba"


def _fault(vote: HumanVote, digests: Mapping[tuple[str, str], str]) -> str | None:
    shown = ((vote.first, vote.first_digest), (vote.second, vote.second_digest))
    found = [digests.get((policy, vote.situation_id)) for policy, _ in shown]
    if None in found:
        return GONE
    return None if found == [of for _, of in shown] else CHANGED
