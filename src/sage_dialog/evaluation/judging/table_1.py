"""The paper's Table 1 recomputed from its printed counts.

    python -m sage_dialog.evaluation.judging.table_1

prints the tables of docs/table_1.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.power import sample_sizes
from sage_dialog.evaluation.judging.ranking import ranking
from sage_dialog.evaluation.judging.votes import ORDERS, win_rates
from sage_dialog.evaluation.report.formatting import p_value, percent, thousands
from sage_dialog.schemas import JUDGE_VOTES

BOOTSTRAP = Bootstrap(confidence=0.95, replicates=4000, seed=0)
TRUE_SHARES = (0.525, 0.55)
STAR, TWO_STARS = 1e-10, 1e-50


class Printed(NamedTuple):
    """A printed row, with this project's names of policies; `below` is the p-value that its stars claim."""

    judge: str
    policy_a: str
    policy_b: str
    wins_a: int
    ties: int
    wins_b: int
    below: float | None


PRINTED = (
    Printed("GPT-3.5", "sage_0", "sage_1", 688, 892, 964, STAR),
    Printed("GPT-3.5", "sage_1_plain", "sage_1", 823, 852, 869, STAR),
    Printed("GPT-3.5", "sage_1", "sage_2", 690, 945, 859, STAR),
    Printed("GPT-3.5", "sage_2", "sage_3", 811, 911, 822, None),
    Printed("GPT-3.5", "sage_3", "sage_dpo", 768, 941, 835, None),
    Printed("GPT-3.5", "sage_0", "sage_dpo", 542, 899, 1103, TWO_STARS),
    Printed("Mixtral", "sage_0", "sage_1", 617, 1105, 822, STAR),
    Printed("Mixtral", "sage_1_plain", "sage_1", 684, 1043, 817, STAR),
    Printed("Mixtral", "sage_1", "sage_2", 619, 1086, 839, STAR),
    Printed("Mixtral", "sage_2", "sage_3", 720, 1076, 748, None),
    Printed("Mixtral", "sage_3", "sage_dpo", 753, 1063, 728, None),
    Printed("Mixtral", "sage_0", "sage_dpo", 473, 1184, 887, TWO_STARS),
)


def printed_votes() -> DataFrame:
    """Return votes that give the printed counts, as a table of `schemas.JUDGE_VOTES`.

    The paper does not print which situations a policy won; each pair has situations of its own, with equal votes in
    both orders.
    """
    rows = [
        {
            **row._asdict(),
            "situation_id": f"{row.policy_a}-{row.policy_b}/{number}",
            "order": order,
            "vote": vote,
        }
        for row in PRINTED
        for number, vote in enumerate(["a"] * row.wins_a + ["tie"] * row.ties + ["b"] * row.wins_b)
        for order in ORDERS
    ]
    return from_rows(rows, JUDGE_VOTES)


def reproduce_table_1() -> DataFrame:
    """Return the table of `schemas.WIN_RATES` of the printed counts, in the paper's order."""
    return win_rates(printed_votes(), BOOTSTRAP.confidence)


def tables() -> str:
    """Return the three tables of docs/table_1.md as Markdown: win rates, ranking, sample sizes."""
    rates = reproduce_table_1()
    return "\n\n".join([_win_rates(rates), _ranking(), _sample_sizes(rates)])


def _win_rates(rates: DataFrame) -> str:
    rows = []
    for printed, row in zip(PRINTED, to_rows(rates), strict=True):
        claim, holds = "none", ""
        if printed.below:
            claim, holds = f"p < {printed.below:.0e}", "yes" if row["p_value"] < printed.below else "**no**"
        share = f"{percent(row['win_rate_b'], 1)} ({percent(row['low'], 1)} to {percent(row['high'], 1)})"
        pair = (row["judge"], f"`{row['policy_a']}`", f"`{row['policy_b']}`", row["wins_a"], row["ties"], row["wins_b"])
        rows.append((*pair, share, p_value(row["p_value"]), p_value(row["p_adjusted"]), claim, holds))
    heading = "judge, a, b, a wins:, ties:, b wins:, b of decided, p:, p (Holm):, the paper's claim, holds"
    return _markdown(heading, rows)


def _ranking() -> str:
    return _markdown(
        "judge, rank:, policy, score, best rank:, worst rank:",
        [
            (
                *(row["judge"], row["rank"], f"`{row['policy']}`"),
                f"{row['score']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})",
                *(row["best_rank"], row["worst_rank"]),
            )
            for row in to_rows(ranking(printed_votes(), BOOTSTRAP))
        ],
    )


def _sample_sizes(rates: DataFrame) -> str:
    sizes = sample_sizes(rates, TRUE_SHARES, BOOTSTRAP.confidence, power=0.8)
    rows = []
    for _, of_share in sizes.groupby(["judge", "policy_a", "policy_b", "true_share"], sort=False):
        alone, among = to_rows(of_share)
        share = (f"{percent(alone['decided'])} of {thousands(alone['n'])}", percent(alone["true_share"], 1))
        powers = (percent(alone["power"]), percent(among["power"]))
        needed = (thousands(alone["needed"]), thousands(among["needed"]))
        rows.append((alone["judge"], f"`{alone['policy_a']}`", f"`{alone['policy_b']}`", *share, *powers, *needed))
    return _markdown(
        "judge, a, b, decided:, true share:, power:, power among six:, needed for 80 %:, needed among six:", rows
    )


def _markdown(heading: str, rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table; columns whose heading ends in a colon are right-aligned."""
    names = heading.split(", ")
    lines = [[name.rstrip(":") for name in names], ["---:" if name.endswith(":") else "---" for name in names], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    print(tables())
