"""Selection of the dialogues and searches of the report, and their votes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from report_page import unpack

from sage_dialog import schemas
from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.replies.emotions import READINGS
from sage_dialog.evaluation.report import dialogues as report_dialogues
from sage_dialog.evaluation.report.dialogues import Embedded, embed_dialogues, embed_searches
from sage_dialog.evaluation.report.page import compressed, script_data


def vote(situation: str, order: str, answer: str, judge: str = "j") -> dict[str, Any]:
    pair = {"policy_a": "old", "policy_b": "new", "judge": judge, "raw_response": f"{judge} on {order}"}
    return {"situation_id": situation, "order": order, "vote": answer, **pair}


def votes_of(*rows: dict[str, Any]) -> DataFrame:
    return from_rows(rows, schemas.JUDGE_VOTES)


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


@pytest.fixture
def rollouts_of_90(rollouts_of: Callable[..., DataFrame]) -> DataFrame:
    """Two policies on 90 situations."""
    situations = [f"s{place:02d}" for place in range(90)]
    return rollouts_of(**{policy: {id_: [f"{policy} says this."] for id_ in situations} for policy in ("old", "new")})


def embedded(
    rollouts: DataFrame, votes: DataFrame, rule: OutcomeRule = "agreement", seed: int = 3, **labels: str
) -> Embedded:
    return embed_dialogues(
        rollouts, votes, labels, from_rows([], READINGS), from_rows([], schemas.FAILING_REPLIES), rule, seed, examples=2
    )


def rows_of(found: Embedded) -> list[dict[str, Any]]:
    return [row for part in found.data["parts"] for row in unpack(part)]


def test_all_situations_are_there_and_examples_are_drawn_by_seed(rollouts_of_90: DataFrame) -> None:
    found = embedded(rollouts_of_90, votes_of())
    assert found.situations == 90 and ids(rows_of(found)) == sorted(rollouts_of_90["situation_id"].unique())
    assert {policy for row in rows_of(found) for policy in row["dialogues"]} == {"old", "new"}
    votes = votes_of(*(vote(id_, order, "a") for id_ in ids(rows_of(found))[:5] for order in ("ab", "ba")))
    assert ids(embedded(rollouts_of_90[::-1], votes).examples) == ids(found.examples)
    assert ids(embedded(rollouts_of_90, votes_of(), seed=4).examples) != ids(found.examples)
    assert len(found.examples) == 2


def test_situations_are_found_in_their_part(rollouts_of_90: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_dialogues, "IN_PART", 7)
    data = embedded(rollouts_of_90, votes_of()).data
    situations = unpack(data["index"])["situations"]
    parts = [unpack(part) for part in data["parts"]]
    assert len(parts) > 5
    assert [parts[part][place]["id"] for part, place in situations["part"]] == situations["id"]


def test_searches_are_limited_by_their_compressed_size(
    contents: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(seed: int) -> Embedded:
        return embed_searches(contents["trajectories_1"], contents["candidates_1"], {}, seed)

    whole = search(3)
    assert whole.situations == 12
    monkeypatch.setattr(report_dialogues, "SEARCHES_IN_PART", 2)
    monkeypatch.setattr(report_dialogues, "MOST_SEARCHED", 3 * len(compressed(rows_of(whole)[:2])))
    few = search(3)
    assert 1 < few.situations < 12 and set(ids(rows_of(few))) != set(ids(rows_of(search(4))))
    assert few.examples[0]["id"] in ids(rows_of(few))
    index = unpack(few.data["index"])
    parts = [unpack(part) for part in few.data["parts"]]
    assert [parts[part][place]["id"] for part, place in index["part"]] == index["id"] == sorted(index["id"])
    monkeypatch.setattr(report_dialogues, "MOST_SEARCHED", 1)
    assert search(3).situations == 2  # a part


def test_votes_have_names_answers_and_outcome(rollouts_of_90: DataFrame) -> None:
    judged = votes_of(
        vote("s00", "ba", "b", "sure"),
        vote("s00", "ab", "b", "sure"),
        vote("s00", "ab", "a", "torn"),
        vote("s00", "ba", "b", "torn"),
        vote("s00", "ba", "unreadable", "mumbling"),
        vote("s00", "ab", "a", "mumbling"),
        vote("s00", "ba", "a", "human:ada"),
        vote("s01", "ab", "a", "another"),
        vote("s01", "ba", "a", "another"),
    )
    two = rollouts_of_90[rollouts_of_90["situation_id"] == "s00"]
    (row,) = rows_of(embedded(two, judged, s00="sad"))
    assert (row["id"], row["label"]) == ("s00", "sad")
    summaries = {
        vote["judge"]: tuple(vote[key] for key in ("a", "b", "answers", "outcome", "wrote")) for vote in row["votes"]
    }
    assert summaries == {
        "sure": ("old", "new", ["new", "new"], "new", ["sure on ab", "sure on ba"]),
        "torn": ("old", "new", ["old", "new"], "tie", ["torn on ab", "torn on ba"]),
        "mumbling": ("old", "new", ["old", "unreadable"], "tie", ["mumbling on ab", "mumbling on ba"]),
        "human:ada": ("old", "new", ["no answer", "old"], "old", [None, "human:ada on ba"]),
    }
    (half,) = rows_of(embedded(two, judged, "half"))
    assert [vote["outcome"] for vote in half["votes"] if vote["judge"] == "mumbling"] == ["old"]


def test_turns_are_ordered_and_have_the_blocks_of_the_agent(contents: dict[str, Any]) -> None:
    found = embed_searches(contents["trajectories_1"], contents["candidates_1"], {"test/1": "angry"}, 3)
    (row,) = (row for row in rows_of(found) if row["id"] == "test/1")
    messages = contents["trajectories_1"].query("situation_id == 'test/1'").sort_values("turn")
    expected = list(zip(messages["role"], messages["text"], strict=True))
    assert [(turn["role"], turn["text"]) for turn in row["turns"]] == expected
    assert (row["label"], row["outcome"]) == ("angry", "turn limit")
    agent, user = row["turns"][1], row["turns"][2]
    assert agent["state"] == ["sharing", "afraid", ["garden"]] and agent["action"] == ["comfort", "calm", ["garden"]]
    assert "state" not in user and user["candidates"] == []


def test_all_candidates_are_listed_with_the_choice_and_invalid_texts(contents: dict[str, Any]) -> None:
    shuffled = contents["candidates_1"][::-1]
    (row, *_) = rows_of(embed_searches(contents["trajectories_1"], shuffled, {}, 3))
    candidates = row["turns"][3]["candidates"]
    assert [(candidate["number"], candidate["chosen"]) for candidate in candidates] == [
        (1, True),
        (2, False),
        (3, False),
        (4, False),
    ]
    assert candidates[1]["text"] == "Candidate 1 says this." and "why" not in candidates[1]
    assert (candidates[3]["text"], candidates[3]["why"]) == (
        "{u_motivation: broken",
        "state block: expected another start",
    )
    assert row["label"] == "no label"


@pytest.mark.parametrize("text", ["</script><!--", "a & b", "\u2028\u2029", "<script>", "]]>", "😀 “…”", '"\\'])
def test_json_cannot_end_its_element_and_is_read_back(text: str) -> None:
    written = script_data({"text": [text]})
    assert not set(written) & set("<>&\u2028\u2029") and written.isascii()
    assert json.loads(written) == {"text": [text]}
