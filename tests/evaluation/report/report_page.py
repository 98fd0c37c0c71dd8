"""Rendering and parsing of a report."""

import base64
import json
import re
import zlib
from collections.abc import Mapping
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

from sage_dialog.core.tables import DataFrame, from_rows, to_arrow, to_rows
from sage_dialog.pipelines.report import create_pipeline

RANDOM = "a judge <b>&amp; more</b> #?=&+%"
"""A judge that answers at random."""

_ENTRIES = {"evaluation": "params:evaluation", "seed": "params:seed"}


class Elements(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " if tag in {"td", "th"} else ""

    def handle_data(self, data: str) -> None:
        if not {"style", "script", "nav"} & set(self.open):
            self.text += data


def render_report(contents: dict[str, Any], **changes: Any) -> str:
    """Return the report of inputs by entry name; `truth_scores=None` leaves the truth out."""
    data = {**contents, **{_ENTRIES.get(name, name): value for name, value in changes.items()}}
    trained = [name.removeprefix("training_rejects_") for name in data if name.startswith("training_rejects_")]
    for node in create_pipeline(trained, iterations=1, external_scores=data["truth_scores"] is not None).nodes:
        data |= node.run({name: data[name] for name in node.inputs})
    return str(data["report"])


def role(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name)


def with_values(table: DataFrame, where: Mapping[str, Any] | None = None, /, **columns: Any) -> DataFrame:
    """Return a table with new values of columns in all rows, or in those that match `where`; types are kept."""
    changed = [
        {**row, **columns} if all(row[key] == value for key, value in (where or {}).items()) else row
        for row in to_rows(table)
    ]
    return from_rows(changed, to_arrow(table).schema)


def text_of(html: str) -> str:
    return " ".join(Elements(html).text.replace("\N{NO-BREAK SPACE}", " ").split())


def data_of(html: str, name: str) -> dict[str, Any]:
    """Return the data of a browser, with its index and its rows unpacked."""
    (data,) = re.findall(f'<script type="application/json" id="{name}-data">(.*?)</script>', html, re.DOTALL)
    read = json.loads(data)
    return {**read, "index": unpack(read["index"]), "rows": [row for part in read["parts"] for row in unpack(part)]}


def unpack(packed: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(packed)))
