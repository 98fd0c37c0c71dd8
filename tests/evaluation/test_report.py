"""The report stands alone, says what it must, and shows hostile text as text."""

import re
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.corpora.reddit.figure import funnel_figure
from sage_dialog.evaluation.failures import FAILURES
from sage_dialog.evaluation.report import Contents, p_value, percent, render_report, times

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}'


class Elements(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " if tag in {"td", "th"} else ""

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def spoiled(table: pa.Table, **columns: Any) -> pa.Table:
    return pa.Table.from_pylist([{**row, **columns} for row in table.to_pylist()], schema=table.schema)


def words_of(html: str) -> str:
    return " ".join(Elements(html).text.replace("\N{NO-BREAK SPACE}", " ").split())


def test_it_needs_nothing_beside_it(contents: Contents) -> None:
    html = render_report(contents)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    page = Elements(html)
    assert page.open == []  # every element is closed
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "base", "form"}
        assert all(not name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert "href" not in attributes


def test_it_shows_what_was_measured(contents: Contents) -> None:
    text = words_of(render_report(contents))
    assert "4 policies on 12 test situations, up to 4 exchanges each, seed 3." in text
    for row in contents.win_rates.to_pylist():
        assert f"{row['policy_a']} {row['policy_b']} {row['n']} {row['wins_a']} {row['ties']} {row['wins_b']}" in text
    assert "Chance, one over the number of labels, is 25.0 %" in text
    assert "Both orders agreed on 36 of 36 pairs of dialogues; 0 answers were unreadable." in text
    assert "temperature 1.0, top-k 100" in text
    for figure in (
        contents.action_figure,
        contents.transition_figure,
        contents.confusion_figure,
        contents.training_figure,
    ):
        assert b64encode(figure).decode() in render_report(contents)
    assert "0123456789ab" in text


def test_offline_roles_are_named_as_such(contents: Contents) -> None:
    text = words_of(render_report(contents))
    assert (
        "Offline roles: annotator offline-test-annotator, selector offline-test-selector, judge offline-test-judge."
        in text
    )
    assert "Nothing they produce is evidence about language models." in text
    big = dict.fromkeys(("annotator", "selector"), "big-model")
    only_judge = words_of(render_report(replace(contents, roles=big, judges=["big-judge", "offline-test-judge"])))
    assert "Offline roles: judge offline-test-judge." in only_judge
    assert "Judged by big-judge, offline-test-judge" in only_judge
    none = replace(contents, roles=big, judges=["big-model"])
    assert "evidence about language models" not in words_of(render_report(none))


def test_each_judge_has_its_own_table(contents: Contents) -> None:
    second = spoiled(contents.win_rates, judge="second-judge")
    both = pa.concat_tables([contents.win_rates, second])
    html = render_report(replace(contents, win_rates=both))
    assert "<h3>second-judge</h3>" in html and "<h3>offline-test-judge</h3>" in html
    assert "<h3>" not in render_report(contents).split("Judged by")[1].split("Both orders")[0]


def test_kinds_of_ties_are_shown_where_some_are_no_ties(contents: Contents) -> None:
    assert "order changes it" not in words_of(render_report(contents))
    torn = spoiled(contents.win_rates, ties=7, both_say_tie=1, inconsistent=4, unreadable=2)
    text = words_of(render_report(replace(contents, win_rates=torn)))
    row = torn.to_pylist()[0]
    assert f"{row['policy_b']} {row['n']} {row['wins_a']} 7 {row['wins_b']} 1 4 2" in text
    assert "Both orders agreed on 18 of 36 pairs of dialogues" in text


def test_the_adjusted_p_value_is_that_of_the_table(contents: Contents) -> None:
    text = words_of(
        render_report(replace(contents, win_rates=spoiled(contents.win_rates, p_value=0.012, p_adjusted=0.34)))
    )
    assert text.count(" 0.012 0.34 ") == contents.win_rates.num_rows


def test_the_rule_is_told(contents: Contents) -> None:
    assert "a policy wins where both orders name it" in words_of(render_report(contents))
    half = contents.dials.model_copy(update={"outcome_rule": "half"})
    assert "each order counts half" in words_of(render_report(replace(contents, dials=half)))


def test_the_ranking_shows_judges_side_by_side(contents: Contents) -> None:
    first = contents.ranking.to_pylist()
    second = [{**row, "judge": "second-judge", "rank": 5 - row["rank"]} for row in first if row["policy"] != "sage_1"]
    both = pa.Table.from_pylist([*first, *second], schema=schemas.RANKING)
    text = words_of(render_report(replace(contents, ranking=both)))
    assert "policy rank offline-test-judge rank second-judge" in text
    for row in first:
        shown = f"{row['policy']} {row['rank']} ({row['best_rank']} to {row['worst_rank']})"
        assert shown in text or f"{row['policy']} {row['rank']} (alone)" in text
    assert "– not compared" in text and "groups of their own" not in text
    apart = words_of(render_report(replace(contents, ranking=pa.concat_tables([both, spoiled(both, group=2)]))))
    assert "groups of their own" in apart


def test_judges_are_shown_for_what_they_are(contents: Contents) -> None:
    def check(judge: str, statistic: str, value: float) -> dict[str, Any]:
        row = {"judge": judge, "statistic": statistic, "n": 2400, "value": value}
        return row | {"low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05)}

    checks = [check("fair", "order_flips", 0.1), check("fair", "names_first", 0.52), check("fair", "names_longer", 0.3)]
    checks += [check("biased", "order_flips", 0.93), check("biased", "names_first", 0.97)]
    table = pa.Table.from_pylist(checks, schema=schemas.JUDGE_CHECKS)
    text = words_of(render_report(replace(contents, judge_checks=table)))
    assert "fair biased the answer changes with the order of the two 10 % 5 % to 15 %, n 2,400 93 %" in text
    assert "52 % 47 % to 57 %, n 2,400 no leaning seen 97 % 92 % to 100 %, n 2,400 leans to the first place" in text
    assert "30 % 25 % to 35 %, n 2,400 shorter dialogues win –" in text


def test_length_agreement_kinship_and_sizes_are_shown(contents: Contents) -> None:
    kin = {"judge": "big-judge", "policy": "sage_0", "relation": "same model", "other_policy": "sage_1", "n": 12}
    kin |= {"share": 0.7, "neutral_share": 0.45, "difference": 0.25, "low": 0.1, "high": 0.4}
    alone = {**kin, "judge": "lone-judge", "neutral_share": None, "difference": None, "low": None, "high": None}
    text = words_of(
        render_report(
            replace(contents, self_preference=pa.Table.from_pylist([kin, alone], schema=schemas.SELF_PREFERENCE))
        )
    )
    row = contents.length_control.to_pylist()[0]
    assert f"{row['policy_a']} {row['policy_b']} {row['words_a']:.0f} {row['words_b']:.0f}" in text
    assert "offline-test-judge offline-twin 36 100 %" in text
    assert "big-judge sage_0 same model sage_1 12 70 % 45 % 25 % 10 % to 40 %" in text
    assert "lone-judge sage_0 same model sage_1 12 70 % – no judge to compare with" in text
    sizes = contents.sample_sizes.to_pylist()
    needed = next(row["needed"] for row in sizes if row["true_share"] == 0.6 and row["pairs"] == 1)
    assert f" {needed:,} " in text and "shows it with a probability of 80 %" in text


def test_one_judge_and_nothing_decided_still_report(contents: Contents) -> None:
    undecided = {"equal_length_rate_b": None, "win_rate_b": None, "b_says_more": None, "low": None, "high": None}
    text = words_of(
        render_report(
            replace(
                contents,
                win_rates=spoiled(contents.win_rates, wins_a=0, wins_b=0, win_rate_b=None, low=None, high=None),
                length_control=spoiled(contents.length_control, **undecided, odds_by_doubling=None),
                judge_agreement=schemas.JUDGE_AGREEMENT.empty_table(),
                self_preference=schemas.SELF_PREFERENCE.empty_table(),
                sample_sizes=spoiled(contents.sample_sizes, decided=0.0, power=0.0, needed=None),
            )
        )
    )
    assert "There was one judge; nobody can say how far another would agree." in text
    assert "By their names, no judge is closer to one policy of a pair than to the other." in text
    assert text.count("none decided") == 6  # each pair, in the win rates and at equal length


def test_a_kappa_that_is_not_there_is_a_dash(contents: Contents) -> None:
    silent = spoiled(contents.judge_agreement, kappa=None, kappa_low=None, kappa_high=None, decided=0, same_winner=None)
    assert "100 % 76 % to 100 % – 0 –" in words_of(render_report(replace(contents, judge_agreement=silent)))


def test_the_truth_is_shown_apart_and_only_where_there_is_one(contents: Contents) -> None:
    text = words_of(render_report(contents))
    assert "Against the generated world's truth" in text and "Suitable replies at the first exchange" in text
    without = words_of(render_report(replace(contents, outside_scores=None, outside_win_rates=None)))
    assert "truth" not in without and "Suitable" not in without


def test_one_whole_dialogue_with_its_rejected_candidates(contents: Contents) -> None:
    html = render_report(contents)
    text = words_of(html)
    said = [row for row in contents.trajectories.sort_by("turn").to_pylist() if row["situation_id"] == "test/0"]
    assert all(row["text"] in text for row in said)
    turns = sum(row["role"] == "assistant" for row in said)
    assert text.count("3 rejected") == turns == html.count("<details>")
    assert text.count("Candidate 1 says this.") == turns  # valid and rejected
    assert "Candidate 0 says this." not in text  # the chosen one is the turn itself
    assert "not valid (state block: expected another start): {u_motivation: broken" in text
    assert "state sharing · afraid · garden" in text and "action comfort · calm · garden" in text


def test_hostile_text_is_shown_as_text(contents: Contents) -> None:
    html = render_report(
        replace(
            contents,
            trajectories=spoiled(
                contents.trajectories, text=HOSTILE, outcome=HOSTILE, u_emotion=HOSTILE, a_topics=[HOSTILE]
            ),
            candidates=spoiled(
                contents.candidates, utterance=HOSTILE, text=HOSTILE, a_motivation=HOSTILE, invalid_reason=HOSTILE
            ),
            win_rates=spoiled(contents.win_rates, policy_a=HOSTILE),
            ranking=spoiled(contents.ranking, judge=HOSTILE, policy=HOSTILE),
            judge_checks=spoiled(contents.judge_checks, judge=HOSTILE),
            length_control=spoiled(contents.length_control, judge=HOSTILE, policy_b=HOSTILE),
            judge_agreement=spoiled(contents.judge_agreement, judge_a=HOSTILE, judge_b=HOSTILE),
            sample_sizes=spoiled(contents.sample_sizes, judge=HOSTILE),
            filter_report=spoiled(contents.filter_report, rule=HOSTILE),
            emotion_confusion=spoiled(contents.emotion_confusion, predicted=HOSTILE),
            unmapped_emotions=pa.Table.from_pylist([{"policy": HOSTILE, "emotion": HOSTILE, "n": 1, "count": 1}]),
            failure_examples=spoiled(contents.failure_examples, why=HOSTILE, text=HOSTILE, situation_id=HOSTILE),
            policies=spoiled(contents.policies, policy=HOSTILE, base=HOSTILE, parent=None),
            roles={"annotator": HOSTILE, "selector": HOSTILE},
            judges=[HOSTILE],
        )
    )
    page = Elements(html)
    assert not any(tag == "script" for tag, _ in page.tags)
    assert [attributes["src"][:5] for tag, attributes in page.tags if tag == "img"] == ["data:"] * 5
    assert HOSTILE in page.text


def test_the_funnel_is_shown_rule_by_rule_and_month_by_month(contents: Contents) -> None:
    html = render_report(contents)
    text = words_of(html)
    assert b64encode(contents.filter_figure).decode() in html
    assert "what no rule takes is a dialogue: 600 in all." in text
    assert "not json lines that are no JSON object in UTF-8 10,000 24 0.2 %" in text
    assert "sentiment paths with a comment whose VADER compound score is min_sentiment or lower 4,200 3,600" in text
    assert "Rules that took nothing: lone surrogate." in text
    assert "2015-02 5,000 4,988 2,100 300 2015-03 5,000 4,988 2,100 300" in text
    assert '<details class="months" open>' in html


def test_many_months_are_folded(contents: Contents) -> None:
    months = [f"{year}-{month:02d}" for year in range(2005, 2018) for month in range(1, 13)]
    rows = [{**row, "month": month} for month in months for row in contents.filter_report.to_pylist()[:5]]
    html = render_report(replace(contents, filter_report=pa.Table.from_pylist(rows, schema=schemas.FILTER_REPORT)))
    assert '<details class="months">' in html and "2005-01 5,000" in words_of(html)


def test_a_funnel_of_no_lines_and_of_unknown_rules_is_shown(contents: Contents) -> None:
    none = replace(contents, filter_report=schemas.FILTER_REPORT.empty_table(), filter_figure=funnel_figure([]))
    assert "what no rule takes is a dialogue: 0 in all." in words_of(render_report(none))
    other = replace(contents, filter_report=spoiled(contents.filter_report, rule="a_rule_of_before"))
    assert "a rule of before lines 10,000 24" in words_of(render_report(other))


def test_emotions_are_shown_by_word_and_by_meaning(contents: Contents) -> None:
    meant = spoiled(contents.mapped_emotions, mapping=41, coverage=0.8125, coverage_low=0.61, coverage_high=0.93)
    outside = [{"policy": "sage_1", "emotion": f"word {place}", "n": 4800, "count": 1200 - place} for place in range(9)]
    table = pa.Table.from_pylist(outside, schema=schemas.UNMAPPED_EMOTIONS)
    text = words_of(render_report(replace(contents, mapped_emotions=meant, unmapped_emotions=table)))
    assert "stands in lists, version 41;" in text and " 81 % 61 % to 93 % " in text
    assert "Words outside the lists, with how often: sage_1: word 0 (1,200), word 1 (1,199)," in text
    assert "word 7 (1,193) and 1 more." in text and "word 8" not in text
    silent = spoiled(contents.mapped_emotions, coverage=None, coverage_low=None, coverage_high=None)
    assert "Words outside" not in words_of(render_report(replace(contents, mapped_emotions=silent)))


def test_what_was_left_out_of_training_is_counted_by_policy(contents: Contents) -> None:
    text = words_of(render_report(contents))
    assert "sage_1 1,200 2,048 4,199 sage_2 0 – – sage_dpo 0 – –" in text


def test_the_most_frequent_errors_are_those_of_the_last_policy(contents: Contents) -> None:
    wrong = [row for row in contents.emotion_confusion.to_pylist() if row["policy"] == "sage_dpo"]
    wrong = sorted((row for row in wrong if row["label"] != row["predicted"]), key=lambda row: -row["count"])
    text = words_of(render_report(contents)).split("The most frequent errors of sage_dpo")[1].split("In k guesses")[0]
    assert wrong and f"{wrong[0]['count']} of {wrong[0]['n']}" in text
    assert all(f"{row['label']} {row['predicted']} {row['count']} of {row['n']}" in text for row in wrong[:8])


def test_guesses_in_k_are_shown_apart_where_situations_were_searched_before(contents: Contents) -> None:
    row = {"policy": "sage_2", "n": 1068, "candidates": 16.0, "emotions": 2.5, "low": 0.5, "high": 0.7, "chance": 0.03}
    rows = [
        {**row, "k": k, "searched_before": before, "accuracy": accuracy}
        for before, accuracy in ((False, 0.61), (True, 0.69))
        for k in (1, 3)
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.EMOTION_TOP_K)
    text = words_of(render_report(replace(contents, emotion_top_k=table)))
    assert "sage_2 new to it 1,068 16.0 2.5 61 % 50 % to 70 % 3 % 61 %" in text
    assert "sage_2 searched before 1,068 16.0 2.5 69 %" in text


def test_diversity_is_shown_by_policy_and_its_absence_is_told(contents: Contents) -> None:
    row = {"policy": "sage_1", "of": "replies", "n": 20, "low": 0.5, "high": 0.7}
    rows = [{**row, "statistic": "distinct_1", "value": 0.65}, {**row, "statistic": "self_bleu", "value": 0.31}]
    text = words_of(render_report(replace(contents, diversity=pa.Table.from_pylist(rows, schema=schemas.DIVERSITY))))
    assert "sage_1 65 % 50 % to 70 % – – 31 % 50 % to 70 % – – –" in text
    none = words_of(render_report(replace(contents, diversity=schemas.DIVERSITY.empty_table())))
    assert "There are too few situations to say: it takes twenty." in none


def test_failures_are_shown_with_their_rules_and_examples(contents: Contents) -> None:
    modes = spoiled(contents.failure_modes, share=0.0125, low=0.006, high=0.026)
    example = {"policy": "sage_2", "failure": "poses_as_human", "situation_id": "test/7", "exchange": 2}
    example |= {"why": "my wife", "text": "So did my wife!"}
    table = pa.Table.from_pylist([example], schema=schemas.FAILURE_EXAMPLES)
    text = words_of(render_report(replace(contents, failure_modes=modes, failure_examples=table)))
    assert all(f"{failure.replace('_', ' ')}: {rule}" in text for failure, rule in FAILURES.items())
    assert "sage_1 1.2 % 0.6 % to 2.6 %" in text
    assert "poses as human: examples sage_2, exchange 2 on test/7, my wife: So did my wife!" in text
    assert "stock opening: examples" not in text


def test_an_empty_search_and_a_run_without_blocks_still_report(contents: Contents) -> None:
    text = words_of(
        render_report(
            replace(
                contents,
                trajectories=schemas.TRAJECTORIES.empty_table(),
                candidates=schemas.CANDIDATES.empty_table(),
                emotion_accuracy=schemas.EMOTION_ACCURACY.empty_table(),
            )
        )
    )
    assert "The last search kept no dialogue." in text and "No policy of this run writes blocks." in text


@pytest.mark.parametrize(
    ("p", "shown"), [(1.0, "1"), (0.2719, "0.27"), (0.0015, "0.0015"), (0.00065, "6.5e-04"), (3e-44, "3.0e-44")]
)
def test_p_values_keep_two_digits(p: float, shown: str) -> None:
    assert p_value(p) == shown


@pytest.mark.parametrize(
    ("factor", "shown"), [(0.00523, "×0.0052"), (1.84, "×1.8"), (24.4, "×24"), (1e18, "over ×1,000")]
)
def test_factors_keep_two_digits(factor: float, shown: str) -> None:
    assert times(factor) == shown


def test_a_share_that_is_not_there_is_a_dash() -> None:
    assert percent(None) == percent(float("inf")) == "–"
