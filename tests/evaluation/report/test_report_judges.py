"""The report's win rates, rankings and judges."""

import re
from typing import Any

import pandas as pd
from report_page import render_report, text_of, with_values

from sage_dialog import schemas
from sage_dialog.core.tables import conform, from_rows, to_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.raters import rater_agreement
from sage_dialog.evaluation.judging.votes import win_rates


def test_judges_stand_together_pair_by_pair(contents: dict[str, Any]) -> None:
    second = with_values(contents["win_rates"], judge="second-judge")
    both = pd.concat([contents["win_rates"], second])
    facets = render_report(contents, win_rates=both).split('<section id="win-rates">')[1].split("<table>")[0]
    assert facets.count('<div class="facet">') == len(contents["win_rates"])
    for facet in facets.split('<div class="facet">')[1:]:
        assert re.findall('<div class="of-judge">(.*?)</div>', facet) == ["offline-test-judge", "second-judge"]


def test_kinds_of_ties_are_shown(contents: dict[str, Any]) -> None:
    mixed_ties = with_values(contents["win_rates"], ties=7, both_say_tie=1, inconsistent=4, unreadable=2)
    text = text_of(render_report(contents, win_rates=mixed_ties))
    row = to_rows(mixed_ties)[0]
    assert f"{row['policy_b']} {row['judge']} {row['n']} {row['wins_a']} 7 {row['wins_b']} 1 4 2" in text


def test_the_adjusted_p_value_is_that_of_the_table(contents: dict[str, Any]) -> None:
    text = text_of(
        render_report(contents, win_rates=with_values(contents["win_rates"], p_value=0.012, p_adjusted=0.34))
    )
    assert text.count(" 0.012 0.34 ") == len(contents["win_rates"])


def test_the_outcome_rule_is_described(contents: dict[str, Any]) -> None:
    assert "a policy wins where both orders name it" in text_of(render_report(contents))
    half = contents["params:evaluation"].model_copy(update={"outcome_rule": "half"})
    assert "each order counts half" in text_of(render_report(contents, evaluation=half))


def test_the_ranking_shows_judges_side_by_side(contents: dict[str, Any]) -> None:
    first = to_rows(contents["ranking"])
    second = [{**row, "judge": "second-judge", "rank": 5 - row["rank"]} for row in first if row["policy"] != "sage_1"]
    both = from_rows([*first, *second], schemas.RANKING)
    text = text_of(render_report(contents, ranking=both))
    assert "policy rank offline-test-judge rank second-judge" in text
    for row in first:
        cells = f"{row['policy']} {row['rank']} ({row['best_rank']} to {row['worst_rank']})"
        assert cells in text or f"{row['policy']} {row['rank']} (alone)" in text
    assert "– not compared" in text and "groups of their own" not in text
    grouped = text_of(render_report(contents, ranking=pd.concat([both, with_values(both, group=2)])))
    assert "groups of their own" in grouped


def test_findings_on_judges_are_described(contents: dict[str, Any]) -> None:
    def check(judge: str, statistic: str, value: float) -> dict[str, Any]:
        row = {"judge": judge, "statistic": statistic, "n": 2400, "value": value, "by_chance": 0.5}
        return row | {"low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05)}

    checks = [check("fair", "order_flips", 0.1), check("fair", "names_first", 0.52)]
    checks += [check("biased", "order_flips", 0.93), check("biased", "names_first", 0.97)]
    table = from_rows(checks, schemas.JUDGE_CHECKS)
    text = text_of(render_report(contents, judge_checks=table))
    assert "fair biased the answer changes with the order of the two 10 % 5 % to 15 %, n 2,400 93 %" in text
    assert "52 % 47 % to 57 %, n 2,400 no bias detected 97 % 92 % to 100 %, n 2,400 leans to the first place" in text


def test_length_agreement_kinship_and_sizes_are_shown(contents: dict[str, Any]) -> None:
    kin = {"judge": "big-judge", "policy": "sage_0", "relation": "same model", "other_policy": "sage_1", "n": 12}
    kin |= {"share": 0.7, "neutral_share": 0.45, "difference": 0.25, "low": 0.1, "high": 0.4}
    alone = {**kin, "judge": "lone-judge", "neutral_share": None, "difference": None, "low": None, "high": None}
    text = text_of(render_report(contents, self_preference=from_rows([kin, alone], schemas.SELF_PREFERENCE)))
    row = to_rows(contents["length_control"])[0]
    assert f"{row['policy_a']} {row['policy_b']} {row['words_a']:.0f} {row['words_b']:.0f}" in text
    assert "offline-test-judge offline-twin all 36 100 %" in text
    assert "offline-test-judge offline-twin sage_0, sage_1 12 100 %" in text
    assert "big-judge sage_0 same model sage_1 12 70 % 45 % 25 % 10 % to 40 %" in text
    assert "lone-judge sage_0 same model sage_1 12 70 % – no judge to compare with" in text
    sizes = to_rows(contents["sample_sizes"])
    for row in sizes:
        if row["pairs"] == 1:
            cells = f"{row['policy_a']} {row['policy_b']} {row['decided']:.0%} of 12 {row['true_share']:.0%}"
            assert f"offline-test-judge {cells}".replace("%", " %") in text and f" {row['needed']:,} " in text
    assert "shows it with a probability of 80 %" in text
    largest = max(row["needed"] for row in sizes if row["true_share"] == 0.6 and row["pairs"] == 3)
    assert f"to show a true share of 60 % in each of its 3 pairs takes {largest:,} situations." in text


def test_one_judge_and_nothing_decided_still_report(contents: dict[str, Any]) -> None:
    undecided = {"equal_length_rate_b": None, "win_rate_b": None, "b_says_more": None, "low": None, "high": None}
    undecided |= {"longer_wins": None, "longer_low": None, "longer_high": None}
    text = text_of(
        render_report(
            contents,
            win_rates=with_values(contents["win_rates"], wins_a=0, wins_b=0, win_rate_b=None, low=None, high=None),
            length_control=with_values(contents["length_control"], **undecided, odds_by_doubling=None),
            judge_agreement=from_rows([], schemas.JUDGE_AGREEMENT),
            self_preference=from_rows([], schemas.SELF_PREFERENCE),
            sample_sizes=with_values(contents["sample_sizes"], decided=0.0, power=0.0, needed=None),
        )
    )
    assert "No two judges judged the same dialogues, so their agreement is unknown." in text
    assert "By their names, no judge is closer to one policy of a pair than to the other." in text
    assert text.count("none decided") == 6  # each pair, in the win rates and at equal length


def test_the_report_of_an_unjudged_run_says_so_only(contents: dict[str, Any]) -> None:
    judged = ("judge_votes", "win_rates", "ranking", "judge_checks", "length_control", "judge_agreement")
    none = {name: contents[name][:0] for name in (*judged, "self_preference", "sample_sizes")}
    html = render_report(contents, judges=[], **none, truth_scores=None)
    text = text_of(html)
    assert "4 policies on 12 test situations" in text
    assert "Win rates No two policies of this run were judged. Predicted user emotion" in text
    assert not any(part in html for part in ("At a glance", "Judged by", "<h2>Ranking", "Both orders agreed"))


def test_people_judge_each_pair_once(contents: dict[str, Any]) -> None:
    single_order = with_values(contents["judge_votes"].query("order == 'ab'"), judge="human:anna")
    tables = ("win_rates", "ranking", "judge_checks", "length_control", "sample_sizes")
    of_anna = {name: with_values(contents[name], judge="human:anna") for name in tables}
    even = {"statistic": "says_tie", "judge": "human:anna", "n": 36, "value": 0.1, "low": 0.02, "high": 0.3}
    of_anna["judge_checks"] = from_rows([even], schemas.JUDGE_CHECKS)
    html = render_report(contents, judges=[], judge_votes=single_order, **of_anna)
    text = text_of(html)
    assert "both orders name a winner" not in text and "Both orders agreed" not in text
    assert "human:anna, in short Nothing stands out in its votes." in text
    static = text.split("With scripts enabled")[1]
    assert "human:anna on sage_0 and sage_1: " in static and "no answer with sage_1 read first" in static


def test_people_are_marked_and_pooled_beside_their_own_rows(contents: dict[str, Any]) -> None:
    votes = contents["judge_votes"]
    raters = [
        votes.query(f"order == {order!r}").assign(judge=f"human:{name}")
        for name, order in (("ann", "ab"), ("bob", "ba"))
    ]
    every = conform(pd.concat([votes, *raters], ignore_index=True), schemas.JUDGE_VOTES)
    bootstrap = Bootstrap(0.95, 100, 0)
    html = render_report(
        contents,
        judge_votes=every,
        win_rates=win_rates(every, 0.95),
        rater_agreement=rater_agreement(every, bootstrap),
    )
    text = text_of(html)
    for judge in ("human:ann", "human:bob", "people together"):
        assert f"sage_0 sage_1 {judge} (one answer each) 12" in text
    assert "offline-test-judge (one answer each)" not in text
    assert "All tests of people are adjusted together." in text
    assert "Agreement of the raters" in text and "all 2 36 72 1.00" in text
    assert "judge=people" not in html  # their answers are those of the raters
    assert "judge: human:ann" in text and "judge: people together" not in text
    without = render_report(contents)
    assert "Krippendorff" not in without and "one answer each" not in without


def test_a_missing_kappa_is_a_dash(contents: dict[str, Any]) -> None:
    without_kappa = with_values(
        contents["judge_agreement"], kappa=None, kappa_low=None, kappa_high=None, decided=0, same_winner=None
    )
    assert "100 % 76 % to 100 % – 0 –" in text_of(render_report(contents, judge_agreement=without_kappa))


def test_the_truth_has_its_own_section_if_there_is_one(contents: dict[str, Any]) -> None:
    text = text_of(render_report(contents))
    assert "Against the generated world's truth" in text and "Suitable replies at the first exchange" in text
    without = text_of(render_report(contents, truth_scores=None))
    assert "truth" not in without and "Suitable" not in without


def test_significant_differences_come_first(contents: dict[str, Any]) -> None:
    rows = to_rows(contents["win_rates"])
    rows[0] |= {"p_adjusted": 0.001, "win_rate_b": 0.2, "low": 0.1, "high": 0.34}
    rows[0] |= {"n": 1200, "wins_a": 832, "ties": 160, "wins_b": 208}
    rows[1] |= {"p_adjusted": 0.2}
    rows[2] |= {"p_adjusted": 0.03, "win_rate_b": 0.9, "low": 0.7, "high": 0.98, "n": 12, "wins_a": 1, "wins_b": 9}
    table = from_rows(rows, schemas.WIN_RATES)
    truth = with_values(
        contents["judge_agreement"][:1],
        judge_b="world truth", kappa=0.07, kappa_low=-0.01, kappa_high=0.15,
        decided=30, same_winner=0.8, same_low=0.6, same_high=0.9, same_by_lot=0.61,
    )  # fmt: skip
    html = render_report(contents, win_rates=table, judge_agreement=truth)
    plot = html.split('<section id="at-a-glance">')[1].split("</section>")[0]
    first = text_of(plot)
    for pair, line in zip(
        ("sage_0 sage_1", "sage_1 sage_2", "sage_0 sage_dpo"),
        ("1,040 1,200 20 % 10 % to 34 % 0.001", None, "10 12 90 % 70 % to 98 % 0.03"),
        strict=True,
    ):
        assert f"{pair} offline-test-judge {line or ''}".strip() in first
    looks = [re.findall('class="range (.*?)"', rows) for rows in plot.split("<tbody>")[1:]]
    assert [of_pair[0] for of_pair in looks] == ["leads-a", "open", "leads-b"]
    assert all(len(of_pair) == 2 for of_pair in looks)  # the judge and the truth
    assert (
        "offline-test-judge, offline rules: 2 of 3 differences are more than chance would make. "
        "Names the winner that the world truth names in 80 % (60 to 90 %) "
        "of the 30 pairs of dialogues that both decide: better than a coin. Assigned to situations at random, the same "
        "wins would agree in 61 %: among winners, no evidence that it sees more than which policy is usually better. "
        "On wins and ties, its agreement with the world truth beyond chance within pairs of policies is kappa 0.07 "
        "(-0.01 to 0.15): not shown to be more than chance."
    ) in first
    assert "world truth, which knows the generated world:" in first


def test_judges_are_compared_with_the_truth_first(contents: dict[str, Any]) -> None:
    row = to_rows(contents["judge_agreement"])[0]
    rows = [row, {**row, "judge_b": "world truth"}, {**row, "judge_a": "x", "judge_b": "y"}]
    table = from_rows(rows, schemas.JUDGE_AGREEMENT)
    text = text_of(render_report(contents, judge_agreement=table)).split("Whether they agree")[1]
    assert text.index("world truth") < text.index("offline-twin") < text.index("x y")
