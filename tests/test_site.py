"""The documentation site: its page of parameters has every parameter with value, range and meaning."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The page's rows by parameter."""
    sys.path.insert(0, str(PROJECT / "docs/_hooks"))
    try:
        import parameters_page
    except ImportError:
        pytest.skip("needs the extra `docs`")
    finally:
        sys.path.pop(0)
    lines = [line for line in parameters_page.page().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.replace("\\|", "¦").strip("| ").split(" | ")] for line in lines]
    return {row[0].strip("`"): row for row in cells}


def test_every_parameter_has_a_comment(rows: dict[str, list[str]]) -> None:
    assert [name for name, row in rows.items() if len(row) < 4 or not row[3]] == []


def test_the_page_has_the_values_of_conf_base(rows: dict[str, list[str]]) -> None:
    assert rows["seed"][1] == "`0`"
    written = yaml.safe_load((PROJECT / "conf/base/parameters_self_play.yml").read_text())["self_play"]
    for name in ("candidates", "max_turns", "replay_share", "one_question"):
        assert rows[f"self_play.{name}"][1] == f"`{str(written[name]).replace('True', 'true')}`"
    assert rows["self_play.agent.top_k"][1] == "`20`"
    assert rows["sft.training.max_steps"][1:3] == ["`null`", "whole number ≥ 1, or null"]
    assert "`data_processing.rule_sets.NAME.min_turns`" in rows["data_processing.rule_sets.NAME.min_turns"][0]
    assert rows["data_processing.executor"][2] == "`processes`, `spark`"
