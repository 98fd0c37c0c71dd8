"""Small tables of a search and of rollouts for the studio."""

from __future__ import annotations

from typing import Any

from voting import HOSTILE, rollouts_of

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.schemas import CANDIDATES, JUDGE_VOTES, SITUATIONS, TRAJECTORIES

INTENT = {"u_motivation": "sharing", "u_emotion": "sad", "u_topics": ["home"], "a_emotion": "calm", "a_topics": []}
MOTIVATIONS = ("empathy", "humor", "asking")


def search_tables(situations: int = 30, turns: int = 2, number: int = 3, words: str = "") -> dict[str, DataFrame]:
    """Return a search whose last situation ends without a valid candidate.

    Candidate j of a turn means `MOTIVATIONS[j % 3]`, and number 0 is chosen; of situation 3, candidate 1 is cut.
    """
    candidates: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for n in range(situations):
        ended = n == situations - 1
        of = {"situation_id": f"s/{n:03}", "outcome": "no valid candidate" if ended else "turn limit"}
        messages.append({**of, "turn": 0, "role": "user", "text": f"opening {n} {words}", "content": "-"})
        for turn in range(1, 2 * turns, 2):
            for j in range(number):
                why = "state block: expected '{', found 'lot'" if ended else "cut at the token limit"
                bad = ended or (n == 3 and j == 1)
                row = {**of, "turn": turn, "candidate": j, "text": f"raw {n} {j} {words}", "valid": not bad}
                good = {"utterance": f"words {n} {turn} {j} {words}", **INTENT, "a_motivation": MOTIVATIONS[j % 3]}
                row |= {"invalid_reason": why} if bad else good
                candidates.append(row | {"chosen": j == 0 and not bad})
            if ended:
                break
            text = f"words {n} {turn} 0 {words}"
            plan = {**INTENT, "a_motivation": "empathy"}
            messages.append({**of, "turn": turn, "role": "assistant", "text": text, "content": text, **plan})
            messages.append({**of, "turn": turn + 1, "role": "user", "text": "Hm.", "content": "Hm."})
    labels = [
        {"situation_id": f"s/{n:03}", "split": "train", "emotion": "sad" if n % 2 else "proud", "text": "-"}
        for n in range(situations)
    ]
    for rows in (candidates, messages):
        for row in rows:
            row.pop("outcome" if rows is candidates else "none", None)
    return {
        "candidates_2": from_rows(candidates, CANDIDATES),
        "trajectories_2": from_rows(messages, TRAJECTORIES),
        "situations": from_rows(labels, SITUATIONS),
    }


def rollout_tables() -> dict[str, DataFrame]:
    """Return rollouts of two policies; sage_1 wins on test/0 and test/1, the order changes the answer on test/2."""
    answers = {0: ("b", "b"), 1: ("b", "b"), 2: ("a", "b")}
    votes = [
        {
            "situation_id": f"test/{n}",
            "policy_a": "sage_0",
            "policy_b": "sage_1",
            "order": order,
            "judge": "offline",
            "vote": answers.get(n, ("a", "a"))[place],
            "raw_response": HOSTILE if n == 0 else None,
        }
        for n in range(5)
        for place, order in enumerate(("ab", "ba"))
    ]
    return {"rollouts": rollouts_of(5, "sage_0", "sage_1"), "judge_votes": from_rows(votes, JUDGE_VOTES)}
