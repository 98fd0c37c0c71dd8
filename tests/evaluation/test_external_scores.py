"""Means of external scores."""

import pytest

from sage_dialog import schemas
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.evaluation.statistics import mean_scores


def test_external_scores_are_averaged_by_exchange_or_all() -> None:
    rows = [
        {
            "scorer": "world",
            "policy": policy,
            "situation_id": id_,
            "statistic": "suitable",
            "exchange": exchange,
            "value": v,
        }
        for policy, id_, exchange, v in [
            ("sage_0", "s1", 1, 0.0),
            ("sage_0", "s1", 2, 1.0),
            ("sage_0", "s2", 1, 1.0),
            ("sage_1", "s1", 1, 0.5),
        ]
    ]
    table = from_rows(rows, schemas.EXTERNAL_SCORES)
    first, all_exchanges = (
        {row["policy"]: (row["value"], row["n"]) for row in to_rows(means)}
        for means in (mean_scores(table, 0.95, exchange=1), mean_scores(table, 0.95))
    )
    assert first == {"sage_0": (0.5, 2), "sage_1": (0.5, 1)}
    assert all_exchanges == {"sage_0": (pytest.approx(2 / 3), 3), "sage_1": (0.5, 1)}


def test_an_external_score_beyond_one_is_named() -> None:
    row = {"scorer": "w", "policy": "p", "situation_id": "s7", "statistic": "suitable", "exchange": 1, "value": 1.5}
    with pytest.raises(ValueError, match=r"s7.*not between 0 and 1"):
        mean_scores(from_rows([row], schemas.EXTERNAL_SCORES), 0.95)
