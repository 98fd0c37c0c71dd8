"""The report is self-contained, has all figures, and shows hostile text as text."""

import hashlib
import re
from base64 import b64encode
from platform import python_version
from typing import Any

import pyarrow as pa
import pytest
import scipy
from report_page import Elements, data_of, render_report, role, text_of, with_values

from sage_dialog import __version__, schemas
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.corpora.reddit.funnel_figure import funnel_figure
from sage_dialog.evaluation.replies.failures import FAILURES
from sage_dialog.evaluation.report.formatting import p_value, percent, times

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}'


def test_the_report_is_self_contained(contents: dict[str, Any]) -> None:
    html = render_report(contents)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r'(?:base64,|")[A-Za-z0-9+/=]{40,}', "", html))
    page = Elements(html)
    assert page.open == []  # every element is closed
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "base", "form"}
        assert all(not name.startswith("on") and name != "style" for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith(("#", "data:text/csv;"))
        assert "download" in attributes or attributes.get("href", "#").startswith("#")


def test_only_its_own_style_and_script_are_allowed(contents: dict[str, Any]) -> None:
    html = render_report(contents)
    (rules,) = (tag["content"] for _, tag in Elements(html).tags if "http-equiv" in tag)
    allowed = {}
    for element in ("style", "script"):
        (source,) = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
        allowed[element] = b64encode(hashlib.sha256(source.encode()).digest()).decode()
    assert rules == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{allowed['style']}'; "
        f"script-src 'sha256-{allowed['script']}'; base-uri 'none'; form-action 'none'"
    )
    kinds = [attributes.get("type") for tag, attributes in Elements(html).tags if tag == "script"]
    assert kinds == ["application/json", "application/json", None]


def test_the_report_has_all_figures(contents: dict[str, Any]) -> None:
    text = text_of(render_report(contents))
    assert "4 policies on 12 test situations, up to 4 exchanges each, with sage_1" in text
    for row in to_rows(contents["win_rates"]):
        pair = f"{row['policy_a']} {row['policy_b']} {row['judge']}"
        assert f"{pair} {row['n']} {row['wins_a']} {row['ties']} {row['wins_b']}" in text
    assert "Chance, one over the number of labels, is 25.0 %" in text
    assert "temperature 1.0, top-k 100" in text
    for figure in (
        contents["action_figure"],
        contents["transition_figure"],
        contents["confusion_figure"],
        contents["training_figure"],
    ):
        assert b64encode(figure).decode() in render_report(contents)
    assert "0123456789ab" in text


def test_offline_roles_are_named_as_such(contents: dict[str, Any]) -> None:
    text = text_of(render_report(contents))
    assert (
        "Offline roles: annotator offline-test-annotator, selector offline-test-selector, judge offline-test-judge."
        in text
    )
    assert "Nothing they produce is evidence about language models." in text
    big = dict.fromkeys(("annotator", "selector"), role("big-model"))
    only_judge = text_of(render_report(contents, **big, judges=[role("big-judge")]))
    assert "Offline roles: judge offline-test-judge." in only_judge  # because it voted
    assert "Judged by big-judge, offline-test-judge" in only_judge
    assert "judge: big-judge" in only_judge and "judge: offline-test-judge, offline rules" in only_judge
    assert "judge: big-judge, offline" not in only_judge
    votes, rates = (with_values(contents[name], judge="big") for name in ("judge_votes", "win_rates"))
    none = render_report(contents, **big, judges=[role("big-model")], judge_votes=votes, win_rates=rates)
    assert "evidence about language models" not in text_of(none)


def test_the_report_has_versions_and_revisions(contents: dict[str, Any]) -> None:
    cards = [{**row, "parent_revision": "abcdef0123456789"} for row in to_rows(contents["policy_cards"])]
    policies = from_rows(cards, schemas.POLICIES)
    text = text_of(render_report(contents, policy_cards=policies))
    assert (
        f"installed when this section was rendered: sage-dialog {__version__}, Python {python_version()}, kedro" in text
    )
    assert f"pyarrow {pa.__version__}" in text and f"scipy {scipy.__version__}" in text
    assert "sage_1 adapter yes 0123456789ab sage_0 abcdef012345 fedcba987654" in text


def test_the_simulated_user_and_what_seeds_leave_open_are_named(contents: dict[str, Any]) -> None:
    html = render_report(contents)
    text = text_of(html)
    assert "with sage_1 (revision 0123456789ab) as the simulated user, seed 3." in text
    assert "Each policy was trained once: intervals and tests are over situations, and another training seed" in text
    assert [line for line in html.splitlines() if line.startswith("<!-- run -->")] == ["<!-- run -->"]


def test_the_weights_of_a_hosted_model_are_not_known(contents: dict[str, Any]) -> None:
    name = "maker/a-model-with-a-long-name"
    cards = [*to_rows(contents["policy_cards"])[:1]]
    cards[0] |= {"policy": "theirs", "kind": "external", "base": name, "revision": name, "base_revision": "not known"}
    cards[0] |= {"parent": None, "parent_revision": None}
    policies = from_rows(cards, schemas.POLICIES)
    text = text_of(render_report(contents, policy_cards=policies))
    assert f"theirs external no not known {name} not known" in text


def test_without_scripts_some_dialogues_and_a_search_are_visible(contents: dict[str, Any]) -> None:
    html = render_report(contents)
    text = text_of(html)
    rollouts = contents["rollouts"]
    shown = html.split('<div id="dialogues-static">')[1]
    visible = [id_ for id_ in rollouts["situation_id"].unique() if f"<h3>{id_}, labelled" in shown]
    assert len(visible) == 2
    for situation in visible:
        for _, messages in rollouts[rollouts["situation_id"] == situation].groupby("policy"):
            assert len(messages) == 9 and all(line in text for line in messages["text"])
    assert re.search(r"shows a situation at /explorer/rollouts/ID; (\S+) is /explorer/rollouts/\1\.", text)
    assert re.search(r"every iteration K at /explorer/K/ID; (\S+) is /explorer/K/\1\.", text)
    assert "All 12 situations" in text and "12 of 12 searched situations of the last iteration" in text
    turns = text.split("The last search")[1]
    assert turns.count("4 candidates") == turns.count("chosen Candidate 0 says this.") == 4
    assert turns.count("not valid (state block: expected another start): {u_motivation: broken") == 4
    assert "state sharing · afraid · garden action comfort · calm · garden" in turns
    assert html.count('<li class="chosen">') == 4


def test_hostile_text_is_shown_as_text(contents: dict[str, Any]) -> None:
    html = render_report(
        contents,
        trajectories_1=with_values(
            contents["trajectories_1"], text=HOSTILE, outcome=HOSTILE, u_emotion=HOSTILE, a_topics=[HOSTILE]
        ),
        candidates_1=with_values(
            contents["candidates_1"], utterance=HOSTILE, text=HOSTILE, a_motivation=HOSTILE, invalid_reason=HOSTILE
        ),
        rollouts=with_values(
            contents["rollouts"].query("policy == 'sage_1'"),
            policy=HOSTILE,
            text=HOSTILE,
            outcome=HOSTILE,
            u_topics=[HOSTILE],
        ),
        judge_votes=with_values(contents["judge_votes"], judge=HOSTILE, policy_a=HOSTILE, raw_response=HOSTILE),
        win_rates=with_values(contents["win_rates"], policy_a=HOSTILE, judge=HOSTILE),
        ranking=with_values(contents["ranking"], judge=HOSTILE, policy=HOSTILE),
        judge_checks=with_values(contents["judge_checks"], judge=HOSTILE),
        length_control=with_values(contents["length_control"], judge=HOSTILE, policy_b=HOSTILE),
        judge_agreement=with_values(contents["judge_agreement"], judge_a=HOSTILE, judge_b=HOSTILE),
        sample_sizes=with_values(contents["sample_sizes"], judge=HOSTILE),
        filter_report=with_values(contents["filter_report"], rule=HOSTILE),
        annotations=with_values(contents["annotations"], annotator=HOSTILE),
        emotion_confusion=with_values(contents["emotion_confusion"], predicted=HOSTILE),
        unmapped_emotions=from_rows(
            [{"policy": HOSTILE, "emotion": HOSTILE, "n": 1, "count": 1}], schemas.UNMAPPED_EMOTIONS
        ),
        failing_replies=with_values(contents["failing_replies"], why=HOSTILE, text=HOSTILE, situation_id=HOSTILE),
        policy_cards=with_values(contents["policy_cards"], policy=HOSTILE, base=HOSTILE, parent=None),
        annotator=role(HOSTILE),
        selector=role(HOSTILE),
        judges=[role(HOSTILE)],
    )
    page = Elements(html)
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"] == ["application/json"] * 2 + [
        None
    ]
    assert [attributes["src"][:5] for tag, attributes in page.tags if tag == "img"] == ["data:"] * 5
    assert HOSTILE in page.text
    assert data_of(html, "dialogues")["rows"][0]["dialogues"][HOSTILE]["turns"][0]["text"] == HOSTILE
    assert HOSTILE not in html and "alert(1)</script>" not in html


def test_the_funnel_is_shown_rule_by_rule_and_month_by_month(contents: dict[str, Any]) -> None:
    html = render_report(contents)
    text = text_of(html)
    assert b64encode(contents["filter_figure"]).decode() in html
    assert "what no rule removes is a dialogue: 600 in all." in text
    assert "not json lines that are no JSON object in UTF-8 10,000 24 0.2 %" in text
    assert "sentiment paths with a comment whose VADER compound score is min_sentiment or lower 4,200 3,600" in text
    assert "Rules that removed nothing: lone surrogate." in text
    assert "2015-02 5,000 4,988 2,100 300 2015-03 5,000 4,988 2,100 300" in text
    assert '<details class="months" open>' in html


def test_texts_that_stand_twice_are_counted_by_their_places(contents: dict[str, Any]) -> None:
    text = text_of(render_report(contents))
    assert "esconv, train esconv, valid near 3 2" in text
    none = from_rows([], schemas.TEXT_DUPLICATES)
    assert "Texts that stand twice" not in text_of(render_report(contents, text_duplicates=none))


def test_warnings_about_the_data_name_the_rule_and_the_annotator(contents: dict[str, Any]) -> None:
    text = text_of(render_report(contents))
    assert "offline-test-annotator gives an emotion to 10.0 % of 10 utterances." in text
    assert "offline-test-annotator gives topics to 10.0 % of 10 utterances." in text
    assert "gives a motivation" not in text
    assert " removes " not in text.split("From raw lines")[1].split("The first rule")[0]
    lossy = with_values(contents["filter_report"], {"rule": "deleted"}, n_removed=4_900)
    warning = "deleted removes 98.2 % of 9,976 comments: comments whose text was deleted or removed."
    assert warning in text_of(render_report(contents, filter_report=lossy))


def test_many_months_are_folded(contents: dict[str, Any]) -> None:
    months = [f"{year}-{month:02d}" for year in range(2005, 2018) for month in range(1, 13)]
    rows = [{**row, "month": month} for month in months for row in to_rows(contents["filter_report"])[:5]]
    html = render_report(contents, filter_report=from_rows(rows, schemas.FILTER_REPORT))
    assert '<details class="months">' in html and "2005-01 5,000" in text_of(html)


def test_a_funnel_of_no_lines_and_of_unknown_rules_is_shown(contents: dict[str, Any]) -> None:
    no_lines = from_rows([], schemas.FILTER_REPORT)
    none = {"filter_report": no_lines, "filter_figure": funnel_figure(no_lines)}
    assert "what no rule removes is a dialogue: 0 in all." in text_of(render_report(contents, **none))
    other = with_values(contents["filter_report"], rule="a_rule_of_before")
    assert "a rule of before lines 10,000 24" in text_of(render_report(contents, filter_report=other))


def test_emotions_are_shown_by_word_and_by_meaning(contents: dict[str, Any]) -> None:
    meant = with_values(contents["mapped_emotions"], mapping=41, coverage=0.8125, coverage_low=0.61, coverage_high=0.93)
    unmapped = [
        {"policy": "sage_1", "emotion": f"word {place}", "n": 4800, "count": 1200 - place} for place in range(9)
    ]
    table = from_rows(unmapped, schemas.UNMAPPED_EMOTIONS)
    text = text_of(render_report(contents, mapped_emotions=meant, unmapped_emotions=table))
    assert "the 32 labels, version 41;" in text and " 81 % 61 % to 93 % " in text
    assert "Words outside the lists, with how often: sage_1: word 0 (1,200), word 1 (1,199)," in text
    assert "word 7 (1,193) and 1 more." in text and "word 8" not in text
    silent = with_values(contents["mapped_emotions"], coverage=None, coverage_low=None, coverage_high=None)
    assert "Words outside" not in text_of(render_report(contents, mapped_emotions=silent))


def test_training_rejects_are_counted_by_policy(contents: dict[str, Any]) -> None:
    text = text_of(render_report(contents))
    assert "sage_1 1,200 2,048 4,199 sage_2 0 – – sage_dpo 0 – –" in text


def test_verdicts_on_iterations_are_shown_where_there_are_any(contents: dict[str, Any]) -> None:
    assert "Was the next policy better?" not in text_of(render_report(contents))
    p_values = {"p_better": 0.0406, "p_no_better": 0.6, "margin": 0.1, "level": 0.05, "level_no_better": 0.025}
    row = {
        **{"iteration": 1, "policy_a": "sage_1", "policy_b": "sage_2", "judge": HOSTILE, "n": 1200, "wins": 63},
        **{"ties": 93, "losses": 44, "win_rate": 0.589, "low": 0.49, "high": 0.68, **p_values},
        **{"power": 0.8, "needed": 300, "verdict": "better"},
    }
    undecided = {**row, "iteration": 2, "win_rate": None, "low": None, "high": None, "verdict": "undecided"}
    html = render_report(contents, latest_iteration_verdicts=from_rows([row, undecided], schemas.ITERATION_VERDICTS))
    text = text_of(html).split("Was the next policy better?")[1]
    assert "1 sage_1 sage_2 1,200 63 93 44 59 % 49 % to 68 % 0.041 0.6 better" in text
    assert "2 sage_1 sage_2 1,200 63 93 44 – 0.041 0.6 undecided" in text
    assert "at 0.05" in text and "of 60 % or more, tested at 0.025" in text
    assert HOSTILE in text and HOSTILE not in html


def test_the_most_frequent_errors_are_those_of_the_last_policy(contents: dict[str, Any]) -> None:
    wrong = [row for row in to_rows(contents["emotion_confusion"]) if row["policy"] == "sage_dpo"]
    wrong = sorted((row for row in wrong if row["label"] != row["predicted"]), key=lambda row: -row["count"])
    text = text_of(render_report(contents)).split("The most frequent errors of sage_dpo")[1].split("In k guesses")[0]
    assert wrong and f"{wrong[0]['count']} of {wrong[0]['n']}" in text
    assert all(f"{row['label']} {row['predicted']} {row['count']} of {row['n']}" in text for row in wrong[:8])


def test_guesses_in_k_on_situations_searched_before_have_their_own_rows(contents: dict[str, Any]) -> None:
    row = {"policy": "sage_2", "n": 1068, "candidates": 16.0, "emotions": 2.5, "low": 0.5, "high": 0.7, "chance": 0.03}
    rows = [
        {**row, "k": k, "searched_before": before, "accuracy": accuracy}
        for before, accuracy in ((False, 0.61), (True, 0.69))
        for k in (1, 3)
    ]
    table = from_rows(rows, schemas.EMOTION_TOP_K)
    text = text_of(render_report(contents, emotion_top_k=table))
    assert "sage_2 new to it 1,068 16.0 2.5 61 % 50 % to 70 % 3 % 61 %" in text
    assert "sage_2 searched before 1,068 16.0 2.5 69 %" in text


def test_diversity_is_shown_by_policy_or_its_absence_explained(contents: dict[str, Any]) -> None:
    row = {"policy": "sage_1", "of": "replies", "n": 20, "low": 0.5, "high": 0.7}
    rows = [{**row, "statistic": "distinct_1", "value": 0.65}, {**row, "statistic": "self_bleu", "value": 0.31}]
    text = text_of(render_report(contents, diversity=from_rows(rows, schemas.DIVERSITY)))
    assert "sage_1 65 % 50 % to 70 % – – 31 % 50 % to 70 % – – –" in text
    none = text_of(render_report(contents, diversity=from_rows([], schemas.DIVERSITY)))
    assert "There are too few situations: it takes twenty." in none


def test_failures_are_shown_with_their_rules_and_examples(contents: dict[str, Any]) -> None:
    modes = with_values(contents["failure_modes"], share=0.0125, low=0.006, high=0.026)
    example = {"policy": "sage_2", "failure": "poses_as_human", "situation_id": "test/7", "exchange": 2}
    example |= {"why": "my wife", "text": "So did my wife!"}
    table = from_rows([example], schemas.FAILING_REPLIES)
    text = text_of(render_report(contents, failure_modes=modes, failing_replies=table))
    assert all(f"{failure.replace('_', ' ')}: {rule}" in text for failure, rule in FAILURES.items())
    assert "sage_1 1.2 % 0.6 % to 2.6 %" in text
    assert "poses as human: examples sage_2, exchange 2 on test/7, my wife: So did my wife!" in text
    assert "stock opening: examples" not in text


def test_the_validity_of_blocks_is_shown_with_and_without_a_held_form(contents: dict[str, Any]) -> None:
    text = text_of(render_report(contents))
    assert "sage_1 6.2 % 0.0 % to 100.0 % 3 of 48 100.0 % 0.0 % to 100.0 % 48 of 48" in text
    without = render_report(contents, form_validity=from_rows([], schemas.FORM_VALIDITY))
    assert "everyday openings" not in text_of(without)


def test_an_empty_search_and_a_run_without_blocks_have_a_report(contents: dict[str, Any]) -> None:
    text = text_of(
        render_report(
            contents,
            trajectories_1=from_rows([], schemas.TRAJECTORIES),
            candidates_1=from_rows([], schemas.CANDIDATES),
            emotion_accuracy=from_rows([], schemas.EMOTION_ACCURACY),
        )
    )
    assert "The last search kept no dialogue." in text and "No policy of this run writes blocks." in text


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "1"), (0.2719, "0.27"), (0.0015, "0.0015"), (0.00065, "6.5e-04"), (3e-44, "3.0e-44"), (0.0, "<2e-308")],
)
def test_p_values_keep_two_digits(p: float, text: str) -> None:
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("factor", "text"), [(0.00523, "×0.0052"), (1.84, "×1.8"), (24.4, "×24"), (1e18, "over ×1,000")]
)
def test_factors_keep_two_digits(factor: float, text: str) -> None:
    assert times(factor) == text


def test_a_missing_share_is_a_dash() -> None:
    assert percent(None) == percent(float("inf")) == "–"
