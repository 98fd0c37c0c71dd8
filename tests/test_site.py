"""The parameters page of the documentation site lists every parameter with its range and meaning."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from sage_dialog.config import Parameters

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The rows of the page by parameter."""
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


def leaves(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield every leaf parameter of a model with its description."""
    for name, field in model.model_fields.items():
        inner = next(
            (part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)
             and issubclass(part, BaseModel)), None,
        )  # fmt: skip
        if inner is None:
            yield f"{path}{name}", field.description
        else:
            yield from leaves(inner, f"{path}{name}.")


def test_every_parameter_is_described() -> None:
    assert [name for name, description in leaves(Parameters) if not description] == []


def test_the_page_has_the_parameters_of_conf_base_with_their_values(rows: dict[str, list[str]]) -> None:
    assert rows["seed"][1] == "`0`"
    written = yaml.safe_load((PROJECT / "conf/base/parameters_self_play.yml").read_text())["self_play"]
    for name in ("candidates", "max_turns", "replay_share", "one_question"):
        assert rows[f"self_play.{name}"][1] == f"`{str(written[name]).replace('True', 'true')}`"
    assert rows["self_play.agent.top_k"][1] == "`20`"
    assert rows["sft.training.max_steps"][1:3] == ["`null`", "whole number ≥ 1, or null"]
    assert "`data_processing.rule_sets.NAME.min_turns`" in rows["data_processing.rule_sets.NAME.min_turns"][0]
    assert rows["data_processing.executor"][2] == "`processes`, `spark`"
