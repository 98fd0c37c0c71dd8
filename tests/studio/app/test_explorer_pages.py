"""The studio's explorer over HTTP: filters, trees, rollouts with votes, and bundles."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from markupsafe import escape
from studio_app import Client
from voting import HOSTILE, rollouts_of

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.report.page import render_section
from sage_dialog.schemas import CANDIDATES, JUDGE_VOTES, SITUATIONS, TRAJECTORIES
from sage_dialog.studio.visible_text import visible

Start = Callable[..., Client]
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


def found(html: str) -> int:
    match = re.search(r'<p class="found"[^>]*>([\d,]+) situation', html)
    assert match, html
    return int(match[1].replace(",", ""))


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("", 30),
        ("label=sad", 15),
        ("outcome=no+valid+candidate", 1),
        ("motivation=humor", 28),  # not of situation 3, where it is cut, and of none in the last
        ("motivation=humor&chosen=on", 0),
        ("motivation=empathy&chosen=on", 29),
        ("emotion=calm&label=proud", 15),
        ("reason=any", 2),
        ("reason=cut+at+the+token+limit", 1),
        ("reason=state+block", 1),
        ("reason=state+block&motivation=humor", 0),  # of one candidate
        ("text=OPENING+1", 11),
        ("text=+S/003+", 1),  # an id, as copied
        ("text=.", 0),
        ("label=nothing", 0),
    ],
)
def test_filters_find_situations(studio: Start, query: str, number: int) -> None:
    client = studio(frames=search_tables())
    assert found(client.get(f"/explorer/2?{query}").text) == number


def test_pages_of_situations_keep_the_filters(studio: Start) -> None:
    client = studio(frames=search_tables(situations=60))
    page = client.get("/explorer/2?label=sad&page=2").text
    assert "page 2 of 2" in page and "label=sad&amp;page=1" in page and page.count('<th scope="row">') == 5
    assert 'label=sad&amp;id=s%2F051"' in page
    assert client.get("/explorer/2?page=x").status_code == 422
    part = client.get("/explorer/2?label=sad&reason=", **{"hx-request": "true", "hx-target": "found"})
    assert "<html" not in part.text and part.headers["hx-push-url"] == "/explorer/2?label=sad"
    assert client.get("/explorer").headers["location"] == "/explorer/2"


def test_a_tree_has_all_candidates_of_each_turn(studio: Start) -> None:
    client = studio(frames=search_tables())
    page = client.get("/explorer/2/situation?id=s/003&motivation=asking").text
    assert page.count("3 candidates, number 1 chosen, 1 not valid") == 2
    items = re.findall(r'<li class="([^"]*)"><span class="number">(\d)</span>', page)
    assert items == [("chosen", "1"), ("not-chosen", "2"), ("not-chosen fits", "3")] * 2
    assert "not valid (cut at the token limit):" in page and "words 3 1 2" in page and "labelled sad" in page.lower()
    assert "motivation=asking&amp;id=s%2F002" in page and "motivation=asking&amp;id=s%2F004" in page
    assert client.get("/explorer/2/s/003").headers["location"] == "/explorer/2/situation?id=s%2F003"
    last = client.get("/explorer/2/situation?id=s/029").text
    assert "3 candidates, none chosen" in last and "found &#39;lot&#39;" in last
    assert client.get("/explorer/2/situation?id=s/999").status_code == 404
    assert client.get("/explorer/9").status_code == 404


@pytest.mark.parametrize("situation", ["hit:0_conv:1", "<b>a/b?c=1&d#e</b> 100% \u202e+é"])
def test_the_addresses_in_a_report_open_their_situations(studio: Start, situation: str) -> None:
    frames = {**search_tables(situations=2), **rollout_tables()}
    for table, of in (("trajectories_2", "s/000"), ("candidates_2", "s/000"), ("rollouts", "test/0")):
        frames[table] = frames[table].assign(situation_id=frames[table]["situation_id"].replace(of, situation))
    client = studio(frames=frames)
    shown = {"id": situation, "label": "sad", "turns": [], "dialogues": {}, "votes": [], "outcome": "-"}
    report = render_section("searches.html.j2", embedded=1, searched=1, selector="-", example=shown, data="")
    report += render_section("dialogues.html.j2", played=1, rule="-", people=False, examples=[shown], data="")
    assert "<b>a" not in report
    addresses = re.findall(r"<code>(/explorer/\w+/[^<]*)</code>", report)
    assert len(addresses) == 4 and addresses[::2] == ["/explorer/K/ID", "/explorer/rollouts/ID"]
    for address in addresses[1::2]:
        location = client.get(address.replace("K", "2")).headers["location"]
        opened = client.get(location)
        assert opened.status_code == 200 and str(escape(visible(situation))) in opened.text
    assert found(client.get(f"/explorer/2?text={quote(situation)}").text) == 1


def test_rollouts_of_all_policies_stand_side_by_side_with_votes(studio: Start) -> None:
    client = studio(frames=rollout_tables())
    page = client.get("/explorer/rollouts/situation?id=test/0").text
    assert re.findall(r"<h2>(sage_\d)</h2>", page) == ["sage_0", "sage_1"]
    assert "voice 0 2" in page and "voice 1 2" in page and "<b>sage_1 wins</b>" in page
    assert "<script>document" not in page and "&lt;script&gt;document" in page
    for query, number in (
        ("", 5),
        ("winner=sage_1", 2),
        ("winner=tie", 1),
        ("winner=sage_0&judge=offline&a=sage_1&b=sage_0", 2),
        ("judge=nobody", 0),
        ("policy=sage_1&outcome=turn+limit", 5),
        ("outcome=other", 0),
        ("text=test/3", 1),
    ):
        assert found(client.get(f"/explorer/rollouts?{query}").text) == number, query


def test_rollouts_without_votes_are_shown(studio: Start) -> None:
    client = studio(frames={"rollouts": rollout_tables()["rollouts"]})
    assert "No judge compared" in client.get("/explorer/rollouts/situation?id=test/0").text
    assert found(client.get("/explorer/rollouts?winner=tie").text) == 0
    assert client.get("/explorer").headers["location"] == "/explorer/rollouts"


def test_a_bundle_opens_without_a_server(studio: Start) -> None:
    client = studio(frames=search_tables(words=HOSTILE))
    response = client.get("/explorer/2/bundle.zip?label=sad")
    assert response.content == client.get("/explorer/2/bundle.zip?label=sad").content
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        names = archive.namelist()
        pages = {name: archive.read(name).decode() for name in names}
    assert len(names) == 16 and names[0] == "index.html" and "15 of 15 situations" in pages["index.html"]
    for name in names[1:]:
        assert f'href="{name}"' in pages["index.html"] and 'href="../index.html"' in pages[name]
    for page in pages.values():
        assert "<script" not in page and 'onerror=\\"' not in page and "src=" not in page.replace("img src=x", "")
        assert set(re.findall(r'href="([^"]*)"', page)) <= {*names, "../index.html"}
    single = client.get("/explorer/2/page.html?id=s/003").text
    assert "words 3 1 2" in single and "href" not in single and "<script" not in single


def test_a_new_version_of_a_table_is_read(studio: Start) -> None:
    client = studio(frames=search_tables())
    assert found(client.get("/explorer/2").text) == 30
    frames = search_tables(situations=7)
    object.__setattr__(client.studio.tables, "version", lambda name: "2027" if name in frames else None)
    object.__setattr__(client.studio.tables, "load", lambda name, version: frames[name])
    assert found(client.get("/explorer/2").text) == 7
