"""The reference evaluation of tiny policies on a small corpus."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sage_dialog.config import Reference
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.evaluation.reference import likelihoods as module
from sage_dialog.evaluation.reference.baselines import baseline_labels
from sage_dialog.evaluation.reference.chain_set import as_chain, training_chains
from sage_dialog.evaluation.reference.items import reference_items
from sage_dialog.evaluation.reference.likelihoods import gold_labels, score_policies
from sage_dialog.evaluation.reference.replies import sample_replies
from sage_dialog.evaluation.reference.results import reference_results
from sage_dialog.evaluation.report.page import render_section
from sage_dialog.evaluation.report.reference_figure import measures_by_corpus, reference_figure, reply_examples
from sage_dialog.inference.transformers.engine import TransformersEngine
from sage_dialog.sac import Chain, render
from sage_dialog.schemas import REFERENCE_ITEMS, REFERENCE_REPLIES, SFT_CONVERSATIONS

Tables = tuple[DataFrame, DataFrame, DataFrame]


@pytest.fixture(scope="module")
def training(corpus: DataFrame, config: Reference) -> list[Chain]:
    everything = config.model_copy(update={"dialogues": None, "replies_per_dialogue": None})
    train = corpus[corpus["split"] == "train"].assign(split="valid")
    return [as_chain(gold_labels(row)) for row in to_rows(reference_items(train, everything, 0, False))]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def score(
    policies: dict[str, Policy], items: DataFrame, training: list[Chain], config: Reference, scratch: Path
) -> Tables:
    return score_policies(policies["sage_0"], policies, items, training, "Be kind.", config, 0, 1, scratch)


@pytest.fixture(scope="module")
def scored(
    policies: dict[str, Policy], items: DataFrame, training: list[Chain], config: Reference, scratch: Path
) -> Tables:
    return score(policies, items, training, config, scratch)


@pytest.fixture(scope="module")
def results(scored: Tables, items: DataFrame, corpus: DataFrame, policies: dict[str, Policy], config: Reference) -> Any:
    likelihoods, labels, chains = scored
    train = corpus[corpus["split"] == "train"]
    baselines = baseline_labels(items, train, set(train["dialogue_id"]), config)
    engine = TransformersEngine(policies["sage_0"], list(policies.values()), 0, 1, device="cpu")
    replies = sample_replies(engine, policies, items, chains, "Be kind.", config, 0)
    assert set(replies["policy"]) == {"human", *policies} and len(replies) == 4 * 4
    return reference_results(likelihoods, labels, baselines, items, replies, config, 0)


def test_items_are_the_replies_after_a_users_message_with_the_labels_of_both(items: DataFrame) -> None:
    rows = to_rows(items)
    scored = [row for row in rows if row["scored"]]
    assert len(scored) == 10 and len({row["dialogue_id"] for row in rows}) == 5
    by_id = {row["item_id"]: row for row in rows}
    for row in scored:
        assert row["history"][-1]["role"] == "user" and len(row["history"]) == row["turn"]
        assert row["u_emotion"] and row["a_motivation"] and row["u_motivation"] is row["a_emotion"] is None
        assert by_id[row["donor"]]["dialogue_id"] != row["dialogue_id"]
    merged = [row for row in rows if row["turn"] == 3]
    assert merged and all(row["history"][2]["content"].endswith(". And so on.") for row in merged)
    for name in {row["dialogue_id"] for row in rows}:
        of_dialogue = [row for row in rows if row["dialogue_id"] == name]
        assert of_dialogue[-1]["scored"], "nothing is read after the last scored reply"
        assert [row["turn"] % 2 for row in of_dialogue] == [of_dialogue[0]["turn"] % 2] * len(of_dialogue)


def test_an_opening_of_the_assistant_is_history_only_where_training_has_it(
    corpus: DataFrame, config: Reference
) -> None:
    everything = config.model_copy(update={"dialogues": None, "replies_per_dialogue": None})
    for may_open, first in ((True, "Hello."), (False, "I cried all day 3.")):
        rows = to_rows(reference_items(corpus, everything, 0, may_open))
        last = [row for row in rows if row["dialogue_id"] == "own/valid/3"][-1]
        assert last["history"][0]["content"] == first and len(rows) == (19 if may_open else 18)
        assert sum(row["scored"] for row in rows) == 18, "an opening is not scored"
    only_first = config.model_copy(update={"replies": "first", "dialogues": None})
    rows = to_rows(reference_items(corpus, only_first, 0, False))
    assert [row["turn"] for row in rows] == [1] * 6
    short = to_rows(reference_items(corpus, everything.model_copy(update={"max_turns": 3}), 0, False))
    assert {row["turn"] for row in short} == {1}


def test_a_split_that_is_not_there_is_refused_with_those_that_are(corpus: DataFrame, config: Reference) -> None:
    with pytest.raises(InputDataError, match=r"no corpus has a reply in the split 'test'.*train \(30\), valid \(6\)"):
        reference_items(corpus, config.model_copy(update={"split": "test"}), 0, False)


def test_every_policy_is_scored_on_every_reply_under_its_conditions(scored: Tables, items: DataFrame) -> None:
    likelihoods, labels, chains = scored
    expected = {("sage_0", "plain"), ("sage_1_plain", "plain")}
    expected |= {("sage_1", condition) for condition in ("marginal", "gold", "shuffled")}
    counts = likelihoods.groupby(["policy", "condition"]).size().to_dict()
    assert counts == dict.fromkeys(expected, 10)
    assert (likelihoods["bits"] > 0).all()
    marginal = likelihoods[likelihoods["condition"] == "marginal"]
    assert set(marginal["estimate"]) == {"upper bound"} and marginal["chain_mass"].between(0, 1).all()
    assert set(labels["field"]) == {"u_emotion", "a_motivation"} and len(labels) == 20
    assert set(labels["policy"]) == {"sage_1"} and labels["rank"].between(1, 3).all()
    assert set(chains["item_id"]) == set(items["item_id"]), "also of replies that are not scored"


def test_the_marginal_likelihood_reads_no_label_of_a_person(
    policies: dict[str, Policy],
    items: DataFrame,
    training: list[Chain],
    config: Reference,
    scored: Tables,
    tmp_path: Path,
) -> None:
    blind = from_rows(
        [{**row, "u_emotion": "calm", "a_motivation": "question"} for row in to_rows(items)], REFERENCE_ITEMS
    )
    likelihoods, _, chains = score(policies, blind, training, config, tmp_path)
    for condition, same in (("marginal", True), ("plain", True), ("gold", False)):
        one, other = (table[table["condition"] == condition]["bits"].tolist() for table in (scored[0], likelihoods))
        assert (one == other) == same, condition
    assert chains.equals(scored[2])


def test_an_interrupted_run_goes_on_and_ends_with_the_same_tables(
    policies: dict[str, Policy],
    items: DataFrame,
    training: list[Chain],
    config: Reference,
    scored: Tables,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = sorted(scratch.rglob("dialogue-*.json"))
    assert len(files) == 3 * 5
    done: list[str] = []
    real = module.score_dialogue
    monkeypatch.setattr(
        module, "score_dialogue", lambda setting, rows, by_id: done.append(setting.policy) or real(setting, rows, by_id)
    )
    for file in files[1:4]:  # of a base that was half done
        file.unlink()
    again = score(policies, items, training, config, scratch)
    assert len(done) == 3 and all(one.equals(other) for one, other in zip(again, scored, strict=True))
    score(policies, items, training, config.model_copy(update={"chain_share": 0.5}), scratch)
    assert len(done) == 3 + 15, "other parameters share nothing"


def test_a_policy_with_blocks_needs_training_conversations_with_blocks(
    policies: dict[str, Policy], items: DataFrame, config: Reference, tmp_path: Path
) -> None:
    with pytest.raises(InputDataError, match=r"sage_1 writes blocks, and no conversation .* `listener`"):
        score(policies, items, [], config, tmp_path)
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": render(as_chain((None,) * 2 + ((),) + ("ask", None, ())))},
    ]
    table = from_rows(
        [{"conversation_id": f"{name}:1", "source": name, "messages": messages} for name in ("a", "b")],
        SFT_CONVERSATIONS,
    )
    assert [chain.action.motivation for chain in training_chains(table, ["a"])] == ["ask"]


def test_replies_that_do_not_fit_the_context_are_refused_where_they_are_many(
    policies: dict[str, Policy],
    items: DataFrame,
    training: list[Chain],
    config: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module.PolicySet, "window", property(lambda self: 230))
    with pytest.raises(InputDataError, match=r"sage_1: \d of 10 replies are longer .* 230 tokens; read less of each"):
        score(policies, items, training, config, tmp_path)
    monkeypatch.setattr(module, "MAX_TOO_LONG", 1.0)
    with caplog.at_level(logging.WARNING):
        likelihoods, _, _ = score(policies, items, training, config, tmp_path)
    assert "they are left out for all policies" in caplog.text and len(likelihoods) < 50


def test_results_hold_every_figure_and_every_test_with_its_adjustment(results: DataFrame) -> None:
    figures = results[results["against"].isna()]
    counts = figures.groupby("measure").size().to_dict()
    assert counts["bits_per_byte"] == 5 and counts["words"] == 4 and counts["bleu_2"] == counts["rouge_l"] == 3
    assert counts["emotion_accuracy"] == counts["strategy_accuracy"] == counts["emotion_top_5"] == 3
    assert counts["distinct_1"] == counts["distinct_2"] == 4
    compared = results[results["against"].notna()]
    assert compared["p_value"].notna().all() and (compared["p_adjusted"] >= compared["p_value"]).all()
    pairs = set(zip(compared["measure"], compared["against"], compared["policy"], strict=True))
    assert {("bits_per_byte", "sage_1_plain", "sage_1"), ("bits_per_byte", "sage_1", "sage_1")} <= pairs
    assert {("emotion_accuracy", "majority", "sage_1"), ("strategy_accuracy", "tfidf", "sage_1")} <= pairs
    within = figures[figures["low"].notna()]
    assert ((within["low"] <= within["value"]) & (within["value"] <= within["high"])).all()


def test_bits_per_byte_and_their_difference_are_those_of_the_table(results: DataFrame, scored: Tables) -> None:
    likelihoods = scored[0]
    sums = likelihoods.groupby(["policy", "condition"])[["bits", "bytes"]].sum()
    expected = (sums["bits"] / sums["bytes"]).to_dict()
    bits = results[(results["measure"] == "bits_per_byte") & results["against"].isna()]
    assert dict(zip(zip(bits["policy"], bits["condition"], strict=True), bits["value"], strict=True)) == pytest.approx(
        expected
    )
    (row,) = to_rows(results[(results["measure"] == "bits_per_byte") & (results["against"] == "sage_1_plain")])
    assert row["difference"] == pytest.approx(expected["sage_1", "marginal"] - expected["sage_1_plain", "plain"])
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_report_and_figure_show_them_and_escape_what_they_show(results: DataFrame, config: Reference) -> None:
    html = render_section(
        "reference.html.j2",
        results=results,
        corpora=measures_by_corpus(results.assign(corpus="<b>own")),
        forest=None,
    )
    assert "<b>own" not in html and "&lt;b&gt;own" in html
    assert html.count("sage_1 (gold)") == 1 and "upper bound" in html and "bits per byte" in html
    assert reference_figure(results, config.confidence).axes and reference_figure(results[:0], 0.95).texts
    assert "was not run" in render_section("reference.html.j2", results=results[:0], corpora={}, forest=None)


def test_replies_are_shown_as_text() -> None:
    hostile = "<script>alert(1)</script> </details> \u202e"
    common = {"item_id": "own/valid/1#1", "dialogue_id": "own/valid/1", "corpus": "own", "finished": True}
    replies = from_rows(
        [
            {**common, "policy": "human", "text": hostile, "invalid_reason": None},
            {**common, "policy": "sage_1", "text": "Oh.", "finished": False, "invalid_reason": hostile},
        ],
        REFERENCE_REPLIES,
    )
    items = pd.DataFrame({"item_id": ["own/valid/1#1"], "history": [[{"role": "user", "content": hostile}]]})
    html = render_section("reference_replies.html.j2", examples=reply_examples(items, replies, 20, 0))
    assert "<script>" not in html and html.count("&lt;script&gt;alert(1)") == 4
    assert html.count("</details>") == 1 and "cut at the token limit" in html
    assert "No replies were sampled" in render_section("reference_replies.html.j2", examples=[])
