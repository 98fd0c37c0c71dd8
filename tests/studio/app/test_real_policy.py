"""A policy with weights in the studio: boosts and fixed values change its plans."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from block_writers import block_writer
from studio_app import Client, studio_of

from sage_dialog.inference.transformers.engine import TransformersEngine

FORM = {
    "policy0": "sage_1",
    "temperature": "1",
    "top_k": "100",
    "repetition_penalty": "1",
    "max_new_tokens": "90",
    "hold_form": "on",
    "system_prompt": "",
}


def planned(html: str, field: str) -> list[str]:
    """Return the values of a field in the candidates of a conversation."""
    candidates = html.split('class="candidates"')[1]
    return re.findall(rf'<bdi data-field="{field}">([^<]*)</bdi>', candidates)


def test_a_boost_and_a_fixed_value_change_the_plans(tmp_path: Path) -> None:
    policy = block_writer("words", tmp_path / "policy")
    engine = TransformersEngine(policy, [], 0, 1)
    studio = replace(studio_of(tmp_path, engine, names=["sage_1"]), candidates=24)
    with Client(studio) as client:
        talk = client.post("/chat/new", policy="sage_1", text="x").headers["hx-redirect"]
        client.wait(talk)
        rates = []
        for weight in ("0", "4"):
            boost = {"boost-a_motivation": "humor", "weight-a_motivation": weight, "fix-a_emotion": "playful"}
            html = client.step(talk, "candidates", **FORM, **boost)
            motivations, emotions = planned(html, "a_motivation"), planned(html, "a_emotion")
            assert len(motivations) == 24 and set(emotions) == {"playful"}
            rates.append(motivations.count("humor") / 24)
        assert rates[0] < 0.5 and rates[1] > 0.8, rates
