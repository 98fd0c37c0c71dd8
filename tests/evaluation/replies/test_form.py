"""How often blocks parse on everyday openings, with and without a held form."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from sage_dialog.config import SamplingConfig
from sage_dialog.core.tables import to_rows
from sage_dialog.evaluation.replies.form import everyday_openings, form_validity
from sage_dialog.inference.engine import FinishReason, Prompt, Sample

VALID = "{u_motivation: a, u_emotion: b, u_topic: []} {a_motivation: c, a_emotion: d, a_topic: []} Hi."
SAMPLING = SamplingConfig.from_base()


class Policies:
    """An engine whose free replies parse at every third opening; with a held form all do."""

    def __init__(self, error: str | None = None) -> None:
        self.error = error
        self.messages: list[tuple[dict[str, str], ...]] = []

    def sample(self, policy: str, prompts: list[Prompt], sampling: SamplingConfig, samples: int = 1) -> Any:
        if sampling.hold_form and self.error:
            raise ValueError(self.error)
        self.messages = [prompt.messages for prompt in prompts]
        texts = [VALID if sampling.hold_form or place % 3 == 0 else "Hi." for place in range(len(prompts))]
        return [[Sample(text, 3, FinishReason.STOP)] * samples for text in texts]


def test_the_share_of_replies_that_parse_is_counted_for_both_forms() -> None:
    engine = Policies()
    free, held = to_rows(form_validity(engine, "sage_1", SAMPLING, "Listen.", 0.95))
    _, openings = everyday_openings()
    assert (free["hold_form"], free["n"], free["count"]) == (False, 2 * len(openings), 2 * len(openings[::3]))
    assert free["low"] < free["share"] < free["high"]
    assert (held["hold_form"], held["count"], held["share"]) == (True, held["n"], 1.0)
    assert [messages[-1]["content"] for messages in engine.messages] == list(openings)
    assert {messages[0]["content"] for messages in engine.messages} == {"Listen."}


def test_a_policy_whose_form_cannot_be_held_is_measured_without(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = to_rows(form_validity(Policies("no tokenizer for it"), "sage_1", SAMPLING, None, 0.95))
    assert [row["hold_form"] for row in rows] == [False]
    assert "the form of sage_1 is not held: no tokenizer for it" in caplog.text
