"""Changes to what a policy is steered to, one at a time."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from sage_dialog.config import Steering


def boosted(steering: Steering, field: str, keyword: str, weight: float) -> Steering:
    """With a boost of a keyword, which takes the place of a fixed value of the field; weight 0 takes a boost back.

    Raises:
        ValueError: if the field cannot hold the keyword.
    """
    boosts, values = _parts(steering)
    boosts[field] = {**boosts.get(field, {}), keyword: weight}
    if weight == 0:
        del boosts[field][keyword]
    else:
        values.pop(field, None)
    return _checked(boosts, values)


def fixed(steering: Steering, field: str, value: str | tuple[str, ...] | None) -> Steering:
    """With a value that is written in any case, which takes the place of boosts of the field.

    Raises:
        ValueError: if the field cannot hold the value.
    """
    boosts, values = _parts(steering)
    boosts.pop(field, None)
    return _checked(boosts, {**values, field: value})


def cleared(steering: Steering, field: str | None) -> Steering:
    """Without what is set for a field; without anything where no field is named."""
    boosts, values = _parts(steering) if field else ({}, {})
    boosts.pop(field, None)
    values.pop(field, None)
    return _checked(boosts, values)


def _parts(steering: Steering) -> tuple[dict[Any, Any], dict[Any, Any]]:
    return dict(steering.boosts), dict(steering.fixed)


def _checked(boosts: dict[Any, Any], values: dict[Any, Any]) -> Steering:
    try:
        return Steering(boosts={field: weights for field, weights in boosts.items() if weights}, fixed=values)
    except ValidationError as error:
        raise ValueError("; ".join(str(details["msg"]) for details in error.errors())) from error
