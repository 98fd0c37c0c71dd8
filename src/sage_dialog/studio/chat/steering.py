"""Changes to a steering, one at a time."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from sage_dialog.config import Steering


def add_boost(steering: Steering, field: str, keyword: str, weight: float) -> Steering:
    """Return the steering with a boost of a keyword; it replaces a fixed value, and weight 0 removes the boost.

    Raises:
        ValueError: if the field cannot hold the keyword.
    """
    boosts, values = _parts(steering)
    boosts[field] = {**boosts.get(field, {}), keyword: weight}
    if weight == 0:
        del boosts[field][keyword]
    else:
        values.pop(field, None)
    return _steering(boosts, values)


def fix_value(steering: Steering, field: str, value: str | tuple[str, ...] | None) -> Steering:
    """Return the steering with a fixed value, which replaces boosts of the field.

    Raises:
        ValueError: if the field cannot hold the value.
    """
    boosts, values = _parts(steering)
    boosts.pop(field, None)
    return _steering(boosts, {**values, field: value})


def clear_field(steering: Steering, field: str | None) -> Steering:
    """Return the steering without this field, or an empty one for None."""
    boosts, values = _parts(steering) if field else ({}, {})
    boosts.pop(field, None)
    values.pop(field, None)
    return _steering(boosts, values)


def _parts(steering: Steering) -> tuple[dict[Any, Any], dict[Any, Any]]:
    return dict(steering.boosts), dict(steering.fixed)


def _steering(boosts: dict[Any, Any], values: dict[Any, Any]) -> Steering:
    try:
        return Steering(boosts={field: weights for field, weights in boosts.items() if weights}, fixed=values)
    except ValidationError as error:
        raise ValueError("; ".join(str(details["msg"]) for details in error.errors())) from error
