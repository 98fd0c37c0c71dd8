"""The page of the report: one HTML file that needs nothing else, assembled from its sections."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sage_dialog.evaluation.report import formatting
from sage_dialog.evaluation.report.findings import describe_leaning

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render_section(template: str, **values: Any) -> str:
    """Return a section as an HTML fragment; every text of a model, a user or a file is escaped.

    Args:
        template: its file name.
        values: the variables of the template.
    """
    return _environment().get_template(template).render(values)


def assemble_page(sections: Sequence[str]) -> str:
    """Return the report as one HTML file of these sections, in this order."""
    templates = resources.files("sage_dialog.evaluation.report") / "templates"
    style, script = (Markup((templates / name).read_text("utf-8")) for name in ("report.css", "report.js"))
    return render_section(
        "page.html.j2", sections=[Markup(section) for section in sections], style=style, script=script
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


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sage_dialog.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("percent", "number", "thousands", "times", "against_average", "span", "shares")
    environment.filters |= {name: getattr(formatting, name) for name in names}
    environment.filters |= {"p": formatting.p_value, "leaning": describe_leaning, "source_hash": source_hash}
    return environment
