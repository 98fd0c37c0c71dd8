"""How far judges agree: raw agreement, Cohen's kappa, and whether they name the same winner."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sage_dialog.config import OutcomeRule
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.votes import Outcome, outcomes
from sage_dialog.evaluation.statistics import clustered_share

if TYPE_CHECKING:
    import numpy as np

PLACE: dict[Outcome, int] = {"a": 0, "b": 1, "tie": 2}


def judge_agreement(
    votes: Iterable[Mapping[str, Any]], bootstrap: Bootstrap, rule: OutcomeRule = "agreement"
) -> list[dict[str, Any]]:
    """Every two judges on the pairs and situations that both judged, as rows of `schemas.JUDGE_AGREEMENT`.

    `agreement` is of the outcomes a, b and tie, over all pairs together; `kappa` is Cohen's, agreement beyond what
    the two judges' shares of a, b and tie would give by chance (1 is full, 0 is chance; null where both always say
    the same one thing). `same_winner` is of those that both decide; `same_by_lot` what it would be if, pair by pair,
    each judge named each policy as often as it does, on situations drawn by lot: what two agree on that only know
    which policy is better. Intervals take situations as clusters. Judges that share no situation have no row.
    """
    judged: dict[str, dict[tuple[str, str, str], Outcome]] = {}
    for pair, by_situation in outcomes(votes, rule).items():
        heard = judged.setdefault(pair.judge, {})
        heard |= {(situation, pair.policy_a, pair.policy_b): outcome for situation, outcome in by_situation.items()}
    return [
        {
            "judge_a": judge_a,
            "judge_b": judge_b,
            **_compared(cells, bootstrap, judge_a, judge_b),
            "same_by_lot": _same_by_lot(judged[judge_a], judged[judge_b]),
        }
        for judge_a, judge_b in combinations(judged, 2)
        if len(cells := _cells(judged[judge_a], judged[judge_b]))
    ]


def _cells(of_a: Mapping[tuple[str, str, str], Outcome], of_b: Mapping[tuple[str, str, str], Outcome]) -> np.ndarray:
    """A table of judge a's outcome × judge b's for each situation that both judged."""
    import numpy as np

    both = [key for key in of_a if key in of_b]
    situations = {situation: row for row, situation in enumerate(sorted({key[0] for key in both}))}
    cells = np.zeros((len(situations), 3, 3), dtype=int)
    for key in both:
        cells[situations[key[0]], PLACE[of_a[key]], PLACE[of_b[key]]] += 1
    return cells


def _same_by_lot(
    of_a: Mapping[tuple[str, str, str], Outcome], of_b: Mapping[tuple[str, str, str], Outcome]
) -> float | None:
    """Wins of each policy by judge a times those by judge b, over the situations of the pair that both decide."""
    tables: dict[tuple[str, str], Counter[tuple[Outcome, Outcome]]] = defaultdict(Counter)
    for key in of_a:
        if key in of_b and "tie" not in (of_a[key], of_b[key]):
            tables[key[1:]][of_a[key], of_b[key]] += 1
    decided = sum(table.total() for table in tables.values())
    expected = 0.0
    for table in tables.values():
        wins_a, wins_b = table["a", "a"] + table["a", "b"], table["a", "a"] + table["b", "a"]
        expected += (wins_a * wins_b + (table.total() - wins_a) * (table.total() - wins_b)) / table.total()
    return expected / decided if decided else None


def _compared(cells: np.ndarray, bootstrap: Bootstrap, judge_a: str, judge_b: str) -> dict[str, Any]:
    import numpy as np

    same = np.trace(cells, axis1=1, axis2=2)
    agreement = clustered_share(same.tolist(), cells.sum(axis=(1, 2)).tolist(), bootstrap.confidence)
    total = cells.sum(axis=0)
    expected = float(total.sum(axis=1) @ total.sum(axis=0)) / total.sum() ** 2
    kappa = kappa_low = kappa_high = None
    if expected < 1:
        kappa = float(_kappa(total[None])[0])
        flat = cells.reshape(len(cells), -1)
        totals = bootstrap.totals(flat, np.eye(9), 1 / 9, "kappa", judge_a, judge_b)
        kappa_low, kappa_high = bootstrap.interval(_kappa(totals.reshape(-1, 3, 3)), kappa)
    decided = cells[:, :2, :2].sum(axis=(1, 2))
    row = {
        "n": agreement.n,
        "agreement": agreement.value,
        "low": agreement.low,
        "high": agreement.high,
        "kappa": kappa,
        "kappa_low": kappa_low,
        "kappa_high": kappa_high,
        "decided": int(decided.sum()),
    }
    if not decided.any():
        return row | {"same_winner": None, "same_low": None, "same_high": None}
    named = np.trace(cells[:, :2, :2], axis1=1, axis2=2)
    winner = clustered_share(named.tolist(), decided.tolist(), bootstrap.confidence)
    return row | {"same_winner": winner.value, "same_low": winner.low, "same_high": winner.high}


def _kappa(tables: np.ndarray) -> np.ndarray:
    import numpy as np

    tables = tables / tables.sum(axis=(1, 2), keepdims=True)
    expected = np.einsum("ri,ri->r", tables.sum(axis=2), tables.sum(axis=1))
    return (np.trace(tables, axis1=1, axis2=2) - expected) / (1 - expected)
