"""Pages from templates; every text of a model, a person or a file is escaped."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from sage_dialog.evaluation.report.page import source_hash
from sage_dialog.studio.visible_text import visible

STATIC = Path(__file__).parent / "static"
FIELD_NAMES = {"motivation": "motivation", "emotion": "emotion", "topic": "topics"}


def render(template: str, **values: Any) -> str:
    """Return a page or a part of one as HTML."""
    return _environment().get_template(template).render(values)


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return the response of a page."""
    return HTMLResponse(render(template, **values), status)


def style() -> Markup:
    """Return the style sheet, for pages that are saved as files."""
    return Markup((resources.files("sage_dialog.studio.app") / "static" / "studio.css").read_text("utf-8"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sage_dialog.studio.app", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "source_hash": source_hash}
    environment.globals["FIELD_NAMES"] = FIELD_NAMES
    return environment
