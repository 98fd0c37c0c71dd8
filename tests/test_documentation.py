"""What the documentation names is there: modules, commands, tables and their columns."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from sage_dialog import schemas
from sage_dialog.parameters import Parameters
from sage_dialog.pipeline_registry import register_pipelines

PROJECT = Path(__file__).parents[1]
TEXTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def test_the_paper_map_names_modules_and_dials_that_exist() -> None:
    rows = [line for line in (PROJECT / "docs/paper-map.md").read_text().splitlines() if line.startswith("| §")]
    places = [place for row in rows for place in re.findall(r"`([a-z_/]+(?:/[a-z_]*|\.py))`", row)]
    dials = [dial for row in rows for dial in re.findall(r"`([a-z_.]+)`", row.split("|")[3]) if "/" not in dial]
    assert len(places) > 10
    assert [place for place in places if not (PROJECT / "src/sage_dialog" / place).exists()] == []
    assert [dial for dial in dials if dial.split(".")[0] not in Parameters.model_fields] == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_every_pipeline_that_is_named_is_registered(text: Path) -> None:
    named = re.findall(r"kedro run[^\n`]*--pipelines ([a-z_0-9,]+)", text.read_text())
    pipelines = register_pipelines()
    assert [name for names in named for name in names.split(",") if name not in pipelines] == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_every_link_into_the_project_leads_somewhere(text: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text.read_text())
    assert [link for link in links if not (text.parent / link).exists()] == []


def test_every_make_target_that_is_named_exists() -> None:
    commands = re.findall(r"(?:^|`)make ([a-z]+)", (PROJECT / "README.md").read_text(), re.MULTILINE)
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "lint"} <= set(commands) <= targets


def test_every_table_is_documented_column_by_column() -> None:
    sections = (PROJECT / "docs/tables.md").read_text().split("\n## ")
    for file in sorted((PROJECT / "conf/base").glob("catalog_*.yml")):
        for name, entry in yaml.safe_load(file.read_text()).items():
            if "validator" in entry:
                section = next(section for section in sections if f"`{name}`" in section.splitlines()[0])
                schema: pa.Schema = getattr(schemas, entry["validator"]["options"]["schema"])
                columns = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
                assert columns == schema.names, name
