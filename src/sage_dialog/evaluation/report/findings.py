"""Findings on each judge: its figures as a table, and in sentences what they show."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.report.formatting import index_rows, percent, times, with_interval

JUDGE_CHECKS = {
    "order_flips": "the answer changes with the order of the two",
    "names_first": "where one dialogue is named, it is the one read first",
    "says_tie": "the answer is a tie",
    "unreadable": "the answer cannot be read",
}
LEANINGS = {  # below one half, above it
    "names_first": ("leans to the second place", "leans to the first place"),
}
MANY_UNREADABLE = 0.02

Row = Mapping[str, Any]
Pair = tuple[str, str]


def describe_leaning(row: Row) -> str:
    """Return the bias that a row of `schemas.JUDGE_CHECKS` shows; "" for a statistic that is unbiased at no half."""
    if row["statistic"] not in LEANINGS:
        return ""
    below, above = LEANINGS[row["statistic"]]
    return below if row["high"] < 0.5 else above if row["low"] > 0.5 else "no bias detected"


def findings_by_judge(
    judge_checks: DataFrame,
    win_rates: DataFrame,
    length_control: DataFrame,
    judge_agreement: DataFrame,
    self_preference: DataFrame,
    truths: Collection[str],
    confidence: float,
) -> dict[str, list[str]]:
    """Return by judge a sentence for each significant finding; `truths` are the judges that know the truth."""
    return {
        judge: [
            *_against_truth(judge, judge_agreement, truths),
            *_by_order(of_judge),
            *_by_length(_pairs_of(win_rates, judge), _pairs_of(length_control, judge), confidence),
            *_by_relation(self_preference[self_preference["judge"] == judge]),
        ]
        for judge, of_judge in index_rows(judge_checks, "judge", "statistic").items()
    }


def significant_differences(
    win_rates: DataFrame, judge_agreement: DataFrame, truths: Collection[str], confidence: float
) -> dict[str, dict[str, Any]]:
    """Return by judge how many pairs of policies differ significantly after Holm's adjustment.

    Args:
        win_rates: a table of `schemas.WIN_RATES`, with the rows of the truth.

    Returns:
        "pairs" and "significant", two numbers; "truth", sentences on the agreement with the truth.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in to_rows(win_rates):
        of_judge = found.setdefault(row["judge"], {"pairs": 0, "significant": 0})
        of_judge["pairs"] += 1
        of_judge["significant"] += _is_significant(row, confidence)
    for judge, of_judge in found.items():
        of_judge["truth"] = list(_against_truth(judge, judge_agreement, truths))
    return found


def win_rates_by_pair(win_rates: DataFrame, confidence: float) -> dict[Pair, list[dict[str, Any]]]:
    """Return the rows of each pair, one for each judge, with `leads`: the policy, "a" or "b", that is better.

    It is None where the difference is not significant after Holm's adjustment. Pairs and judges are in order of
    appearance.
    """
    by_pair: dict[Pair, list[dict[str, Any]]] = {}
    for row in to_rows(win_rates):
        significant = _is_significant(row, confidence)
        leads = None if not significant else "b" if row["win_rate_b"] > 0.5 else "a"
        by_pair.setdefault((row["policy_a"], row["policy_b"]), []).append({**row, "leads": leads})
    return by_pair


def situations_for_all_pairs(sample_sizes: DataFrame) -> list[dict[str, Any]]:
    """Return by judge and true share how many situations show the difference in each of its pairs, tested together.

    Returns:
        "judge", "true_share", "pairs" and "needed", which is None if nothing was decided in a pair.
    """
    families = []
    for (judge, share), rows in sample_sizes.groupby(["judge", "true_share"], sort=False):
        together = rows[rows["pairs"] == rows["pairs"].max()]
        needed = None if together["needed"].isna().any() else int(together["needed"].max())
        families.append({"judge": judge, "true_share": share, "pairs": len(together), "needed": needed})
    return families


def _is_significant(row: Row, confidence: float) -> bool:
    """Return whether a row of `schemas.WIN_RATES` shows a difference, adjusted for all pairs of the judge."""
    return row["win_rate_b"] is not None and row["p_adjusted"] <= 1 - confidence


def _complement(row: Row) -> dict[str, float]:
    """Return the share of the other side, with its interval."""
    return {"value": 1 - row["value"], "low": 1 - row["high"], "high": 1 - row["low"]}


def _pairs_of(table: DataFrame, judge: str) -> dict[Pair, Row]:
    return {(row["policy_a"], row["policy_b"]): row for row in to_rows(table[table["judge"] == judge])}


def _against_truth(judge: str, judge_agreement: DataFrame, truths: Collection[str]) -> Iterator[str]:
    for row in to_rows(judge_agreement):
        two = {row["judge_a"], row["judge_b"]}
        if row["policy_a"] is not None or judge in truths or judge not in two or not (two & set(truths)):
            continue
        (truth,) = two - {judge}
        if not row["decided"]:
            yield f"Decides none of the pairs of dialogues that the {truth} decides, so the two cannot be compared."
            continue
        coin = "not shown to be better than a coin" if row["same_low"] <= 0.5 else "better than a coin"
        usual = "among winners, no evidence that it sees more than which policy is usually better"
        more = f": {usual}" if row["same_low"] <= row["same_by_lot"] else ""
        yield (
            f"Names the winner that the {truth} names in "
            f"{with_interval(row, 'same_winner', 'same_low', 'same_high')} of the {row['decided']:,} pairs of "
            f"dialogues that both decide: {'worse than a coin' if row['same_high'] < 0.5 else coin}. Assigned to "
            f"situations at random, the same wins would agree in {percent(row['same_by_lot'])}{more}."
        )
        if row["kappa"] is not None:
            chance = "more than chance" if row["kappa_low"] > 0 else "not shown to be more than chance"
            yield (
                f"On wins and ties, its agreement with the {truth} beyond chance within pairs of policies is kappa "
                f"{row['kappa']:z.2f} ({row['kappa_low']:z.2f} to {row['kappa_high']:z.2f}): {chance}."
            )


def _by_order(checks: Mapping[str, Row]) -> Iterator[str]:
    first = checks.get("names_first")
    if first and not first["low"] <= 0.5 <= first["high"]:
        place, share = ("first", first) if first["value"] > 0.5 else ("second", _complement(first))
        yield (
            f"Names the {place} dialogue in {with_interval(share)} of the answers that name one, where an unbiased "
            f"judge has {percent(0.5)}: the position counts."
        )
    if flips := checks.get("order_flips"):
        chance = flips["by_chance"]
        blind = ": no evidence that it reads them" if flips["high"] >= chance else ""
        yield (
            f"Changes its answer with the order on {with_interval(flips)} of the pairs of dialogues; its answers, "
            f"assigned at random within pairs of policies, would on {percent(chance)}{blind}."
        )
    if (unreadable := checks.get("unreadable")) and unreadable["value"] > MANY_UNREADABLE:
        yield f"Cannot be read in {with_interval(unreadable)} of its answers."


def _by_length(rates: Mapping[Pair, Row], lengths: Mapping[Pair, Row], confidence: float) -> Iterator[str]:
    slopes = [row for row in lengths.values() if row["odds_by_doubling"] is not None]
    if not slopes or not _away_from(1, slopes[0], "odds_"):
        return
    by, low, high = (times(slopes[0][name]) for name in ("odds_by_doubling", "odds_low", "odds_high"))
    odds = f"by {by} ({low} to {high})"
    sentence = f"Within pairs of policies, writing twice as much multiplies the odds of winning {odds}"
    leads = [pair for pair, row in rates.items() if _is_significant(row, confidence)]
    clear = sum(_same_lead(rates[pair], lengths[pair]) for pair in leads if pair in lengths)
    if leads:
        of_leads = f"{len(leads)} clear {'lead' if len(leads) == 1 else 'leads'}"
        sentence += f": of its {of_leads}, {clear or 'none'} {'are' if clear > 1 else 'is'} clear at equal length"
    yield f"{sentence}."


def _away_from(even: float, row: Row, prefix: str = "") -> bool:
    return not row[f"{prefix}low"] <= even <= row[f"{prefix}high"]


def _same_lead(rate: Row, length: Row) -> bool:
    """Return whether the policy that leads is significantly better at equal length, too."""
    return bool(length["low"] > 0.5 if rate["win_rate_b"] > 0.5 else length["high"] < 0.5)


def _by_relation(self_preference: DataFrame) -> Iterator[str]:
    for row in to_rows(self_preference):
        if row["difference"] is not None and _away_from(0, row):
            more = "more" if row["difference"] > 0 else "less"
            yield (
                f"Gives {row['policy']} ({row['relation']} as its own) {abs(row['difference']) * 100:.0f} points of "
                f"100 {more} than other judges do, against {row['other_policy']}."
            )
