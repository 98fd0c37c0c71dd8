"""`kedro sage summary` shows the latest results by judge, and those by the truth of the world."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from kedro.io import Version

from sage_dialog import schemas
from sage_dialog.commands.summary import summary
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.datasets.files import AtomicText
from sage_dialog.datasets.parquet import AtomicParquet


def rates(judge: str, **changes: object) -> DataFrame:
    row = {"judge": judge, "policy_a": "sage_0", "policy_b": "sage_[bold]1", "n": 20, "wins_a": 3, "ties": 5}
    row |= {"wins_b": 12, "win_rate_b": 0.8, "low": 0.55, "high": 0.93, "p_value": 0.035, "p_adjusted": 0.07}
    row |= {"rule": "agreement", "both_say_tie": 5, "inconsistent": 0, "unreadable": 0, **changes}
    return from_rows([row], schemas.WIN_RATES)


def keep(data: Path, name: str, table: DataFrame, version: str) -> None:
    filepath = str(data / "08_reporting" / f"{name}.parquet")
    AtomicParquet(filepath=filepath, version=Version(None, version)).save(table)


@pytest.fixture
def run(configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("SAGE_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *given: CliRunner().invoke(summary, list(given), obj=SimpleNamespace(project_path=configured))


def test_the_latest_results_are_printed_by_judge(run: Callable[..., Result], tmp_path: Path) -> None:
    keep(tmp_path, "win_rates", rates("offline-old"), "2026-01-01T00.00.00.000Z")
    keep(tmp_path, "win_rates", rates("offline-rules-judge"), "2026-01-02T00.00.00.000Z")
    keep(
        tmp_path,
        "truth_win_rates",
        rates("world truth", win_rate_b=None, low=None, high=None),
        "2026-01-02T00.00.00.000Z",
    )
    AtomicText(
        filepath=str(tmp_path / "08_reporting/report.html"), version=Version(None, "2026-01-02T00.00.00.000Z")
    ).save("<p>")
    done = run()
    assert done.exit_code == 0, done.stderr
    judged, truth = done.stdout.split("Win rates, world truth, run 2026-01-02T00.00.00.000Z")
    assert "Win rates, offline-rules-judge, run 2026-01-02T00.00.00.000Z" in judged
    assert "offline-old" not in judged
    assert judged.split("sage_[bold]1")[1].split()[:8] == ["20", "3", "5", "12", "0.80", "[0.55,", "0.93]", "0.07"]
    assert "p (Holm)" in judged and "0.035" not in judged
    assert "nothing about language models" in judged
    assert truth.split("sage_[bold]1")[1].split()[:6] == ["20", "3", "5", "12", "–", "0.07"]
    assert "nothing about language models" not in truth
    assert f"Report: {tmp_path}/08_reporting/report.html/2026-01-02T00.00.00.000Z/report.html" in done.stdout
    assert "kedro run --pipelines sage_2" in done.stdout


def test_json_has_the_rows(run: Callable[..., Result], tmp_path: Path) -> None:
    keep(tmp_path, "win_rates", rates("offline-rules-judge"), "2026-01-02T00.00.00.000Z")
    result = json.loads(run("--json").stdout)
    assert result == {
        "win_rates": {"version": "2026-01-02T00.00.00.000Z", "rows": to_rows(rates("offline-rules-judge"))},
        "report": None,
    }


def test_without_results_the_command_to_run_is_printed(run: Callable[..., Result]) -> None:
    done = run()
    assert done.exit_code == 1
    assert "`kedro run --pipelines demo`" in done.stderr
