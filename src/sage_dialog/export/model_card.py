"""The model card of an exported policy: provenance, recipe, results, known failures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from sage_dialog.core.hub_models import is_on_hub
from sage_dialog.core.policies import PolicyCard
from sage_dialog.evaluation.judging.people import PERSON
from sage_dialog.evaluation.replies.failures import FAILURES
from sage_dialog.evaluation.report.formatting import OUTCOME_RULES, p_value, percent

FILE = "README.md"
TEMPLATE = "model_card.md.j2"


@dataclass(frozen=True)
class Step:
    """A training that led to a policy.

    Attributes:
        version: None if the catalog no longer has it.
        tables: names and versions of its training data, without those of earlier steps.
        recorded: whether all these versions are from run records; else some are the latest of that time.
        left_out: rows that were too long to train on; None if their table is no longer in the catalog.
    """

    policy: str
    version: str | None
    revision: str
    tables: Sequence[tuple[str, str | None]]
    recorded: bool
    left_out: int | None


@dataclass(frozen=True)
class Results:
    """The results of an evaluation of these weights: rows of the tables of these names."""

    version: str
    win_rates: Sequence[Mapping[str, Any]]
    emotion_accuracy: Sequence[Mapping[str, Any]]
    failure_modes: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ModelCard:
    """The content of a model card.

    Attributes:
        gguf: name of the file for llama.cpp; None without.
        roles: names of the roles that made the data.
        env: the environment of the export.
        recipe: parameters by stage, from the records of the runs that made the policy.
        unrecorded: stages without a record; their parameters are those of `env` at the export.
        code: the commit of the training run.
        results: None if no evaluation measured these weights.
    """

    policy: PolicyCard
    version: str
    revision: str
    merged: bool
    gguf: str | None
    base_folder: str | None
    adapter: Mapping[str, Any]
    steps: Sequence[Step]
    raw: Sequence[str]
    roles: Mapping[str, str]
    env: str
    recipe: Mapping[str, Any]
    unrecorded: Sequence[str]
    code: str | None
    system_prompt: str | None
    results: Results | None

    @property
    def offline(self) -> list[str]:
        """The roles and judges of this card that are rules on word lists."""
        judges = dict.fromkeys(row["judge"] for row in self.results.win_rates) if self.results else ()
        named = [*self.roles.items(), *(("judge", judge) for judge in judges)]
        return [f"{role} {name}" for role, name in named if name.startswith("offline")]


def render_model_card(card: ModelCard) -> str:
    """Return the card as Markdown. Texts from data are escaped."""
    environment = Environment(
        loader=PackageLoader("sage_dialog.export", "."),
        autoescape=False,  # the card is Markdown; `plain` escapes it
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "percent": percent, "p": p_value, "fenced": fenced}
    return environment.get_template(TEMPLATE).render(
        card=card,
        on_hub=is_on_hub(card.policy),
        comparisons=list(_comparisons(card)),
        recipe=yaml.safe_dump(
            dict(card.recipe), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
        ).rstrip(),
        failures=FAILURES,
        rules=OUTCOME_RULES,
    )


def _comparisons(card: ModelCard) -> Iterator[Mapping[str, Any]]:
    """Yield the win rates from the side of this policy: share and interval are inverted where it is policy a.

    Human raters are not named, since cards are published.
    """
    for row in card.results.win_rates if card.results else ():
        first = row["policy_a"] == card.policy.name
        share, low, high = row["win_rate_b"], row["low"], row["high"]
        if first and share is not None:
            share, low, high = 1 - share, 1 - high, 1 - low
        own, other = ("a", "b") if first else ("b", "a")
        yield {
            **row,
            "judge": "a person" if row["judge"].startswith(PERSON) else row["judge"],
            "against": row[f"policy_{other}"],
            "wins": row[f"wins_{own}"],
            "losses": row[f"wins_{other}"],
            "share": share,
            "low": low,
            "high": high,
        }


def plain(text: str) -> str:
    """Return a text on one line with Markdown and HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]()<>#|!~&$])", r"\\\1", " ".join(text.split()))


def fenced(text: str, language: str = "text") -> str:
    """Return a fenced block, with a fence longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
