"""The studio's explorer over HTTP: filters, trees, rollouts with votes, and bundles."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from urllib.parse import quote

import pytest
from markupsafe import escape
from studio_app import Client
from studio_tables import rollout_tables, search_tables
from voting import HOSTILE

from sage_dialog.evaluation.report.page import render_section
from sage_dialog.studio.visible_text import visible

Start = Callable[..., Client]


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
