"""A report, read back."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa


class Elements(HTMLParser):
    """Tags with their attributes, and the text between them."""

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
        if not {"style", "script"} & set(self.open):
            self.text += data


def spoiled(table: pa.Table, **columns: Any) -> pa.Table:
    return pa.Table.from_pylist([{**row, **columns} for row in table.to_pylist()], schema=table.schema)


def words_of(html: str) -> str:
    return " ".join(Elements(html).text.replace("\N{NO-BREAK SPACE}", " ").split())


def data_of(html: str, name: str) -> dict[str, Any]:
    (data,) = re.findall(f'<script type="application/json" id="{name}-data">(.*?)</script>', html, re.DOTALL)
    return json.loads(data)
