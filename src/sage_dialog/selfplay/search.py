"""Rounds of dialogues, shard by shard: the agent's candidate search and held-out rollouts (paper §3.4, §3.6)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from sage_dialog.config import Evaluation, GameRules, RlPlay, SelfPlay, Steering
from sage_dialog.core.hashing import fingerprint
from sage_dialog.core.policies import Policy, identity
from sage_dialog.core.seeds import sample_ids
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import Engine
from sage_dialog.inference.external_models import ExternalModel
from sage_dialog.roles.protocols import Selector
from sage_dialog.selfplay.game import Game, GameState, Speaker, Turns, play
from sage_dialog.selfplay.interleave import interleave
from sage_dialog.selfplay.progress import RoundProgress
from sage_dialog.selfplay.shards import Shards
from sage_dialog.selfplay.tables import candidates_table, trajectories_table

logger = logging.getLogger(__name__)

SystemPrompts = Mapping[Literal["listener", "speaker", "instructions"], str]
"""System messages as in the training mix: "listener" is the agent's, "speaker" the simulated user's."""

LIBRARIES = ("numpy", "nltk", "vaderSentiment")
"""Libraries that decide a choice; shards of another version are not reused."""

ROLLOUT_SHARD = 256
"""Dialogues of a rollout that are played together and saved as one shard."""


def search(
    engine: Engine,
    agent: Policy,
    user: Policy,
    situations: DataFrame,
    config: SelfPlay,
    system_prompts: SystemPrompts,
    selector: Selector,
    seed: int,
    scratch: Path,
) -> tuple[DataFrame, DataFrame]:
    """Play train situations with `config.candidates` samples per agent turn, of which the selector picks one.

    Args:
        situations: schemas.SITUATIONS.
        scratch: finished shards are saved here and reused by an interrupted run.

    Returns:
        schemas.CANDIDATES and schemas.TRAJECTORIES, in the order of the sampled situations.
    """
    sampled = _sample_situations(situations, "train", config.situations, seed, f"situations of {agent.name}")
    game = Game(
        kind="search",
        agent=_agent_speaker(agent, system_prompts),
        user=Speaker(user.name, user.card.blocks, system_prompts.get("speaker")),
        rules=config,
        max_turns=config.max_turns,
        seed=seed,
        candidates=config.candidates,
        redraws=config.redraws,
        selector=selector,
    )
    return _play_shards(engine, game, sampled, (agent, user), config.shard_size, config.shards_at_once, scratch)


def rollout(
    engine: Engine,
    agent: Policy | ExternalModel,
    user: Policy,
    situations: DataFrame,
    config: Evaluation,
    system_prompts: SystemPrompts,
    seed: int,
    scratch: Path,
) -> DataFrame:
    """Play held-out situations, one sample per turn, for `config.exchanges` exchanges.

    All policies and external models play the same situations. A reply whose blocks do not parse stays as it is, broken
    blocks included, and its state and action columns are null. A policy without blocks is not steered.

    Args:
        situations: schemas.SITUATIONS.
        scratch: finished shards are saved here and reused by an interrupted run.

    Returns:
        schemas.TRAJECTORIES.
    """
    if config.steering and not _agent_speaker(agent, system_prompts).blocks:
        logger.info("%s writes no state and action blocks, so evaluation.steering does not apply", agent.name)
        config = config.model_copy(update={"steering": Steering()})
    sampled = _sample_situations(situations, config.split, config.situations, seed, "evaluation situations")
    return _play_rollouts(engine, agent, user, sampled, config, system_prompts, seed, scratch)[1]


def sample_dialogues(
    engine: Engine,
    agent: Policy,
    user: Policy,
    situations: DataFrame,
    config: RlPlay,
    system_prompts: SystemPrompts,
    seed: int,
    scratch: Path,
) -> tuple[DataFrame, DataFrame]:
    """Play train situations `config.dialogues` times each, for `config.exchanges` exchanges.

    The agent says the first of its samples; the `config.alternatives` others are kept beside it.

    Args:
        situations: schemas.SITUATIONS.
        scratch: finished shards are saved here and reused by an interrupted run.

    Returns:
        schemas.CANDIDATES and schemas.TRAJECTORIES; the dialogues of a situation are named by `dialogue_name`.
    """
    sampled = _sample_situations(situations, "train", config.situations, seed, f"dialogues of {agent.name}")
    repeated = [(dialogue_name(name, number), text) for name, text in sampled for number in range(config.dialogues)]
    candidates = 1 + config.alternatives
    return _play_rollouts(engine, agent, user, repeated, config, system_prompts, seed, scratch, candidates)


def _play_rollouts(
    engine: Engine,
    agent: Policy | ExternalModel,
    user: Policy,
    situations: Sequence[tuple[str, str]],
    config: Evaluation | RlPlay,
    system_prompts: SystemPrompts,
    seed: int,
    scratch: Path,
    candidates: int = 1,
) -> tuple[DataFrame, DataFrame]:
    game = Game(
        kind="rollout",
        agent=_agent_speaker(agent, system_prompts),
        user=Speaker(user.name, user.card.blocks, system_prompts.get("speaker")),
        rules=config,
        max_turns=2 * config.exchanges,
        seed=seed,
        candidates=candidates,
    )
    return _play_shards(engine, game, situations, (agent, user), ROLLOUT_SHARD, 1, scratch)


def dialogue_name(situation: str, number: int) -> str:
    """Return the name of one of several dialogues of a situation."""
    return f"{situation}#{number}"


def situation_of(dialogue: str) -> str:
    """Return the situation of a name by `dialogue_name`."""
    return dialogue.rpartition("#")[0]


def _agent_speaker(agent: Policy | ExternalModel, system_prompts: SystemPrompts) -> Speaker:
    if isinstance(agent, ExternalModel):
        system_prompt = system_prompts.get("listener") if agent.system_prompt is None else agent.system_prompt
        return Speaker(agent.name, False, system_prompt or None)
    return Speaker(agent.name, agent.card.blocks, system_prompts.get("listener"))


def _sample_situations(
    situations: DataFrame, split: str, size: int | None, seed: int, purpose: str
) -> list[tuple[str, str]]:
    """Return ids and texts."""
    of_split = situations[situations["split"] == split]
    texts = dict(zip(of_split["situation_id"], of_split["text"], strict=True))
    if not texts:
        raise ValueError(f"the table `situations` has no {split} situation; run kedro run --pipelines data_processing")
    return [(situation_id, texts[situation_id]) for situation_id in sample_ids(list(texts), size, seed, purpose)]


def _play_shards(
    engine: Engine,
    game: Game,
    situations: Sequence[tuple[str, str]],
    speakers: tuple[Policy | ExternalModel, Policy],
    shard_size: int,
    shards_at_once: int,
    scratch: Path,
) -> tuple[DataFrame, DataFrame]:
    """Play the missing shards, saving each when it is finished; return candidates and trajectories of all shards."""
    decisive = {
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
    shards = Shards(scratch / game.kind / game.agent.policy / fingerprint(decisive))
    parts = [situations[start : start + shard_size] for start in range(0, len(situations), shard_size)]
    missing = {number: part for number, part in enumerate(parts) if not shards.is_finished(number)}
    unplayed = sum(map(len, missing.values()))
    if game.selector is not None:
        game.selector.expect(unplayed * (game.max_turns // 2) * (game.redraws + 1))
    in_progress: dict[int, list[GameState]] = {}

    def games() -> Iterator[tuple[int, Turns]]:
        for number, part in missing.items():
            in_progress[number] = [GameState.from_situation(*situation) for situation in part]
            yield number, play(engine, game, in_progress[number])

    title, finished = f"{game.kind} {game.agent.policy}", len(situations) - unplayed
    with RoundProgress(title, len(situations), finished, game.max_turns) as progress:
        for number, ended in interleave(games(), game.select, shards_at_once):
            progress.update(number, in_progress[number])
            if ended:
                dialogues = in_progress.pop(number)
                shards.save(number, candidates_table(dialogues), trajectories_table(dialogues))
    candidates, trajectories = shards.load()
    outcomes = trajectories.loc[trajectories["turn"] == 0, "outcome"].value_counts()
    summary = f"{outcomes.sum()} dialogues ended by {', '.join(f'{why} ({n})' for why, n in outcomes.items())}"
    if not candidates.empty:
        summary += f"; {candidates['valid'].sum()} of {len(candidates)} candidates valid"
    logger.info("%s: %s", title, summary)
    return candidates, trajectories
