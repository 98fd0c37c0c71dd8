"""The rules of the dialogue game: an agent and a simulated user talk in turns (paper §3.4, §3.6)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sage_dialog.config import GameRules
from sage_dialog.core.seeds import generator
from sage_dialog.dialogue import Message, agent_view, user_view
from sage_dialog.inference.candidates import Candidate, parse_candidate
from sage_dialog.inference.engine import Engine, Prompt, Sample
from sage_dialog.roles.protocols import Choice, NoChoice, Selector
from sage_dialog.sac import Chain, Unparsed, parse
from sage_dialog.selfplay.reply_rules import is_farewell, up_to_first_question

Turns = Generator[list[Choice], list[int | NoChoice], None]
"""Dialogues in progress: yields the selector's choices of each turn, and receives its selections."""


class Outcome(StrEnum):
    """Why a dialogue ended."""

    TURN_LIMIT = "turn limit"
    FAREWELL = "farewell"
    CONTEXT_FULL = "context full"
    NO_VALID_CANDIDATE = "no valid candidate"
    NO_GOOD_CANDIDATE = "no good candidate"
    UNREADABLE_CHOICE = "unreadable choice"
    EMPTY_AGENT_REPLY = "empty agent reply"
    EMPTY_USER_REPLY = "empty user reply"
    CUT_USER_REPLY = "cut user reply"
    NO_VALID_USER_BLOCKS = "no valid user blocks"


@dataclass(frozen=True)
class Speaker:
    """A policy in a role of the game.

    Attributes:
        blocks: whether it writes state and action blocks.
    """

    policy: str
    blocks: bool
    system_prompt: str | None


@dataclass
class GameState:
    """A dialogue in progress.

    Attributes:
        messages: the dialogue so far. Turn 0 is the situation, in the user's voice.
        outcome: None until the dialogue ends.
        candidates: for each agent turn with several samples, all of them and the index of the chosen one.
    """

    situation_id: str
    messages: list[Message]
    outcome: Outcome | None = None
    candidates: dict[int, tuple[list[Candidate], int | None]] = field(default_factory=dict)

    @classmethod
    def from_situation(cls, situation_id: str, situation: str) -> GameState:
        return cls(situation_id, [Message("user", situation)])

    @property
    def turn(self) -> int:
        """The number of the next message."""
        return len(self.messages)

    def visible_messages(self) -> tuple[Message, ...]:
        """Return the messages without blocks."""
        return tuple(Message(message.role, message.text) for message in self.messages)


@dataclass(frozen=True)
class Game:
    """The rules of one round of dialogues. Without a `selector` the agent's first sample is its message."""

    kind: str
    agent: Speaker
    user: Speaker
    rules: GameRules
    max_turns: int
    seed: int
    candidates: int = 1
    redraws: int = 0
    selector: Selector | None = None

    def item(self, *parts: object) -> tuple[object, ...]:
        """Return the name that seeds a sample.

        A search has the policy's name in it. Rollouts draw the same numbers for every policy, so that policies do not
        differ by luck.
        """
        return (self.kind, *([] if self.selector is None else [self.agent.policy]), *parts)

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        return [] if self.selector is None else self.selector.select(choices)


def play(engine: Engine, game: Game, dialogues: Sequence[GameState]) -> Turns:
    """Play dialogues to their end, all at the same turn. A dialogue does not depend on the others.

    Yields an empty list where there is nothing to choose, as in every turn of a rollout.
    """
    while unfinished := [dialogue for dialogue in dialogues if dialogue.outcome is None]:
        if game.selector is None:
            for dialogue, samples in _agent_samples(engine, game, unfinished):
                drawn = [parse_candidate(sample, game.agent.blocks) for sample in samples]
                if len(drawn) > 1:
                    dialogue.candidates[dialogue.turn] = (drawn, 0)
                message = drawn[0].message
                dialogue.messages.append(message)
                if not message.text.strip():
                    dialogue.outcome = Outcome.EMPTY_AGENT_REPLY
            yield []
        else:
            yield from _search_turn(engine, game, unfinished)
        unfinished = _end_at_limit(game, unfinished)
        _user_turn(engine, game, unfinished)
        _end_at_limit(game, unfinished)


def _end_at_limit(game: Game, dialogues: Sequence[GameState]) -> list[GameState]:
    """End the dialogues that reach the turn limit, and return the others."""
    for dialogue in dialogues:
        if dialogue.outcome is None and dialogue.turn >= game.max_turns:
            dialogue.outcome = Outcome.TURN_LIMIT
    return [dialogue for dialogue in dialogues if dialogue.outcome is None]


def _agent_samples(
    engine: Engine, game: Game, dialogues: Sequence[GameState], redraw: int = 0
) -> list[tuple[GameState, list[Sample]]]:
    """Return the dialogues whose prompt fits the model's context with their samples; the others end."""
    prompts = [
        Prompt(
            agent_view(dialogue.messages, game.agent.system_prompt),
            game.item("agent", dialogue.situation_id, dialogue.turn, *([redraw] if redraw else [])),
        )
        for dialogue in dialogues
    ]
    sampled = engine.sample(game.agent.policy, prompts, game.rules.agent, game.candidates, game.rules.steering)
    return _end_if_full(dialogues, sampled)


def _end_if_full(
    dialogues: Sequence[GameState], sampled: Sequence[list[Sample]]
) -> list[tuple[GameState, list[Sample]]]:
    for dialogue, samples in zip(dialogues, sampled, strict=True):
        if not samples:
            dialogue.outcome = Outcome.CONTEXT_FULL
    return [(dialogue, samples) for dialogue, samples in zip(dialogues, sampled, strict=True) if samples]


def _search_turn(engine: Engine, game: Game, dialogues: Sequence[GameState]) -> Turns:
    """Play an agent turn of a search: the selector picks among valid candidates with different utterances.

    Where none is good, new candidates are drawn, up to `game.redraws` times; all of them are kept.
    """
    waiting = list(dialogues)
    for redraw in range(game.redraws + 1):
        offers = _draw(engine, game, waiting, redraw)
        selected = yield [choice for _, _, choice in offers]
        waiting = []
        for (dialogue, offered, _), selection in zip(offers, selected, strict=True):
            if selection is NoChoice.NONE_GOOD:
                waiting.append(dialogue)
            elif selection is NoChoice.UNREADABLE:
                dialogue.outcome = Outcome.UNREADABLE_CHOICE
            else:
                candidates, _ = dialogue.candidates[dialogue.turn]
                dialogue.candidates[dialogue.turn] = (candidates, offered[selection])
                dialogue.messages.append(candidates[offered[selection]].message)
    for dialogue in waiting:
        dialogue.outcome = Outcome.NO_GOOD_CANDIDATE


def _draw(
    engine: Engine, game: Game, dialogues: Sequence[GameState], redraw: int
) -> list[tuple[GameState, list[int], Choice]]:
    """Draw candidates; return each dialogue, the indices on offer and the choice. Without a valid candidate it ends."""
    offers = []
    for dialogue, samples in _agent_samples(engine, game, dialogues, redraw):
        before, _ = dialogue.candidates.get(dialogue.turn, ([], None))
        drawn = [parse_candidate(sample, game.agent.blocks) for sample in samples]
        dialogue.candidates[dialogue.turn] = (before + drawn, None)
        offered = _offered(game, dialogue, drawn)
        if not offered:
            declined = any(candidate.valid for candidate in before)
            dialogue.outcome = Outcome.NO_GOOD_CANDIDATE if declined else Outcome.NO_VALID_CANDIDATE
            continue
        item = f"{game.agent.policy}/{dialogue.situation_id}/{dialogue.turn}" + (f"/{redraw}" if redraw else "")
        choice = Choice(item, dialogue.visible_messages(), tuple(str(drawn[index].utterance) for index in offered))
        offers.append((dialogue, [len(before) + index for index in offered], choice))
    return offers


def _offered(game: Game, dialogue: GameState, candidates: Sequence[Candidate]) -> list[int]:
    """Return the indices of valid candidates with different utterances, shuffled so that no position is favoured."""
    distinct: dict[str, int] = {}
    for index, candidate in enumerate(candidates):
        if candidate.valid:
            distinct.setdefault(str(candidate.utterance).strip(), index)
    indices = list(distinct.values())
    shuffle = generator(game.seed, "order of candidates", game.agent.policy, dialogue.situation_id, dialogue.turn)
    return [indices[place] for place in shuffle.permutation(len(indices))]


def _user_turn(engine: Engine, game: Game, dialogues: Sequence[GameState]) -> None:
    """Play a turn of the simulated user; an invalid reply is drawn again."""
    waiting = list(dialogues)
    for attempt in range(game.rules.user_attempts):
        prompts = [
            Prompt(
                user_view(dialogue.messages, game.user.system_prompt, game.user.blocks),
                game.item("user", dialogue.situation_id, dialogue.turn, attempt),
            )
            for dialogue in waiting
        ]
        if not prompts:
            return
        sampled = engine.sample(game.user.policy, prompts, game.rules.user)
        invalid: list[tuple[GameState, Outcome]] = []
        for dialogue, (sample,) in _end_if_full(waiting, sampled):
            reply = parse_user_reply(sample, game.user.blocks, game.rules.one_question)
            if isinstance(reply, Outcome):
                invalid.append((dialogue, reply))
                continue
            dialogue.messages.append(reply)
            if game.rules.farewell_ends and is_farewell(reply.text):
                dialogue.outcome = Outcome.FAREWELL
        waiting = [dialogue for dialogue, _ in invalid]
    for dialogue, outcome in invalid:
        dialogue.outcome = outcome


def parse_user_reply(sample: Sample, blocks: bool, one_question: bool) -> Message | Outcome:
    """Return the user's message, or the outcome of the dialogue if the reply is invalid.

    Args:
        blocks: whether the user writes state and action blocks.
        one_question: trim the message after its first question.
    """
    if not sample.finished:
        return Outcome.CUT_USER_REPLY
    chain = parse(sample.text) if blocks else None
    if isinstance(chain, Unparsed):
        return Outcome.NO_VALID_USER_BLOCKS
    utterance = chain.utterance if chain is not None else sample.text
    text = up_to_first_question(utterance) if one_question else utterance
    if not text.strip():
        return Outcome.EMPTY_USER_REPLY
    content = sample.text[: len(sample.text) - len(utterance) + len(text)]
    trimmed = None if chain is None else Chain(chain.state, chain.action, text)
    return Message("user", content, text, trimmed)
