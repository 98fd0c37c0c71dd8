"""Rounds of dialogues, shard by shard: the agent's candidate search and held-out rollouts (paper §3.4, §3.6)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sage_dialog.config import Evaluation, GameRules, SelfPlay, Steering
from sage_dialog.core.hashing import fingerprint
from sage_dialog.core.policies import Policy, identity
from sage_dialog.core.seeds import sample_ids
from sage_dialog.inference.engine import Engine
from sage_dialog.inference.external_models import ExternalModel
from sage_dialog.roles.protocols import Selector
from sage_dialog.selfplay.game import Game, Turns, play
from sage_dialog.selfplay.game_state import GameState, Speaker
from sage_dialog.selfplay.interleave import interleave
from sage_dialog.selfplay.progress import Progress
from sage_dialog.selfplay.shards import Shards
from sage_dialog.selfplay.tables import candidates_table, trajectories_table

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

SystemPrompts = Mapping[Literal["listener", "speaker", "instructions"], str]
"""System messages: "listener" is the agent's, "speaker" the simulated user's, as in the training mix."""

LIBRARIES = ("numpy", "nltk", "vaderSentiment")
"""Code of others that decides a choice; another version may decide otherwise, so it plays anew."""

ROLLOUT_SHARD = 256
"""Dialogues of a rollout played in lock-step and kept together after a kill."""


def search(
    engine: Engine,
    agent: Policy,
    user: Policy,
    situations: pa.Table,
    config: SelfPlay,
    system_prompts: SystemPrompts,
    selector: Selector,
    seed: int,
    scratch: Path,
) -> tuple[pa.Table, pa.Table]:
    """Play train situations with `config.candidates` samples an agent turn, of which the selector picks one.

    Returns the tables `candidates_{k}` and `trajectories_{k}`, rows in the order of `situations`. Shards
    finished before a kill are taken from `scratch`.

    Raises:
        ValueError: if there is no train situation.
    """
    opened = _situations(situations, "train", config.situations, seed, f"situations of {agent.name}")
    game = Game(
        kind="search",
        agent=_speaker(agent, system_prompts),
        user=Speaker(user.name, user.card.blocks, system_prompts.get("speaker")),
        rules=config,
        max_turns=config.max_turns,
        seed=seed,
        candidates=config.candidates,
        redraws=config.redraws,
        selector=selector,
    )
    return _play_shards(engine, game, opened, (agent, user), config.shard_size, config.shards_at_once, scratch)


def rollout(
    engine: Engine,
    agent: Policy | ExternalModel,
    user: Policy,
    situations: pa.Table,
    config: Evaluation,
    system_prompts: SystemPrompts,
    seed: int,
    scratch: Path,
) -> pa.Table:
    """Play held-out situations, one sample a turn, for `config.exchanges` exchanges; the TRAJECTORIES table.

    Nothing mends the agent here: a reply whose blocks do not parse is heard as it was written, broken
    blocks and all, and its state and action columns are null. All policies and outside models play the same
    situations. One without blocks plays unsteered: it has nothing to steer.

    Raises:
        ValueError: if the split holds no situation.
    """
    speaker = _speaker(agent, system_prompts)
    if config.steering and not speaker.blocks:
        logger.info("%s writes no state and action blocks: evaluation.steering leaves it as it is", agent.name)
        config = config.model_copy(update={"steering": Steering()})
    opened = _situations(situations, config.split, config.situations, seed, "evaluation situations")
    game = Game(
        kind="rollout",
        agent=speaker,
        user=Speaker(user.name, user.card.blocks, system_prompts.get("speaker")),
        rules=config,
        max_turns=2 * config.exchanges,
        seed=seed,
    )
    return _play_shards(engine, game, opened, (agent, user), ROLLOUT_SHARD, 1, scratch)[1]


def _speaker(agent: Policy | ExternalModel, system_prompts: SystemPrompts) -> Speaker:
    if isinstance(agent, ExternalModel):
        system_prompt = system_prompts.get("listener") if agent.system_prompt is None else agent.system_prompt
        return Speaker(agent.name, False, system_prompt or None)
    return Speaker(agent.name, agent.card.blocks, system_prompts.get("listener"))


def _situations(table: pa.Table, split: str, size: int | None, seed: int, purpose: str) -> list[tuple[str, str]]:
    texts = {row["situation_id"]: row["text"] for row in table.to_pylist() if row["split"] == split}
    if not texts:
        raise ValueError(
            f"the table `situations` holds no {split} situation; run kedro run --pipelines data_processing"
        )
    return [(chosen, texts[chosen]) for chosen in sample_ids(list(texts), size, seed, purpose)]


def _play_shards(
    engine: Engine,
    game: Game,
    situations: Sequence[tuple[str, str]],
    speakers: tuple[Policy | ExternalModel, Policy],
    shard_size: int,
    at_once: int,
    scratch: Path,
) -> tuple[pa.Table, pa.Table]:
    """Play shards, `at_once` under way, keeping each as it is finished; (candidates, trajectories) of all."""
    rules = {
        "game": [game.kind, game.rules.model_dump(include=set(GameRules.model_fields)), game.max_turns],
        "search": [game.candidates, game.redraws, None if game.selector is None else game.selector.name],
        "speakers": [
            speaker.identity() if isinstance(speaker, ExternalModel) else identity(speaker) for speaker in speakers
        ],
        "system_prompts": [game.agent.system_prompt, game.user.system_prompt],
        "situations": [list(situation) for situation in situations],
        "seed": game.seed,
        "shard_size": shard_size,
        "libraries": {name: version(name) for name in LIBRARIES},
        "engine": dict(engine.fingerprint_inputs),
    }
    shards = Shards(Path(scratch) / game.kind / game.agent.policy / fingerprint(rules))
    parts = [situations[start : start + shard_size] for start in range(0, len(situations), shard_size)]
    to_play = {number: part for number, part in enumerate(parts) if not shards.finished(number)}
    unplayed = sum(map(len, to_play.values()))
    if game.selector is not None:
        game.selector.expect(unplayed * (game.max_turns // 2) * (game.redraws + 1))
    under_way: dict[int, list[GameState]] = {}

    def begun() -> Iterator[tuple[int, Turns]]:
        for number, part in to_play.items():
            under_way[number] = [GameState.from_situation(*situation) for situation in part]
            yield number, play(engine, game, under_way[number])

    title, finished = f"{game.kind} {game.agent.policy}", len(situations) - unplayed
    with Progress(title, len(situations), finished, game.max_turns) as progress:
        for number, ended in interleave(begun(), game.select, at_once):
            progress.update(number, under_way[number])
            if ended:
                dialogues = under_way.pop(number)
                shards.keep(number, candidates_table(dialogues), trajectories_table(dialogues))
    candidates, trajectories = shards.tables()
    logger.info("%s: %s", title, _summary(candidates, trajectories))
    return candidates, trajectories


def _summary(candidates: pa.Table, trajectories: pa.Table) -> str:
    outcomes = zip(trajectories["outcome"].to_pylist(), trajectories["turn"].to_pylist(), strict=True)
    ended = Counter(outcome for outcome, turn in outcomes if turn == 0)
    said = f"{ended.total()} dialogues ended by {', '.join(f'{why} ({n})' for why, n in ended.most_common())}"
    if not candidates.num_rows:
        return said
    return f"{said}; {sum(candidates['valid'].to_pylist())} of {candidates.num_rows} candidates valid"
