"""Playing dialogues in lock-step: the agent's candidate search and held-out rollouts (paper §3.4, §3.6)."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sage_dialog.fingerprint import fingerprint
from sage_dialog.generation.engine import Engine, Prompt, Sample
from sage_dialog.parameters import Evaluation, SamplingDials, SelfPlay, Steering
from sage_dialog.policies import Policy
from sage_dialog.roles.protocols import Choice, Declined, Selector
from sage_dialog.sac import Chain, Unparsed, parse
from sage_dialog.seeds import generator, sample_ids
from sage_dialog.selfplay.dialogue import (
    Candidate,
    Dialogue,
    Message,
    Outcome,
    Speaker,
    agent_view,
    is_farewell,
    up_to_first_question,
    user_view,
)
from sage_dialog.selfplay.shards import Shards
from sage_dialog.selfplay.tables import candidates_table, trajectories_table

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

Preambles = Mapping[Literal["listener", "sharer", "instructions"], str]
"""System messages: "listener" is the agent's, "sharer" the simulated user's, as in the training mix."""

USER_ATTEMPTS = 4
"""How often the simulated user may try before a reply nobody could hear ends the dialogue."""

LIBRARIES = ("numpy", "nltk", "vaderSentiment")
"""Code of others that decides a choice; another version may decide otherwise, so it plays anew."""

ROLLOUT_SHARD = 256
"""Dialogues of an evaluation played in lock-step and kept together after a kill."""


@dataclass(frozen=True)
class Game:
    """The rules of one round of dialogues. Without a `selector` the agent's single sample is what it says."""

    kind: str
    agent: Speaker
    user: Speaker
    agent_sampling: SamplingDials
    user_sampling: SamplingDials
    max_turns: int
    seed: int
    candidates: int = 1
    redraws: int = 0
    selector: Selector | None = None
    steering: Steering = field(default_factory=Steering)  # of the agent

    def item(self, *parts: object) -> tuple[object, ...]:
        """The name that seeds a sample. A search is its policy's own; rollouts draw the same numbers for every
        policy, so that two policies differ by what they are and not by luck.
        """
        return (self.kind, *([] if self.selector is None else [self.agent.policy]), *parts)


def search(
    engine: Engine,
    agent: Policy,
    user: Policy,
    situations: pa.Table,
    dials: SelfPlay,
    preambles: Preambles,
    selector: Selector,
    seed: int,
    scratch: Path,
) -> tuple[pa.Table, pa.Table]:
    """Play train situations with `dials.candidates` samples an agent turn, of which the selector picks one.

    Returns the tables `candidates_{k}` and `trajectories_{k}`, rows in the order of `situations`. Shards
    finished before a kill are taken from `scratch`.

    Raises:
        ValueError: if there is no train situation.
    """
    opened = _situations(situations, "train", dials.situations, seed, f"situations of {agent.name}")
    game = Game(
        kind="search",
        agent=Speaker(agent.name, agent.card.blocks, preambles.get("listener")),
        user=Speaker(user.name, user.card.blocks, preambles.get("sharer")),
        agent_sampling=dials.agent,
        user_sampling=dials.user,
        steering=dials.steering,
        max_turns=dials.max_turns,
        seed=seed,
        candidates=dials.candidates,
        redraws=dials.redraws,
        selector=selector,
    )
    return _play_shards(engine, game, opened, (agent, user), dials.shard_size, scratch)


def rollout(
    engine: Engine,
    agent: Policy,
    user: Policy,
    situations: pa.Table,
    dials: Evaluation,
    preambles: Preambles,
    seed: int,
    scratch: Path,
) -> pa.Table:
    """Play held-out situations, one sample a turn, for `dials.exchanges` exchanges; the TRAJECTORIES table.

    Nothing mends the agent here: a reply whose blocks do not parse is heard as it was written, broken
    blocks and all, and its state and action columns are null. All policies play the same situations.

    Raises:
        ValueError: if the split holds no situation.
    """
    opened = _situations(situations, dials.split, dials.situations, seed, "evaluation situations")
    game = Game(
        kind="rollout",
        agent=Speaker(agent.name, agent.card.blocks, preambles.get("listener")),
        user=Speaker(user.name, user.card.blocks, preambles.get("sharer")),
        agent_sampling=dials.agent,
        user_sampling=dials.user,
        steering=dials.steering,
        max_turns=2 * dials.exchanges,
        seed=seed,
    )
    return _play_shards(engine, game, opened, (agent, user), ROLLOUT_SHARD, scratch)[1]


def play(engine: Engine, game: Game, situations: Sequence[tuple[str, str]]) -> list[Dialogue]:
    """Play (id, text) situations to their end, all at the same turn; a dialogue depends on itself alone."""
    dialogues = [Dialogue.opened(*situation) for situation in situations]
    take_turn = _listen if game.selector is None else _search_turn
    while going := [dialogue for dialogue in dialogues if dialogue.outcome is None]:
        take_turn(engine, game, going)
        going = _within_limit(game, going)
        _user_turn(engine, game, going)
        _within_limit(game, going)
    return dialogues


def _within_limit(game: Game, dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    for dialogue in dialogues:
        if dialogue.outcome is None and dialogue.turn >= game.max_turns:
            dialogue.outcome = Outcome.TURN_LIMIT
    return [dialogue for dialogue in dialogues if dialogue.outcome is None]


def _agent_samples(
    engine: Engine, game: Game, dialogues: Sequence[Dialogue], redraw: int = 0
) -> list[tuple[Dialogue, list[Sample]]]:
    """The dialogues whose prompt fits the model's context, each with its samples; the others end."""
    prompts = [
        Prompt(
            agent_view(dialogue.messages, game.agent.preamble),
            game.item("agent", dialogue.situation_id, dialogue.turn, *([redraw] if redraw else [])),
        )
        for dialogue in dialogues
    ]
    sampled = engine.sample(game.agent.policy, prompts, game.agent_sampling, game.candidates, game.steering)
    return _fitting(dialogues, sampled)


def _fitting(dialogues: Sequence[Dialogue], sampled: Sequence[list[Sample]]) -> list[tuple[Dialogue, list[Sample]]]:
    for dialogue, samples in zip(dialogues, sampled, strict=True):
        if not samples:
            dialogue.outcome = Outcome.CONTEXT_FULL
    return [(dialogue, samples) for dialogue, samples in zip(dialogues, sampled, strict=True) if samples]


def _listen(engine: Engine, game: Game, dialogues: Sequence[Dialogue]) -> None:
    """An agent turn of a rollout: the one sample is said."""
    for dialogue, (sample,) in _agent_samples(engine, game, dialogues):
        chain = parse(sample.text) if game.agent.blocks else None
        if isinstance(chain, Chain):
            message = Message("assistant", chain.utterance, sample.text, chain)
        else:
            message = Message("assistant", sample.text, sample.text)
        dialogue.messages.append(message)
        if not message.text.strip():
            dialogue.outcome = Outcome.EMPTY_AGENT_REPLY


def _search_turn(engine: Engine, game: Game, dialogues: Sequence[Dialogue]) -> None:
    """An agent turn of a search: the selector picks among valid candidates with different utterances.

    Where it finds none good, candidates are drawn anew, `game.redraws` times; all of them are kept.
    """
    waiting = list(dialogues)
    for redraw in range(game.redraws + 1):
        waiting = _search(engine, game, waiting, redraw)
    for dialogue in waiting:
        dialogue.outcome = Outcome.NO_GOOD_CANDIDATE


def _search(engine: Engine, game: Game, dialogues: Sequence[Dialogue], redraw: int) -> list[Dialogue]:
    """One drawing for each of the dialogues; those for which no candidate was good."""
    asked: list[tuple[Dialogue, list[Candidate], list[int]]] = []
    choices: list[Choice] = []
    for dialogue, samples in _agent_samples(engine, game, dialogues, redraw):
        before, _ = dialogue.candidates.get(dialogue.turn, ([], None))
        candidates = [read_candidate(sample, game.agent.blocks) for sample in samples]
        shown = [len(before) + index for index in _shown(game, dialogue, candidates)]
        candidates = before + candidates
        dialogue.candidates[dialogue.turn] = (candidates, None)
        if not shown:
            dialogue.outcome = Outcome.NO_VALID_CANDIDATE
            continue
        asked.append((dialogue, candidates, shown))
        item = f"{game.agent.policy}/{dialogue.situation_id}/{dialogue.turn}" + (f"/{redraw}" if redraw else "")
        choices.append(Choice(item, dialogue.said(), tuple(str(candidates[index].utterance) for index in shown)))
    assert game.selector is not None
    none_good = []
    for (dialogue, candidates, shown), picked in zip(asked, game.selector.select(choices), strict=True):
        if picked is Declined.NONE_GOOD:
            none_good.append(dialogue)
        elif picked is Declined.UNREADABLE:
            dialogue.outcome = Outcome.UNREADABLE_CHOICE
        else:
            chosen = shown[picked]
            dialogue.candidates[dialogue.turn] = (candidates, chosen)
            said = candidates[chosen]
            dialogue.messages.append(Message("assistant", str(said.utterance), said.text, said.chain))
    return none_good


def read_candidate(sample: Sample, blocks: bool) -> Candidate:
    """A sample as a candidate, with the reason where nobody may say it."""
    chain = parse(sample.text) if blocks else None
    utterance = chain.utterance if isinstance(chain, Chain) else None if blocks else sample.text
    reason = None
    if not sample.finished:
        reason = "cut at the token limit"
    elif isinstance(chain, Unparsed):
        reason = chain.reason
    elif not (utterance or "").strip():
        reason = "empty utterance"
    return Candidate(sample.text, utterance, chain if isinstance(chain, Chain) else None, reason)


def _shown(game: Game, dialogue: Dialogue, candidates: Sequence[Candidate]) -> list[int]:
    """Indices of the candidates that the selector sees, in an order that favours no position."""
    distinct: dict[str, int] = {}
    for index, candidate in enumerate(candidates):
        if candidate.valid:
            distinct.setdefault(str(candidate.utterance).strip(), index)
    shown = list(distinct.values())
    shuffle = generator(game.seed, "order of candidates", game.agent.policy, dialogue.situation_id, dialogue.turn)
    return [shown[place] for place in shuffle.permutation(len(shown))]


def _user_turn(engine: Engine, game: Game, dialogues: Sequence[Dialogue]) -> None:
    """The simulated user answers; a reply that nobody could hear is drawn again, up to USER_ATTEMPTS times."""
    waiting = list(dialogues)
    for attempt in range(USER_ATTEMPTS):
        prompts = [
            Prompt(
                user_view(dialogue.messages, game.user),
                game.item("user", dialogue.situation_id, dialogue.turn, attempt),
            )
            for dialogue in waiting
        ]
        if not prompts:
            return
        sampled = engine.sample(game.user.policy, prompts, game.user_sampling)
        unheard: list[tuple[Dialogue, Outcome]] = []
        for dialogue, (sample,) in _fitting(waiting, sampled):
            reply = read_user_reply(sample, game.user.blocks)
            if isinstance(reply, Outcome):
                unheard.append((dialogue, reply))
                continue
            dialogue.messages.append(reply)
            if is_farewell(reply.text):
                dialogue.outcome = Outcome.FAREWELL
        waiting = [dialogue for dialogue, _ in unheard]
    for dialogue, why in unheard:
        dialogue.outcome = why


def read_user_reply(sample: Sample, blocks: bool) -> Message | Outcome:
    """The user's message, trimmed after its first question; or what is wrong with it."""
    if not sample.finished:
        return Outcome.CUT_USER_REPLY
    chain = parse(sample.text) if blocks else None
    if isinstance(chain, Unparsed):
        return Outcome.NO_VALID_USER_BLOCKS
    utterance = chain.utterance if chain is not None else sample.text
    text = up_to_first_question(utterance)
    if not text.strip():
        return Outcome.EMPTY_USER_REPLY
    content = sample.text[: len(sample.text) - len(utterance) + len(text)]
    said = None if chain is None else Chain(chain.state, chain.action, text)
    return Message("user", text, content, said)


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
    policies: tuple[Policy, Policy],
    shard_size: int,
    scratch: Path,
) -> tuple[pa.Table, pa.Table]:
    """Play shard after shard, keeping each as it is finished; (candidates, trajectories) of all."""
    from tqdm import tqdm

    rules = {
        "game": [game.kind, game.agent_sampling.model_dump(), game.user_sampling.model_dump(), game.max_turns],
        "search": [game.candidates, game.redraws, None if game.selector is None else game.selector.name],
        "steering": game.steering.model_dump(),
        "speakers": [
            [policy.name, policy.card.blocks, policy.card.base_revision, policy.revision()] for policy in policies
        ],
        "preambles": [game.agent.preamble, game.user.preamble],
        "situations": [list(situation) for situation in situations],
        "seed": game.seed,
        "shard_size": shard_size,
        "libraries": {name: version(name) for name in LIBRARIES},
        "engine": dict(engine.decides),
    }
    shards = Shards(Path(scratch) / game.kind / game.agent.policy / fingerprint(rules))
    parts = [situations[start : start + shard_size] for start in range(0, len(situations), shard_size)]
    if game.selector is not None:
        to_play = sum(len(part) for number, part in enumerate(parts) if not shards.finished(number))
        game.selector.expect(to_play * (game.max_turns // 2) * (game.redraws + 1))
    started, drawn = time.monotonic(), 0
    with tqdm(total=len(situations), desc=f"{game.kind} {game.agent.policy}", unit="dialogue", disable=None) as bar:
        for number, part in enumerate(parts):
            if not shards.finished(number):
                dialogues = play(engine, game, part)
                candidates = candidates_table(dialogues)
                shards.keep(number, candidates, trajectories_table(dialogues))
                drawn += candidates.num_rows
                if drawn:
                    bar.set_postfix_str(f"{drawn / (time.monotonic() - started):.0f} candidates/s", refresh=False)
            bar.update(len(part))
    candidates, trajectories = shards.tables()
    logger.info("%s %s: %s", game.kind, game.agent.policy, _summary(candidates, trajectories))
    return candidates, trajectories


def _summary(candidates: pa.Table, trajectories: pa.Table) -> str:
    outcomes = zip(trajectories["outcome"].to_pylist(), trajectories["turn"].to_pylist(), strict=True)
    ended = Counter(outcome for outcome, turn in outcomes if turn == 0)
    said = f"{ended.total()} dialogues ended by {', '.join(f'{why} ({n})' for why, n in ended.most_common())}"
    if not candidates.num_rows:
        return said
    return f"{said}; {sum(candidates['valid'].to_pylist())} of {candidates.num_rows} candidates valid"
