"""The page of the report: one HTML file that needs nothing else, assembled from its sections."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.judging.people import PEOPLE
from sage_dialog.evaluation.report import formatting
from sage_dialog.evaluation.report.findings import describe_leaning

_HEADING = re.compile(r'<section id="([a-z-]+)">\s*<h2>(.*?)</h2>')
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render_section(template: str, **values: Any) -> str:
    """Return a section as an HTML fragment; every text of a model, a user or a file is escaped.

    Args:
        template: its file name.
        values: the variables of the template.
    """
    return _environment().get_template(template).render(values)


def assemble_page(sections: Sequence[str], footer: bool = True) -> str:
    """Return one HTML file of these sections, in this order.

    Args:
        footer: whether the page ends with what the intervals of the evaluation are.
    """
    templates = resources.files("sage_dialog.evaluation.report") / "templates"
    style, script = (Markup((templates / name).read_text("utf-8")) for name in ("report.css", "report.js"))
    return render_section(
        "page.html.j2",
        sections=[Markup(section) for section in sections],
        contents=[(anchor, Markup(title)) for section in sections for anchor, title in _HEADING.findall(section)],
        style=style,
        script=script,
        footer=footer,
    )


def source_hash(source: str) -> str:
    """Return the hash by which the page's Content-Security-Policy allows an inline style or script, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")


def inline_image(figure: bytes | Figure) -> str:
    """Return a figure, or the bytes of its PNG image, in base64."""
    if not isinstance(figure, bytes):
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Software": None})
        figure = image.getvalue()
    return base64.b64encode(figure).decode("ascii")


def script_data(value: object) -> Markup:
    """Return JSON for a script element: no character of it can end the element or the line."""
    text = json.dumps(value, separators=(",", ":"))  # escapes all but ASCII, U+2028 and U+2029 too
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def compressed(value: object) -> str:
    """Return JSON, compressed by zlib (the browsers' "deflate"), in base64."""
    return base64.b64encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode("ascii"), 6)).decode("ascii")


def view_link(**filters: object) -> str:
    """Return the address within the page that shows the dialogues of these filters (`report.js`); None is no filter."""
    return "#dialogues?" + urlencode(
        {name: value for name, value in filters.items() if value is not None}, quote_via=quote
    )


def csv_link(table: DataFrame | Sequence[Mapping[str, Any]]) -> str:
    """Return a table, or rows of one (at least one), as an address of a CSV file with all columns; null is empty.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    if isinstance(table, Sequence):
        rows, columns = table, list(table[0])
    else:
        rows, columns = to_rows(table), list(table.columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.getvalue().encode()).decode("ascii")


def _csv_cell(value: object) -> object:
    value = "; ".join(map(str, value)) if isinstance(value, list) else value
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sage_dialog.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["PEOPLE"] = PEOPLE
    names = ("answers", "percent", "number", "thousands", "times", "against_average", "span", "shares")
    environment.filters |= {name: getattr(formatting, name) for name in names}
    environment.filters |= {"p": formatting.p_value, "leaning": describe_leaning, "source_hash": source_hash}
    environment.filters["csv_link"] = csv_link
    environment.globals["view_link"] = view_link
    return environment
