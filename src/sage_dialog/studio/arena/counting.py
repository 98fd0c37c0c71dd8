"""People's votes as rows of `judge_votes`, each checked against the dialogues that were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.judging.people import PERSON
from sage_dialog.evaluation.rollouts import dialogues_by_policy
from sage_dialog.schemas import JUDGE_VOTES, VOTE_REJECTS
from sage_dialog.studio.arena.ballots import dialogue_digest
from sage_dialog.studio.arena.vote_file import HumanVote

MISSING = "no such dialogue"
CHANGED = "the dialogue has changed"
CHATTED = "a chat in the studio"
CHAT = "chat/"
"""Prefix of the situations of votes on chats, which no other policy and no simulated user played."""

_VOTES = {("ab", "first"): "a", ("ab", "second"): "b", ("ba", "first"): "b", ("ba", "second"): "a"}


def count_votes(
    votes: Mapping[str, Sequence[HumanVote]], rollouts: DataFrame, pairs: Sequence[tuple[str, str]]
) -> tuple[DataFrame, DataFrame]:
    """Split votes into those that are valid for these rollouts and those that are not.

    A vote is valid for exactly the text that was read. It is rejected if the dialogue does not exist ("no such
    dialogue") or if its text differs ("the dialogue has changed"). A vote on two policies that a person chatted with is
    set apart ("a chat in the studio"): win rates are of the held-out situations.

    Args:
        votes: by rater, as returned by `vote_file.read_folder`.
        rollouts: a table of `schemas.ROLLOUTS`.
        pairs: decide which policy of a pair is a and which is b; of others, a is the first in `rollouts`.

    Returns:
        A table of `schemas.JUDGE_VOTES`, by rater, then pair, then situation, with comments as raw responses; and a
        table of `schemas.VOTE_REJECTS`, by rater in the order of the votes.
    """
    digests = {
        (policy, situation): dialogue_digest(dialogue)
        for policy, by_situation in dialogues_by_policy(rollouts).items()
        for situation, dialogue in by_situation.items()
    }
    places = {policy: place for place, policy in enumerate(rollouts["policy"].unique())}
    configured = {pair: number for number, pair in enumerate(pairs)}

    def order_of(vote: HumanVote) -> str:
        pair = (vote.first, vote.second)
        if pair in configured or pair[::-1] in configured:
            return "ab" if pair in configured else "ba"
        return "ab" if places.get(vote.first, -1) <= places.get(vote.second, -1) else "ba"

    def rank(row: Mapping[str, Any]) -> tuple[int, int, int, str]:
        a, b = row["policy_a"], row["policy_b"]
        return configured.get((a, b), len(configured)), places[a], places[b], row["situation_id"]

    counted: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for rater, of_rater in votes.items():
        valid = []
        for vote in of_rater:
            order = order_of(vote)
            policy_a, policy_b = (vote.first, vote.second) if order == "ab" else (vote.second, vote.first)
            row = {
                "situation_id": vote.situation_id,
                "policy_a": policy_a,
                "policy_b": policy_b,
                "order": order,
                "judge": PERSON + rater,
                "vote": _VOTES.get((order, vote.vote), "tie"),
                "raw_response": vote.comment,
            }
            found = [digests.get((policy, vote.situation_id)) for policy in (vote.first, vote.second)]
            if found == [vote.first_digest, vote.second_digest]:
                valid.append(row)
            else:
                reason = CHATTED if vote.situation_id.startswith(CHAT) else MISSING if None in found else CHANGED
                rejects.append({**row, "reason": reason})
        counted += sorted(valid, key=rank)
    return from_rows(counted, JUDGE_VOTES), from_rows(rejects, VOTE_REJECTS)
