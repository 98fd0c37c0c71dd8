"""Every count of the report leads to as many dialogues; tables have captions, scopes and files."""

import csv
import io
import re
from base64 import b64decode
from html import unescape
from typing import Any
from urllib.parse import parse_qsl

import pandas as pd
import pytest
from report_page import Elements, data_of, render_report, with_values

from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.judging.length import count_words
from sage_dialog.evaluation.replies.emotions import read_emotions
from sage_dialog.evaluation.report.page import csv_link, view_link


@pytest.fixture(scope="module")
def html(judged: dict[str, Any]) -> str:
    return render_report(judged)


def test_every_count_leads_to_as_many_dialogues(judged: dict[str, Any], html: str) -> None:
    links = re.findall(r'<a class="count" href="([^"]*)">([\d,]+)</a>', html)
    filters = [dict(parse_qsl(unescape(href).removeprefix("#dialogues?"))) for href, _ in links]
    assert len(links) > 120
    used = {name for wanted in filters for name in wanted}
    assert used >= {"judge", "a", "outcome", "votes", "answer", "longer", "against", "together", "policy", "failure",
                    "label", "read", "exchange", "blocks"}  # fmt: skip
    for wanted, (href, count) in zip(filters, links, strict=True):
        assert expected_count(judged, wanted) == int(count.replace(",", "")), href


def expected_count(contents: dict[str, Any], wanted: dict[str, str]) -> int:
    """Count what the filters find in the tables, independently of the page."""
    wanted = dict(wanted)
    if "judge" in wanted:
        return count_comparisons(pd.concat([contents["judge_votes"], contents["truth_votes"]]), contents, wanted)
    replies = contents["replies"].merge(contents["situations"][["situation_id", "emotion"]], on="situation_id")
    if not wanted:
        return contents["rollouts"]["situation_id"].nunique()
    readings = read_emotions(contents["replies"], contents["situations"])
    if "failure" in wanted:
        assert set(wanted) == {"policy", "failure"}
        modes = contents["failure_modes"].query(" and ".join(f"{name} == {value!r}" for name, value in wanted.items()))
        return int(modes["count"].item())
    found = replies.merge(readings, how="left", on=["policy", "situation_id", "exchange"])
    found["read"] = found["mapped"].fillna("(unmapped)").where(found["named"].notna(), "(none)")
    for name, column in (("policy", "policy"), ("label", "emotion"), ("read", "read"), ("named", "named")):
        if name in wanted:
            found = found[found[column] == wanted.pop(name)]
    if exchange := wanted.pop("exchange", None):
        found = found[found["exchange"] == int(exchange)]
    if wanted.pop("blocks", None):
        found = found[found["blocks"]]
    assert not wanted
    return len(found)


def count_comparisons(votes: DataFrame, contents: dict[str, Any], wanted: dict[str, str]) -> int:
    words = count_words(contents["rollouts"]).set_index(["policy", "situation_id"])["words"]
    found = 0
    by_judge: dict[str, dict[tuple[str, str, str], dict[str, str]]] = {}
    for row in to_rows(votes):
        key = (row["situation_id"], row["policy_a"], row["policy_b"])
        by_judge.setdefault(row["judge"], {}).setdefault(key, {})[row["order"]] = row["vote"]
    for key, of_judge in by_judge[wanted["judge"]].items():
        situation, a, b = key
        if (wanted.get("a", a), wanted.get("b", b)) != (a, b):
            continue
        answers, outcome = list(of_judge.values()), outcome_of(of_judge)
        if (
            "outcome" in wanted
            and (outcome != "tie" if wanted["outcome"] == "decided" else outcome == wanted["outcome"]) is False
        ):
            continue
        kind = "unreadable" if "unreadable" in answers else "inconsistent" if len(set(answers)) > 1 else answers[0]
        if wanted.get("votes") == "readable":
            if kind == "unreadable" or len(answers) < 2:
                continue
        elif "votes" in wanted and kind != wanted["votes"]:
            continue
        if "longer" in wanted and (outcome == "tie" or words[a, situation] == words[b, situation]):
            continue
        if "against" in wanted:
            other = by_judge[wanted["against"]].get(key)
            if other is None or (wanted.get("together") == "decided" and "tie" in (outcome, outcome_of(other))):
                continue
        if "answer" not in wanted:
            found += 1
        else:
            counted = {"named": {"a", "b"}, "readable": {"a", "b", "tie"}, "any": {"a", "b", "tie", "unreadable"}}
            found += sum(answer in counted[wanted["answer"]] for answer in answers)
    return found


def outcome_of(answers: dict[str, str]) -> str:
    different = set(answers.values())
    return next(iter(different)) if different in ({"a"}, {"b"}) else "tie"


def test_all_dialogues_are_in_the_page(contents: dict[str, Any], html: str) -> None:
    rows = data_of(html, "dialogues")["rows"]
    played = {
        (policy, situation): messages.sort_values("turn")["text"].tolist()
        for (policy, situation), messages in contents["rollouts"].groupby(["policy", "situation_id"])
    }
    assert played == {
        (policy, row["id"]): [turn["text"] for turn in dialogue["turns"]]
        for row in rows
        for policy, dialogue in row["dialogues"].items()
    }
    assert len(data_of(html, "searches")["rows"]) == contents["trajectories_1"]["situation_id"].nunique()


def test_every_section_is_in_the_contents(html: str) -> None:
    sections = re.findall(r'<section id="([a-z-]+)">\s*<h2>', html)
    assert len(sections) == html.count("<section") == len(set(sections)) > 12
    assert re.findall('<li><a href="#([a-z-]+)">', html.split("</nav>")[0]) == sections


def test_every_table_has_a_caption_scopes_and_can_be_reached_by_keyboard(html: str) -> None:
    tables = re.findall(r"<table>(.*?)</table>", html, re.DOTALL)
    assert len(tables) > 15
    for table in tables:
        assert re.match(r"\s*<caption>\S.*?</caption>", table), table[:200]
        heads = [attributes for tag, attributes in Elements(table).tags if tag == "th"]
        assert heads and all(head.get("scope") in {"col", "row", "rowgroup"} for head in heads)
        rows = table.split("<tr>")[1:]
        assert all("<th" in row for row in rows)
    scrolled = [attributes for _, attributes in Elements(html).tags if attributes.get("class") == "scroll"]
    assert len(scrolled) >= len(tables)
    assert all(
        region.get("tabindex") == "0" and region["role"] == "region" and region["aria-label"] for region in scrolled
    )


def test_every_table_has_its_values_as_a_file(judged: dict[str, Any], html: str) -> None:
    files: dict[str, list[list[dict[str, str]]]] = {}
    for tag, attributes in Elements(html).tags:
        if tag == "a" and "download" in attributes:
            content = b64decode(attributes["href"].removeprefix("data:text/csv;charset=utf-8;base64,")).decode()
            name = str(attributes["download"]).removesuffix(".csv")
            files.setdefault(name, []).append(list(csv.DictReader(io.StringIO(content))))
    for name in ("win_rates", "ranking", "judge_checks", "judge_agreement", "emotion_accuracy", "mapped_emotions",
                 "emotion_confusion", "failure_modes", "reply_statistics", "benchmark_scores", "policy_cards",
                 "filter_report", "truth_win_rates"):  # fmt: skip
        rows = to_rows(judged[name])
        written = [{column: "" if value is None else str(value) for column, value in row.items()} for row in rows]
        assert any(sorted(found, key=str) == sorted(written, key=str) for found in files[name]), name
    unheaded = [
        table
        for table in html.split('<div class="table">')[1:]
        if '<p class="files">' not in table.split("</table>")[1][:80]
    ]
    assert not unheaded


def test_a_file_holds_no_formula_and_is_read_back() -> None:
    rows = [{"text": "=1+1", "n": -3, "tags": ["a", "b"]}, {"text": 'say "hi",\nyou', "n": None, "tags": []}]
    content = b64decode(csv_link(rows).split(",")[1]).decode()
    assert list(csv.reader(io.StringIO(content))) == [
        ["text", "n", "tags"], ["'=1+1", "-3", "a; b"], ['say "hi",\nyou', "", ""],
    ]  # fmt: skip


def test_an_address_keeps_any_text() -> None:
    text = "a b&c=d#?+%/\u2028😀\"<'"
    link = view_link(judge=text, votes=None)
    assert link.isascii() and not set(link) & set("\"<>' ")
    assert dict(parse_qsl(link.removeprefix("#dialogues?"))) == {"judge": text}


def test_the_same_tables_give_the_same_page(judged: dict[str, Any], html: str) -> None:
    assert render_report(judged) == html
    assert render_report(judged, judge_votes=with_values(judged["judge_votes"], raw_response="x")) != html
