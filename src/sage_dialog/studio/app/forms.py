"""Forms of the studio's pages: the fields of a body, and the settings of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sage_dialog.config import Steering
from sage_dialog.sac.grammar import FIELDS, is_list_field
from sage_dialog.studio.chat.conversation import Settings, changed_sampling
from sage_dialog.studio.local_server import read_body

MAX_BODY = 2 * 1024 * 1024  # bytes; more than MAX_TEXT escaped characters
MAX_TEXT = 100_000  # characters of a message
MAX_FIELDS = 500

Form = Mapping[str, list[str]]


async def read_form(request: Request) -> Form:
    """Return the fields of a form. Raises HTTPException if it is too long or none."""
    if not request.headers.get("content-type", "application/x-www-form-urlencoded").startswith(
        "application/x-www-form-urlencoded"
    ):
        raise HTTPException(415, "A form is expected.")
    body = await read_body(request, MAX_BODY)
    try:
        return parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HTTPException(413, f"The form has more than {MAX_FIELDS} fields.") from None


def text_of(form: Form, name: str, limit: int = MAX_TEXT) -> str:
    """Return the text of a field, empty where it is missing. Raises HTTPException if it is too long."""
    text = form.get(name, [""])[0].replace("\r\n", "\n")
    if len(text) > limit:
        raise HTTPException(413, f"{name} has {len(text):,} characters; the limit is {limit:,}.")
    return text


def number_of(form: Form, name: str) -> int:
    """Return the number in a field. Raises HTTPException if there is none."""
    text = text_of(form, name, 12)
    if not (text.isascii() and text.isdecimal()):
        raise HTTPException(422, f"{name} is not a number: {text!r}.")
    return int(text)


def settings_of(form: Form, current: Settings) -> Settings:
    """Return the settings of a form; what it does not name stays as it is.

    Raises:
        ValueError: if a value is out of its range, or a field cannot hold it.
    """
    if "temperature" not in form:
        return current
    values: dict[str, Any] = {}
    for name, kind in (("temperature", float), ("repetition_penalty", float), ("top_k", int), ("max_new_tokens", int)):
        text = text_of(form, name, 30).strip()
        try:
            values[name] = kind(text)
        except ValueError:
            raise ValueError(f"{name.replace('_', ' ')}: {text!r} is not a number.") from None
    values["hold_form"] = "hold_form" in form
    sampling = changed_sampling(current.sampling, values)
    system_prompt = text_of(form, "system_prompt").strip() or None
    return Settings(sampling=sampling, system_prompt=system_prompt, steering=_steering(form, current.steering))


def _steering(form: Form, current: Steering) -> Steering:
    fixed: dict[Any, Any] = {}
    boosts: dict[Any, dict[str, float]] = {}
    for field in FIELDS:
        if value := " ".join(text_of(form, f"fix-{field}", 1000).split()):
            fixed[field] = _value(field, value)
        if weights := dict(_boosts(form, field)):
            boosts[field] = weights
    try:
        return Steering(boosts=boosts, boost_scale=current.boost_scale, fixed=fixed)
    except ValidationError as error:
        raise ValueError("; ".join(str(details["msg"]) for details in error.errors())) from error


def _boosts(form: Form, field: str) -> Iterator[tuple[str, float]]:
    keywords, weights = form.get(f"boost-{field}", []), form.get(f"weight-{field}", [])
    for keyword, weight in zip(keywords, weights, strict=False):
        keyword = " ".join(keyword[:1000].split())
        try:
            number = float(weight)
        except ValueError:
            raise ValueError(f"{field}: the boost {weight[:30]!r} is not a number.") from None
        if keyword and number:
            yield keyword, number


def _value(field: str, text: str) -> str | tuple[str, ...] | None:
    if is_list_field(field):
        return () if text == "null" else tuple(item.strip() for item in text.split(",") if item.strip())
    return None if text == "null" else text
