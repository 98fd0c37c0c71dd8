"""What the report says of each judge: a table of figures, and in words what they give away."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sage_dialog.evaluation.report.formatting import percent, times, with_interval

if TYPE_CHECKING:
    import pyarrow as pa

JUDGE_CHECKS = {
    "order_flips": "the answer changes with the order of the two",
    "names_first": "where one dialogue is named, it is the one read first",
    "names_longer": "where all answers on a pair name one winner, it is the one that says more",
    "says_tie": "the answer is a tie",
    "unreadable": "the answer cannot be read",
}
LEANINGS = {  # below one half, above it
    "names_first": ("leans to the second place", "leans to the first place"),
    "names_longer": ("shorter dialogues win", "longer dialogues win"),
}
MANY_UNREADABLE = 0.02


def leaning(row: Mapping[str, Any]) -> str:
    """What a row of `schemas.JUDGE_CHECKS` shows where even is one half; nothing where another is right."""
    if row["statistic"] not in LEANINGS:
        return ""
    below, above = LEANINGS[row["statistic"]]
    return below if row["high"] < 0.5 else above if row["low"] > 0.5 else "no leaning seen"


def figures(judge_checks: pa.Table) -> dict[str, Any]:
    """Judges, and what each statistic is by judge, in the words of JUDGE_CHECKS."""
    found = {(row["statistic"], row["judge"]): row for row in judge_checks.to_pylist()}
    judges = judge_checks["judge"].unique().to_pylist()
    rows = [
        (statistic, meaning, {judge: found[statistic, judge] for judge in judges if (statistic, judge) in found})
        for statistic, meaning in JUDGE_CHECKS.items()
    ]
    return {"judges": judges, "rows": rows}


def flips_by_lot(checks: Mapping[str, Mapping[str, Any]]) -> float:
    """How often the answer would change with the order if the judge drew each of its answers as often as it gives it.

    Two answers drawn apart agree where both are ties, or where they name different places: 1 - t² - 2 f s, with t
    the share of ties, f and s those of the dialogue read first and second.

    Args:
        checks: one judge's rows of `schemas.JUDGE_CHECKS`, by statistic.
    """
    ties = checks["says_tie"]["value"] if "says_tie" in checks else 0.0
    first = (1 - ties) * checks["names_first"]["value"] if "names_first" in checks else 0.0
    return 1 - ties**2 - 2 * first * (1 - ties - first)


def in_words(
    judge_checks: pa.Table,
    win_rates: pa.Table,
    length_control: pa.Table,
    judge_agreement: pa.Table,
    self_preference: pa.Table,
    truths: Collection[str],
    confidence: float,
) -> dict[str, list[str]]:
    """What the tables show of each judge, a sentence for each thing to know; what is not significant is not claimed.

    Args:
        truths: judges of the agreement table that know the truth; the others are held against them.
    """
    checks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in judge_checks.to_pylist():
        checks.setdefault(row["judge"], {})[row["statistic"]] = row
    return {
        judge: [
            *_against_truth(judge, judge_agreement, truths),
            *_by_order(of_judge),
            *_by_length(of_judge, _pairs_of(win_rates, judge), _pairs_of(length_control, judge), confidence),
            *_by_kinship([row for row in self_preference.to_pylist() if row["judge"] == judge]),
        ]
        for judge, of_judge in checks.items()
    }


def at_a_glance(
    win_rates: pa.Table, judge_agreement: pa.Table, truths: Collection[str], confidence: float
) -> dict[str, dict[str, Any]]:
    """By judge, which pairs of policies it tells apart after Holm's adjustment and which not; how it does by the truth.

    Args:
        win_rates: rows of `schemas.WIN_RATES`, those by the truth among them.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in win_rates.to_pylist():
        of_judge = found.setdefault(row["judge"], {"pairs": 0, "told": [], "open": []})
        of_judge["pairs"] += 1
        if not _told_apart(row, confidence):
            of_judge["open"].append(row)
            continue
        share, better, worse = with_interval(row, "win_rate_b"), row["policy_b"], row["policy_a"]
        if row["win_rate_b"] < 0.5:
            share, better, worse = with_interval(_turned(row, "win_rate_b")), worse, better
        of_judge["told"].append(
            {"better": better, "worse": worse, "share": share, "decided": row["wins_a"] + row["wins_b"], "n": row["n"]}
        )
    for judge, of_judge in found.items():
        of_judge["truth"] = list(_against_truth(judge, judge_agreement, truths))
    return found


def _told_apart(row: Mapping[str, Any], confidence: float) -> bool:
    """Whether the judge tells the two policies of a row of `schemas.WIN_RATES` apart, all its pairs considered."""
    return row["win_rate_b"] is not None and row["p_adjusted"] <= 1 - confidence


def _turned(row: Mapping[str, Any], value: str = "value") -> dict[str, float]:
    """The share of the other side, with its interval."""
    return {"value": 1 - row[value], "low": 1 - row["high"], "high": 1 - row["low"]}


def _pairs_of(rows: pa.Table, judge: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["policy_a"], row["policy_b"]): row for row in rows.to_pylist() if row["judge"] == judge}


def _against_truth(judge: str, judge_agreement: pa.Table, truths: Collection[str]) -> Iterator[str]:
    for row in judge_agreement.to_pylist():
        two = {row["judge_a"], row["judge_b"]}
        if judge in truths or judge not in two or not (two & set(truths)):
            continue
        (truth,) = two - {judge}
        if not row["decided"]:
            yield f"Decides none of the pairs of dialogues that the {truth} decides: there is nothing to compare."
            continue
        coin = "not shown to be better than a coin" if row["same_low"] <= 0.5 else "better than a coin"
        usual = "nothing shows that it sees more than which policy is usually better"
        more = f": {usual}" if row["same_low"] <= row["same_by_lot"] else ""
        yield (
            f"Names the winner that the {truth} names in "
            f"{with_interval(row, 'same_winner', 'same_low', 'same_high')} of the {row['decided']:,} pairs of "
            f"dialogues that both decide: {'worse than a coin' if row['same_high'] < 0.5 else coin}. Dealt out to "
            f"situations by lot, the same wins would agree in {percent(row['same_by_lot'])}{more}."
        )


def _by_order(checks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    first = checks.get("names_first")
    if first and not first["low"] <= 0.5 <= first["high"]:
        place, shown = ("first", first) if first["value"] > 0.5 else ("second", _turned(first))
        yield (
            f"Names the {place} dialogue in {with_interval(shown)} of the answers that name one, where even is "
            f"{percent(0.5)}: its place counts."
        )
    flips = checks.get("order_flips")
    if flips:
        lots = flips_by_lot(checks)
        yield (
            f"Changes its answer with the order on {with_interval(flips)} of the pairs of dialogues; answers drawn by "
            f"lot would on {percent(lots)}{': nothing shows that it reads them' if flips['high'] >= lots else ''}."
        )
    if (unreadable := checks.get("unreadable")) and unreadable["value"] > MANY_UNREADABLE:
        yield f"Cannot be read in {with_interval(unreadable)} of its answers."


def _by_length(
    checks: Mapping[str, Mapping[str, Any]],
    rates: Mapping[tuple[str, str], Mapping[str, Any]],
    lengths: Mapping[tuple[str, str], Mapping[str, Any]],
    confidence: float,
) -> Iterator[str]:
    longer = checks.get("names_longer")
    if not longer or longer["low"] <= 0.5 <= longer["high"]:
        return
    kind, shown = ("longer", longer) if longer["value"] > 0.5 else ("shorter", _turned(longer))
    sentence = f"Where its answers name one winner, that is the {kind} dialogue in {with_interval(shown)}"
    moved = [row for row in lengths.values() if row["win_rate_b"] is not None and _away_from(1, row, "odds_")]
    if moved:
        odds = sorted(row["odds_by_doubling"] for row in moved)
        by = times(odds[0]) if len(odds) == 1 else f"{times(odds[0])} to {times(odds[-1])}"
        sentence += f", and saying twice as much multiplies the odds, in {_of_pairs(len(moved), len(lengths))}, by {by}"
    leads = [pair for pair, row in rates.items() if _told_apart(row, confidence)]
    clear = sum(_same_lead(rates[pair], lengths[pair]) for pair in leads if pair in lengths)
    if leads:
        still = f"{clear or 'none'} {'are' if clear > 1 else 'is'}"
        sentence += (
            f": of its {len(leads)} clear {'lead' if len(leads) == 1 else 'leads'}, {still} clear at equal length"
        )
    yield f"{sentence}."


def _of_pairs(some: int, among: int) -> str:
    return f"{some} of {among} {'pair' if among == 1 else 'pairs'} of policies"


def _away_from(even: float, row: Mapping[str, Any], prefix: str = "") -> bool:
    return not row[f"{prefix}low"] <= even <= row[f"{prefix}high"]


def _same_lead(rate: Mapping[str, Any], length: Mapping[str, Any]) -> bool:
    """Whether the policy that leads is clearly the better one at equal length, too."""
    return bool(length["low"] > 0.5 if rate["win_rate_b"] > 0.5 else length["high"] < 0.5)


def _by_kinship(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        if row["difference"] is not None and _away_from(0, row):
            more = "more" if row["difference"] > 0 else "less"
            yield (
                f"Gives {row['policy']} ({row['relation']} as its own) {abs(row['difference']) * 100:.0f} points of "
                f"100 {more} than other judges do, against {row['other_policy']}."
            )
