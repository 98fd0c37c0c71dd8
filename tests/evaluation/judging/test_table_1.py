"""The paper's Table 1: its printed counts give the known figures, and the page shows the output of the code."""

from pathlib import Path

import pytest
from judging_tables import table_rows

from sage_dialog import schemas
from sage_dialog.evaluation.judging.table_1 import PRINTED, reproduce_table_1, tables
from sage_dialog.evaluation.statistics import sign_test

PAGE = Path(__file__).parents[3] / "docs" / "table_1.md"
P_VALUES = {  # two-sided, exact; None where it is above 0.05
    "GPT-3.5": (1.2e-11, 0.27, 1.9e-5, None, None, 3e-44),
    "Mixtral": (7e-8, 6.5e-4, 9e-9, None, None, 1.5e-29),
}


def test_printed_counts_are_complete() -> None:
    sums = [row.wins_a + row.ties + row.wins_b for row in PRINTED]
    assert len(PRINTED) == 12 and sums.count(2544) == 11 and sums.count(2494) == 1
    assert sum(row.below is not None for row in PRINTED) == 8


def test_printed_counts_give_the_known_figures() -> None:
    rows = table_rows(reproduce_table_1(), schemas.WIN_RATES)
    assert [(row["wins_a"], row["ties"], row["wins_b"]) for row in rows] == [
        (row.wins_a, row.ties, row.wins_b) for row in PRINTED
    ]
    for judge, expected in P_VALUES.items():
        found = [row["p_value"] for row in rows if row["judge"] == judge]
        for p, known in zip(found, expected, strict=True):
            assert p > 0.05 if known is None else p == pytest.approx(known, rel=0.15 if known == 3e-44 else 0.06)
    holding = [(row["judge"], row["policy_b"]) for row, printed in zip(rows, PRINTED, strict=True)
               if printed.below and row["p_value"] < printed.below]  # fmt: skip
    assert holding == [("GPT-3.5", "sage_1")]
    assert rows[1]["policy_a"] == "sage_1_plain" and rows[1]["low"] < 0.5 < rows[1]["high"]
    assert all(row["p_adjusted"] >= row["p_value"] for row in rows)
    assert len(rows) == 12


def test_the_row_with_fifty_missing_is_below_its_star_with_them_too() -> None:
    assert sign_test(690, 859 + 50) == pytest.approx(4.8e-8, rel=0.02)
    assert "With 909 the test gives 4.8e-08" in PAGE.read_text()


@pytest.mark.slow
def test_the_page_shows_the_output_of_the_code() -> None:
    page = PAGE.read_text()
    for table in tables().split("\n\n"):
        assert table in page, "docs/table_1.md is not what `python -m sage_dialog.evaluation.judging.table_1` prints"
