"""The model card of an exported policy: what it is, what it was made of, how well it does, how it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sage_dialog.core.hub_models import is_on_hub
from sage_dialog.core.policies import PolicyCard
from sage_dialog.evaluation.judging.votes import PERSON
from sage_dialog.evaluation.replies.failures import FAILURES
from sage_dialog.evaluation.report.formatting import OUTCOME_RULES, p_value, percent

FILE = "README.md"
TEMPLATE = "model_card.md.j2"


@dataclass(frozen=True)
class Step:
    """One training on the way to a policy. A version is None where the catalog has none that could be meant."""

    policy: str
    version: str | None
    revision: str
    tables: Sequence[tuple[str, str | None]]
    """What it learned from, by name and version, without what the steps before have already."""
    recorded: bool
    """Whether all these versions are from the records of runs; else some are the latest of that time."""


@dataclass(frozen=True)
class Results:
    """What was measured on these very weights, in the evaluation of a `version`: rows of the tables of these names."""

    version: str
    win_rates: Sequence[Mapping[str, Any]]
    emotion_accuracy: Sequence[Mapping[str, Any]]
    failure_modes: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ModelCard:
    """What a card tells.

    `recipe` are parameters by stage, as the runs had them that made the policy; those of the stages in `unrecorded` as
    the environment `env` has them at the export. `code` is the commit that the last of these runs was of. `roles` are
    the names of the roles that made the data. `results` are None where no evaluation knows these weights.
    """

    policy: PolicyCard
    version: str
    revision: str
    merged: bool
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
        """The roles and judges among those of this card that are rules on word lists."""
        judges = dict.fromkeys(row["judge"] for row in self.results.win_rates) if self.results else ()
        named = [*self.roles.items(), *(("judge", judge) for judge in judges)]
        return [f"{role} {name}" for role, name in named if name.startswith("offline")]


def render_model_card(card: ModelCard) -> str:
    """The card as Markdown; what comes from data is text in it, never markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sage_dialog.export", "."),
        autoescape=False,  # Markdown, for which `plain` does it
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
    """Each win rate from the side of this policy, its share and interval turned where the table has it first.

    People are not named: a card is for others.
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
    """Text that Markdown and HTML leave as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]()<>#|!~&$])", r"\\\1", " ".join(text.split()))


def fenced(text: str, language: str = "text") -> str:
    """A block of text as it is, behind a fence that the text cannot close."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
