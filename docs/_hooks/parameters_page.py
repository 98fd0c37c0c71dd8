"""MkDocs hook that writes the page of parameters: values and comments from conf/base, types from the models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from kedro.config import OmegaConfigLoader
from mkdocs.structure.files import File
from pydantic.fields import FieldInfo

from sage_dialog.config import Parameters
from sage_dialog.hooks.validation import models_in
from sage_dialog.settings import CONFIG_LOADER_ARGS

PROJECT = Path(__file__).parents[2]
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}

INTRODUCTION = """# Parameters

All parameters with their values in `conf/base`, their ranges and their meaning. An environment (`--env NAME`, files
in `conf/NAME`) or `--params stage.parameter=value` names only what it changes. A run with an unknown name or a value
out of range does not start.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add `parameters.md`."""
    files.append(File.generated(config, "parameters.md", content=page()))
    return files


def page() -> str:
    """Return the page as Markdown."""
    options = {key: value for key, value in CONFIG_LOADER_ARGS.items() if key not in ("base_env", "default_run_env")}
    values = OmegaConfigLoader(str(PROJECT / "conf"), base_env="base", default_run_env="base", **options)["parameters"]
    comments = read_comments()
    general, stages = [], []
    for name, field in Parameters.model_fields.items():
        rows = [_row(path, field, value, comments) for path, field, value in _leaves(name, field, values[name])]
        if next(models_in(field.annotation), None):
            stages.append(f"## {name}\n\n{_table(rows)}")
        else:
            general += rows
    return "\n".join([INTRODUCTION, "## For all stages\n", _table(general), *stages])


def read_comments() -> dict[str, str]:
    """Return the comments of conf/base by the path of their parameter, and by the ends of the path."""
    comments: dict[str, str] = {}
    for file in sorted((PROJECT / "conf/base").glob("parameters*.yml")):
        text = file.read_text("utf-8")
        for path, line in _keys(yaml.compose(text)):
            if comment := _comment(text.splitlines(), line):
                comments |= {path: comment} | {end: comments.get(end, comment) for end in _ends(path)}
    return comments


def _ends(path: str) -> Iterator[str]:
    while path := path.partition(".")[2]:
        yield path


def _keys(node: yaml.Node, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = f"{path}.{key.value}".strip(".")
            yield here, key.start_mark.line
            yield from _keys(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            yield from _keys(inner, path)


def _comment(lines: list[str], line: int) -> str:
    """Return the comment at the end of a line, or else that on the lines above it."""
    if comment := lines[line].partition(" # ")[2]:
        return comment
    above: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("# "):
        line -= 1
        above.insert(0, lines[line].lstrip()[2:])
    return " ".join(above)


def _leaves(path: str, field: FieldInfo, value: Any) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Yield path, field and value of every parameter that holds no further parameters."""
    model = next(models_in(field.annotation), None)
    if model is not None and get_origin(field.annotation) is dict:  # keys are the user's, entries alike
        inner = next(iter(value.values()), {}) if value else {}
        if isinstance(inner, str):  # each from a file
            yield path, field, ", ".join(value)
            return
        path, value = f"{path}.NAME", inner
    if model is None or not isinstance(value, dict):
        yield path, field, value
        return
    for name, inner in model.model_fields.items():
        yield from _leaves(f"{path}.{name}", inner, value.get(name, inner.default))


def _table(rows: list[str]) -> str:
    return "\n".join(["| parameter | conf/base | range | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def _row(path: str, field: FieldInfo, value: Any, comments: dict[str, str]) -> str:
    kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    meaning = next((comments[end] for end in (path, *_ends(path)) if end in comments), "")
    cells = (f"`{path}`", f"`{_format_value(value)}`", _format_kind(kind), meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _format_value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:39]}…"


def _format_kind(annotation: Any) -> str:
    """Return types and bounds of an annotation in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metadata = [bound for part in inner[1:] for bound in getattr(part, "metadata", [part])]
        limits = [
            f"{sign} {getattr(bound, name):g}"
            for bound in metadata
            for name, sign in BOUNDS.items()
            if getattr(bound, name, None) is not None
        ]
        return " ".join([_format_kind(inner[0]), " and ".join(limits)]).strip()
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return ", or ".join(dict.fromkeys(_format_kind(part) for part in inner))
    return {tuple: "list", list: "list"}.get(origin, KINDS.get(annotation, "mapping"))
