"""DPO on the action block alone: history and state block are the prompt, and nothing follows the action block."""

from __future__ import annotations

from typing import Any

import pytest

from sage_dialog import schemas
from sage_dialog.config import Preference
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import from_rows
from sage_dialog.inference.chat_format import ChatFormat, load_tokenizer
from sage_dialog.sac import Chain, Intent, render
from sage_dialog.training.dpo import _examples

PROMPT = [{"role": "user", "content": "My boss took the roses."}]


def reply(emotion: str, motivation: str, text: str) -> str:
    return render(Chain(Intent("sharing", emotion), Intent(motivation), text))


def pair(chosen: str, rejected: str, number: int = 0) -> dict[str, Any]:
    return {"situation_id": f"s{number}", "turn": 1, "prompt": PROMPT, "chosen": chosen, "rejected": rejected}


def encode(base: Policy, part: str, *pairs: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
    tokenizer = load_tokenizer(base.path)
    config = Preference.from_base(part=part, pairs=None)
    table = _examples("sage_dpo", ChatFormat(tokenizer), from_rows(pairs, schemas.DPO_PAIRS), config, 0)
    return table.to_dict("records"), tokenizer


def test_the_completion_is_the_action_block(base: Policy) -> None:
    chosen, rejected = reply("sad", "comfort", "You can do this."), reply("sad", "humor", "Keep going.")
    (row,), tokenizer = encode(base, "action", pair(chosen, rejected))
    texts = {side: tokenizer.decode(row["prompt_ids"] + row[f"{side}_ids"]) for side in ("chosen", "rejected")}
    for side, said in (("chosen", chosen), ("rejected", rejected)):
        assert texts[side].endswith(said.rpartition("]}")[0] + "]}"), texts[side]
    prompt = tokenizer.decode(row["prompt_ids"])
    assert "u_motivation: sharing, u_emotion: sad, u_topic: []}" in prompt
    (whole,), _ = encode(base, "message", pair(chosen, rejected))
    assert len(whole["chosen_ids"]) > len(row["chosen_ids"]) and whole["chosen_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in row["chosen_ids"]


def test_pairs_of_two_states_or_one_action_are_left_out(base: Policy) -> None:
    good = pair(reply("sad", "comfort", "a"), reply("sad", "humor", "b"), 0)
    two_states = pair(reply("sad", "comfort", "a"), reply("angry", "humor", "b"), 1)
    one_action = pair(reply("sad", "comfort", "a"), reply("sad", "comfort", "b"), 2)
    no_blocks = pair("Oh.", "Lol.", 3)
    rows, _ = encode(base, "action", good, two_states, one_action, no_blocks)
    assert [row["row"] for row in rows] == ["s0 1"]
    with pytest.raises(ValueError, match="none of 3 pairs has one state block and two action blocks"):
        encode(base, "action", two_states, one_action, no_blocks)
