"""Where corpora are to be had, under which licence, and the hash of what is published at a public address."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml


@dataclass(frozen=True)
class Origin:
    """The origin of a corpus.

    Attributes:
        entry: the raw folder in the catalog that its files belong into.
        url, file, sha256: of an archive at a public address; None where it is fetched by hand.
        by_hand: what to do where there is no address, or where it does not answer.
    """

    entry: str
    licence: str
    url: str | None = None
    file: str | None = None
    sha256: str | None = None
    by_hand: str | None = None


@cache
def origins() -> dict[str, Origin]:
    """Return the origins of the corpora by their names."""
    text = files("sage_dialog.corpora.labelled").joinpath("origins.yml").read_text("utf-8")
    return {name: Origin(**fields) for name, fields in yaml.safe_load(text).items()}
