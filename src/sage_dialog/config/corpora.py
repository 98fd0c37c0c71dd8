"""Parameters of corpora with labels and of the user's own dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sage_dialog.config.base import Config, PositiveShare, Share, invalid, read_mapping

Corpus = Literal["esconv", "failed_esconv", "dailydialog", "empathetic_dialogues", "own"]


class LabelRule(Config):
    """Where a label comes from: one label of the corpus, and what its values become.

    Attributes:
        label: its name in the corpus.
        of: whether the utterance has it, or the whole dialogue.
        values: the corpus's values and ours; null is no label. Without it values stay as they are, in lower case.
    """

    label: str
    of: Literal["utterance", "dialogue"] = "utterance"
    values: dict[str, str | None] | None = None


RulesByRole = dict[Literal["user", "assistant"], tuple[LabelRule, ...]]


class LabelMap(Config):
    """How a corpus's labels become motivation, emotion and topics of each role. The first rule with a label holds."""

    motivation: RulesByRole = Field(default_factory=dict)
    emotion: RulesByRole = Field(default_factory=dict)
    topics: RulesByRole = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_yaml(cls, text: Any) -> Any:
        if not isinstance(text, str):
            return text
        return read_mapping(text, "no label map: expected motivation, emotion and topics (docs/corpora.md)")

    def rules(self, field: str, role: str) -> tuple[LabelRule, ...]:
        """Return the rules of a field of a role's utterances."""
        rules: Mapping[str, tuple[LabelRule, ...]] = getattr(self, field)
        return rules.get(role, ())


class Duplicates(Config):
    min_overlap: PositiveShare
    remove: bool


class Corpora(Config):
    read: tuple[Corpus, ...]
    labels: dict[Corpus, LabelMap]
    missing_labels: Literal["dialogues", "labels"]
    max_reject_share: Share
    duplicates: Duplicates

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: dict[Corpus, LabelMap], info: ValidationInfo) -> dict[Corpus, LabelMap]:
        if missing := [name for name in info.data.get("read", ()) if name not in labels]:
            raise invalid(f"no label map of {', '.join(missing)}, which is read")
        return labels
