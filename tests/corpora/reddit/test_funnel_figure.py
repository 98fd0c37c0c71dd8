"""The funnel: every rule has a description, counts are summed, and any report can be drawn."""

import io

import pytest
from matplotlib import image
from matplotlib.figure import Figure

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.corpora.reddit.funnel import Month, filter_warnings, months, steps
from sage_dialog.corpora.reddit.funnel_figure import funnel_figure
from sage_dialog.corpora.reddit.rules import Rule
from sage_dialog.schemas import FILTER_REPORT


def report(**by_month: list[tuple[str, str, int]]) -> DataFrame:
    """Return a FILTER_REPORT from 1,000 lines a month and the removals of each rule (name, unit, number)."""
    rows = []
    for month, taken in by_month.items():
        n_in = 1_000
        for step, (rule, unit, removed) in enumerate(taken, start=1):
            row = {"month": month, "step": step, "rule": rule, "unit": unit}
            rows.append(row | {"n_in": n_in, "n_removed": removed})
            n_in -= removed
    return from_rows(rows, FILTER_REPORT)


JANUARY = [("submission", "line", 200), ("quote", "comment", 0), ("not_a_leaf", "comment", 500), ("link", "path", 290)]
FEBRUARY = [
    ("submission", "line", 100),
    ("quote", "comment", 50),
    ("not_a_leaf", "comment", 600),
    ("link", "path", 250),
]
BOTH = report(january=JANUARY, february=FEBRUARY)


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def size(figure: Figure) -> tuple[int, int]:
    height, width = image.imread(io.BytesIO(png(figure))).shape[:2]
    return width, height


def test_every_rule_has_a_description() -> None:
    assert all(rule.meaning for rule in Rule)


def test_steps_are_summed_over_months() -> None:
    summed = [(step.rule, step.unit, step.n_in, step.n_removed) for step in steps(BOTH)]
    assert summed == [
        ("submission", "line", 2_000, 300),
        ("quote", "comment", 1_700, 50),
        ("not_a_leaf", "comment", 1_650, 1_100),
        ("link", "path", 550, 540),
    ]
    assert steps(BOTH)[-1].left == 10
    assert steps(BOTH[::-1]) == steps(BOTH)


def test_each_month_has_its_counts() -> None:
    assert months(BOTH) == [Month("february", 1_000, 900, 250, 0), Month("january", 1_000, 800, 300, 10)]


def test_a_rule_that_removes_almost_everything_is_a_warning() -> None:
    lossy = [("submission", "line", 950), ("quote", "comment", 46), ("link", "path", 4)]
    assert not list(filter_warnings(BOTH))
    assert not list(filter_warnings(report(january=lossy)))  # submissions are no loss, and the others reach few
    many = report(january=lossy)
    many = many.assign(n_in=many["n_in"] * 1_000, n_removed=many["n_removed"] * 1_000)
    assert list(filter_warnings(many)) == [
        "quote removes 92.0 % of 50,000 comments: comments that quote (>).",
        "link removes 100 % of 4,000 paths: paths with a link.",
        "Only 0 dialogues came of 1,000,000 lines: few to train on.",
    ]


def test_a_rule_that_empties_a_month_is_a_warning_with_its_months() -> None:
    emptied = [("no_submission", "comment", 1_000)]
    usual = {f"2015-{month:02d}": [("no_submission", "comment", 1)] for month in range(1, 10)}
    (warning,) = filter_warnings(report(**usual | {"2015-04": emptied}))
    lost = "comments whose thread's submission was not read."
    assert warning == f"no_submission removes over 90 % of all comments in 2015-04: {lost}"
    (warning,) = filter_warnings(report(**usual | {f"2016-{month:02d}": emptied for month in range(1, 9)}))
    months_named = ", ".join(f"2016-{month:02d}" for month in range(1, 7))
    assert warning == f"no_submission removes over 90 % of all comments in {months_named} and 2 more months: {lost}"


def test_equal_reports_make_equal_figures() -> None:
    assert png(funnel_figure(BOTH)) == png(funnel_figure(BOTH)) != png(funnel_figure(BOTH[:4]))


def test_a_figure_has_a_bar_for_each_rule_that_removed_something() -> None:
    two, three, all_rules = (
        size(funnel_figure(report(month=taken)))
        for taken in ([("link", "path", 1)], [("link", "path", 1), ("quote", "path", 1)], JANUARY * 8)
    )
    assert two[0] == three[0] == all_rules[0]
    assert two[1] < three[1] < all_rules[1] < 3_000


@pytest.mark.parametrize(
    "rows",
    [
        from_rows([], FILTER_REPORT),
        report(month=[("submission", "line", 0)]),
        report(month=[("submission", "line", 1_000), ("link", "path", 0)]),
        BOTH.assign(n_in=0, n_removed=0),
        BOTH.assign(n_in=BOTH["n_in"] * 3_300_000, n_removed=BOTH["n_removed"] * 3_300_000),
    ],
    ids=["no months", "nothing taken", "nothing left", "no lines", "all of Reddit"],
)
def test_any_report_can_be_drawn(rows: DataFrame) -> None:
    assert size(funnel_figure(rows))[0] == 1_350
