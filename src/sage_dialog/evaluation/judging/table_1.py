"""The paper's Table 1 through this project's own code.

    python -m sage_dialog.evaluation.judging.table_1

prints the tables of docs/table_1.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.power import sample_sizes
from sage_dialog.evaluation.judging.ranking import ranking
from sage_dialog.evaluation.judging.votes import ORDERS, JudgedPair, win_rates
from sage_dialog.evaluation.report.formatting import p_value, percent, thousands

BOOTSTRAP = Bootstrap(confidence=0.95, replicates=4000, seed=0)
TRUE_SHARES = (0.525, 0.55, 0.6)


class Printed(NamedTuple):
    """A row of the table as it is printed, policies by their names here; `below` is the p-value its stars claim."""

    pair: JudgedPair
    wins_a: int
    ties: int
    wins_b: int
    below: float | None


def _printed() -> Iterator[Printed]:
    star, two_stars = 1e-10, 1e-50
    pairs = (
        ("sage_0", "sage_1"),
        ("sage_1_plain", "sage_1"),
        ("sage_1", "sage_2"),
        ("sage_2", "sage_3"),
        ("sage_3", "sage_dpo"),
        ("sage_0", "sage_dpo"),
    )
    stars = (star, star, star, None, None, two_stars)
    counts = {
        "GPT-3.5": (
            (688, 892, 964), (823, 852, 869), (690, 945, 859), (811, 911, 822), (768, 941, 835), (542, 899, 1103),
        ),
        "Mixtral": (
            (617, 1105, 822), (684, 1043, 817), (619, 1086, 839), (720, 1076, 748), (753, 1063, 728), (473, 1184, 887),
        ),
    }  # fmt: skip
    for judge, rows in counts.items():
        for pair, row, below in zip(pairs, rows, stars, strict=True):
            yield Printed(JudgedPair(judge, *pair), *row, below)


PRINTED = tuple(_printed())


def printed_votes() -> list[dict[str, Any]]:
    """Votes, as rows of `schemas.JUDGE_VOTES`, that give the printed counts.

    Which situations a policy won is not printed, so each pair has situations of its own, and both orders say the same.
    """
    votes = []
    for row in PRINTED:
        results = ["a"] * row.wins_a + ["tie"] * row.ties + ["b"] * row.wins_b
        votes += [
            {
                **row.pair._asdict(),
                "situation_id": f"{row.pair.policy_a}-{row.pair.policy_b}/{number}",
                "order": order,
                "vote": result,
                "raw_response": None,
            }
            for number, result in enumerate(results)
            for order in ORDERS
        ]
    return votes


def reproduce_table_1() -> list[dict[str, Any]]:
    """The rows of `schemas.WIN_RATES` that the printed counts give, in the paper's order."""
    return win_rates(printed_votes(), BOOTSTRAP)


def tables() -> str:
    """The three tables of docs/table_1.md, in Markdown: win rates, ranking, what so many situations can show."""
    rates = reproduce_table_1()
    return "\n\n".join([_win_rates(rates), _ranking(), _sample_sizes(rates)])


def _win_rates(rates: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for printed, row in zip(PRINTED, rates, strict=True):
        claim, holds = "none", ""
        if printed.below:
            claim, holds = f"p < {printed.below:.0e}", "yes" if row["p_value"] < printed.below else "**no**"
        share = f"{percent(row['win_rate_b'], 1)} ({percent(row['low'], 1)} to {percent(row['high'], 1)})"
        counts = (row["wins_a"], row["ties"], row["wins_b"])
        tests = (p_value(row["p_value"]), p_value(row["p_adjusted"]))
        rows.append(
            (row["judge"], f"`{row['policy_a']}`", f"`{row['policy_b']}`", *counts, share, *tests, claim, holds)
        )
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
            for row in ranking(printed_votes(), BOOTSTRAP)
        ],
    )


def _sample_sizes(rates: Sequence[Mapping[str, Any]]) -> str:
    return _markdown(
        "judge, decided:, true share:, tested, shown by so many:, needed for 80 %:",
        [
            (
                *(row["judge"], f"{percent(row['decided'])} of {thousands(row['n'])}", percent(row["true_share"], 1)),
                *("alone" if row["pairs"] == 1 else "among six", percent(row["power"]), thousands(row["needed"])),
            )
            for row in sample_sizes(rates, TRUE_SHARES, BOOTSTRAP.confidence, power=0.8)
        ],
    )


def _markdown(heading: str, rows: Iterable[Iterable[object]]) -> str:
    """A table; columns whose heading ends in a colon are set to the right."""
    names = heading.split(", ")
    lines = [[name.rstrip(":") for name in names], ["---:" if name.endswith(":") else "---" for name in names], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    print(tables())
