"""Fixtures of a game with scripted players; a reply is a function of the prompt."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import ScriptedEngine

from sage_dialog import schemas
from sage_dialog.config import FineTuning, GameRules, SamplingConfig, SelfPlay
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.inference.engine import Engine, Prompt
from sage_dialog.roles.protocols import Choice, NoChoice
from sage_dialog.sac import Chain, Intent, render
from sage_dialog.selfplay.game import Game, GameState, Speaker, play
from sage_dialog.selfplay.interleave import interleave


def reply_with_blocks(text: str, emotion: str = "sad", motivation: str = "empathy") -> str:
    """A reply with its blocks."""
    return render(Chain(Intent("sharing", emotion, ("home",)), Intent(motivation, "supportive", ("home",)), text))


def hashed_reply(policy: str, prompt: Prompt, j: int) -> str:
    """A reply that depends on all inputs of a player; one in five is invalid."""
    digest = hashlib.sha256(repr((policy, prompt, j)).encode()).hexdigest()
    return (
        "garbage" if int(digest[:4], 16) % 5 == 0 else reply_with_blocks(f"{policy} {digest[:6]}.", emotion=digest[6:9])
    )


@dataclass
class ScriptedSelector:
    """Selector of the longest candidate; it chooses none where `rejects` is true."""

    name: str = "longest"
    rejects: Callable[[Choice], bool] = lambda choice: False
    no_choice: NoChoice = NoChoice.NONE_GOOD
    choices_seen: list[Choice] = field(default_factory=list)
    expected: int | None = None

    def expect(self, choices: int) -> None:
        self.expected = choices

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        self.choices_seen.extend(choices)
        return [
            self.no_choice
            if self.rejects(choice)
            else max(range(len(choice.candidates)), key=lambda i: (len(choice.candidates[i]), choice.candidates[i]))
            for choice in choices
        ]


SAMPLING = SamplingConfig.from_base(max_new_tokens=50, top_k=100)


@pytest.fixture
def game() -> Callable[..., Game]:
    """A function that makes a game of "agent" and "user", both with blocks by default."""

    def make(
        selector: ScriptedSelector | None = None,
        candidates: int = 1,
        max_turns: int = 6,
        agent_blocks: bool = True,
        user_blocks: bool = True,
        seed: int = 0,
        redraws: int = 0,
        **rules: Any,
    ) -> Game:
        return Game(
            kind="rollout" if selector is None else "search",
            agent=Speaker("agent", agent_blocks, "You listen."),
            user=Speaker("user", user_blocks, "You share."),
            rules=GameRules.from_base(agent=SAMPLING, user=SAMPLING, **rules),
            max_turns=max_turns,
            seed=seed,
            candidates=candidates,
            redraws=redraws,
            selector=selector,
        )

    return make


@pytest.fixture(name="play")
def play_to_end() -> Callable[[Engine, Game, Sequence[tuple[str, str]]], list[GameState]]:
    """A function that plays (id, text) situations to their end in one game."""

    def play_situations(engine: Engine, rules: Game, situations: Sequence[tuple[str, str]]) -> list[GameState]:
        dialogues = [GameState.from_situation(*situation) for situation in situations]
        deque(interleave([("all", play(engine, rules, dialogues))], rules.select, 1), maxlen=0)
        return dialogues

    return play_situations


@pytest.fixture
def policies(tmp_path: Path) -> dict[str, Policy]:
    return {
        name: Policy(tmp_path / name, PolicyCard(name, "adapter", True, "sage_0", "base")) for name in ("agent", "user")
    }


@pytest.fixture
def search_config() -> SelfPlay:
    return SelfPlay.from_base(
        max_turns=6,
        candidates=4,
        agent=SAMPLING,
        user=SAMPLING,
        shard_size=3,
        training=FineTuning.from_base(learning_rate=1e-3, batch_size=1, epochs=1.0),
        situations=None,
        replay_share=0.25,
    )


def situations_table(texts: Sequence[str], split: str = "train") -> DataFrame:
    rows = [
        {"situation_id": f"{split}-{number}", "split": split, "emotion": "sad", "text": text}
        for number, text in enumerate(texts)
    ]
    return from_rows(rows, schemas.SITUATIONS)


@pytest.fixture
def situations() -> Callable[..., DataFrame]:
    return situations_table


@pytest.fixture
def engine() -> type[ScriptedEngine]:
    return ScriptedEngine


@pytest.fixture
def selector() -> type[ScriptedSelector]:
    return ScriptedSelector


@pytest.fixture
def say() -> Callable[..., str]:
    return reply_with_blocks
