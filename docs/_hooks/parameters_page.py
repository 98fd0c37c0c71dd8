"""Writes the page of parameters from their types and from conf/base, as the site is built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from kedro.config import OmegaConfigLoader
from mkdocs.structure.files import File
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sage_dialog.config import Parameters
from sage_dialog.settings import CONFIG_LOADER_ARGS

PROJECT = Path(__file__).parents[2]
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

INTRODUCTION = """# Parameters

Every dial, its value in `conf/base`, what it may be, and what it means. An environment (`--env NAME`, files in
`conf/NAME`) or `--params stage.dial=value` names only what it changes; a name that is not here, or a value out of
range, is refused before anything runs.
"""


def on_files(files: Any, config: Any) -> Any:
    """Adds `parameters.md`."""
    files.append(File.generated(config, "parameters.md", content=page()))
    return files


def page() -> str:
    """The page, as Markdown."""
    loader = OmegaConfigLoader(str(PROJECT / "conf"), base_env="base", default_run_env="base", **_resolvers())
    values = loader["parameters"]
    general, stages = [], []
    for name, field in Parameters.model_fields.items():
        model = _model(field.annotation)
        if model is None:
            general.append(_row(name, field, values.get(name)))
        else:
            rows = list(_rows(model, name, values.get(name)))
            stages.append(f"## {name}\n\n{_table(rows)}")
    return "\n".join([INTRODUCTION, "## For all stages\n", _table(general), *stages])


def _resolvers() -> dict[str, Any]:
    return {key: value for key, value in CONFIG_LOADER_ARGS.items() if key not in ("base_env", "default_run_env")}


def _rows(model: type[BaseModel], path: str, values: Any) -> Iterator[str]:
    for name, field in model.model_fields.items():
        dotted, value = f"{path}.{name}", values.get(name) if isinstance(values, dict) else None
        inner = _model(field.annotation)
        if inner is not None and get_origin(field.annotation) is dict:  # by a name of the user's; they are alike
            yield from _rows(inner, f"{dotted}.NAME", next(iter(value.values()), None) if value else None)
        elif inner is not None and isinstance(value, dict):
            yield from _rows(inner, dotted, value)
        else:
            yield _row(dotted, field, value if isinstance(values, dict) and name in values else field.default)


def _table(rows: list[str]) -> str:
    return "\n".join(["| dial | conf/base | may be | is |", "| --- | --- | --- | --- |", *rows, ""])


def _row(dotted: str, field: FieldInfo, value: Any) -> str:
    cells = (f"`{dotted}`", f"`{_shown(value)}`", _kind(field), field.description or "")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:39]}…"


def _kind(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, sign in BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    kinds = _named(field.annotation).split(" or ")
    return ", or ".join([" ".join([kinds[0], " and ".join(limits)]).strip(), *kinds[1:]])


def _named(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if annotation is type(None):
        return "null"
    inner = get_args(annotation)
    if get_origin(annotation) in (tuple, list):
        return "list"
    if get_origin(annotation) is dict:
        return "mapping"
    if inner:
        return " or ".join(dict.fromkeys(_named(part) for part in inner if not _is_bound(part)))
    names = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false"}
    return names.get(getattr(annotation, "__name__", ""), "mapping")


def _is_bound(part: Any) -> bool:
    return not isinstance(part, type) and get_origin(part) is None and part is not None


def _model(annotation: Any) -> type[BaseModel] | None:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None
