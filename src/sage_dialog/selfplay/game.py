"""The rules of the dialogue game: an agent and a simulated user talk in turns (paper §3.4, §3.6)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from sage_dialog.config import GameRules
from sage_dialog.core.seeds import generator
from sage_dialog.dialogue import Message, agent_view, user_view
from sage_dialog.inference.candidates import Candidate, parse_candidate
from sage_dialog.inference.engine import Engine, Prompt, Sample
from sage_dialog.roles.protocols import Choice, NoChoice, Selector
from sage_dialog.sac import Chain, Unparsed, parse
from sage_dialog.selfplay.game_state import GameState, Outcome, Speaker
from sage_dialog.selfplay.reply_rules import is_farewell, up_to_first_question

Turns = Generator[list[Choice], list[int | NoChoice], None]
"""Dialogues being played: gives the choices that the selector is to decide, and takes what it picked."""


@dataclass(frozen=True)
class Game:
    """The rules of one round of dialogues. Without a `selector` the agent's single sample is what it says."""

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
        """The name that seeds a sample. A search is its policy's own; rollouts draw the same numbers for every
        policy, so that two policies differ by what they are and not by luck.
        """
        return (self.kind, *([] if self.selector is None else [self.agent.policy]), *parts)

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        """What the selector picks; a game without one asks nothing."""
        return [] if self.selector is None else self.selector.select(choices)


def play(engine: Engine, game: Game, dialogues: Sequence[GameState]) -> Turns:
    """Plays opened dialogues to their end, all at the same turn; a dialogue depends on itself alone.

    Gives an empty list of choices where nothing is to be decided, as in every exchange of a rollout.
    """
    while going := [dialogue for dialogue in dialogues if dialogue.outcome is None]:
        if game.selector is None:
            _listen(engine, game, going)
            yield []
        else:
            yield from _search_turn(engine, game, going)
        going = _within_limit(game, going)
        _user_turn(engine, game, going)
        _within_limit(game, going)


def _within_limit(game: Game, dialogues: Sequence[GameState]) -> list[GameState]:
    for dialogue in dialogues:
        if dialogue.outcome is None and dialogue.turn >= game.max_turns:
            dialogue.outcome = Outcome.TURN_LIMIT
    return [dialogue for dialogue in dialogues if dialogue.outcome is None]


def _agent_samples(
    engine: Engine, game: Game, dialogues: Sequence[GameState], redraw: int = 0
) -> list[tuple[GameState, list[Sample]]]:
    """The dialogues whose prompt fits the model's context, each with its samples; the others end."""
    prompts = [
        Prompt(
            agent_view(dialogue.messages, game.agent.system_prompt),
            game.item("agent", dialogue.situation_id, dialogue.turn, *([redraw] if redraw else [])),
        )
        for dialogue in dialogues
    ]
    sampled = engine.sample(game.agent.policy, prompts, game.rules.agent, game.candidates, game.rules.steering)
    return _fitting(dialogues, sampled)


def _fitting(dialogues: Sequence[GameState], sampled: Sequence[list[Sample]]) -> list[tuple[GameState, list[Sample]]]:
    for dialogue, samples in zip(dialogues, sampled, strict=True):
        if not samples:
            dialogue.outcome = Outcome.CONTEXT_FULL
    return [(dialogue, samples) for dialogue, samples in zip(dialogues, sampled, strict=True) if samples]


def _listen(engine: Engine, game: Game, dialogues: Sequence[GameState]) -> None:
    """An agent turn of a rollout: the one sample is said."""
    for dialogue, (sample,) in _agent_samples(engine, game, dialogues):
        chain = parse(sample.text) if game.agent.blocks else None
        if isinstance(chain, Chain):
            message = Message("assistant", sample.text, chain.utterance, chain)
        else:
            message = Message("assistant", sample.text)
        dialogue.messages.append(message)
        if not message.text.strip():
            dialogue.outcome = Outcome.EMPTY_AGENT_REPLY


def _search_turn(engine: Engine, game: Game, dialogues: Sequence[GameState]) -> Turns:
    """An agent turn of a search: the selector picks among valid candidates with different utterances.

    Where it finds none good, candidates are drawn anew, `game.redraws` times; all of them are kept.
    """
    waiting = list(dialogues)
    for redraw in range(game.redraws + 1):
        asked = _draw(engine, game, waiting, redraw)
        picked = yield [choice for _, _, choice in asked]
        waiting = _decide(asked, picked)
    for dialogue in waiting:
        dialogue.outcome = Outcome.NO_GOOD_CANDIDATE


_Asked = tuple[GameState, list[int], Choice]
"""A dialogue, the indices of the candidates that the selector sees, and what it is asked."""


def _draw(engine: Engine, game: Game, dialogues: Sequence[GameState], redraw: int) -> list[_Asked]:
    """Candidates for each of the dialogues; one without a valid candidate ends."""
    asked = []
    for dialogue, samples in _agent_samples(engine, game, dialogues, redraw):
        before, _ = dialogue.candidates.get(dialogue.turn, ([], None))
        drawn = [parse_candidate(sample, game.agent.blocks) for sample in samples]
        dialogue.candidates[dialogue.turn] = (before + drawn, None)
        shown = _shown(game, dialogue, drawn)
        if not shown:
            declined = any(candidate.valid for candidate in before)
            dialogue.outcome = Outcome.NO_GOOD_CANDIDATE if declined else Outcome.NO_VALID_CANDIDATE
            continue
        item = f"{game.agent.policy}/{dialogue.situation_id}/{dialogue.turn}" + (f"/{redraw}" if redraw else "")
        choice = Choice(item, dialogue.visible_messages(), tuple(str(drawn[index].utterance) for index in shown))
        asked.append((dialogue, [len(before) + index for index in shown], choice))
    return asked


def _decide(asked: Sequence[_Asked], picked: Sequence[int | NoChoice]) -> list[GameState]:
    """What was picked is said; the dialogues for which no candidate was good."""
    none_good = []
    for (dialogue, shown, _), answer in zip(asked, picked, strict=True):
        if answer is NoChoice.NONE_GOOD:
            none_good.append(dialogue)
        elif answer is NoChoice.UNREADABLE:
            dialogue.outcome = Outcome.UNREADABLE_CHOICE
        else:
            candidates, _ = dialogue.candidates[dialogue.turn]
            chosen = shown[answer]
            dialogue.candidates[dialogue.turn] = (candidates, chosen)
            said = candidates[chosen]
            dialogue.messages.append(Message("assistant", said.text, str(said.utterance), said.chain))
    return none_good


def _shown(game: Game, dialogue: GameState, candidates: Sequence[Candidate]) -> list[int]:
    """Indices of the candidates that the selector sees, in an order that favours no position."""
    distinct: dict[str, int] = {}
    for index, candidate in enumerate(candidates):
        if candidate.valid:
            distinct.setdefault(str(candidate.utterance).strip(), index)
    shown = list(distinct.values())
    shuffle = generator(game.seed, "order of candidates", game.agent.policy, dialogue.situation_id, dialogue.turn)
    return [shown[place] for place in shuffle.permutation(len(shown))]


def _user_turn(engine: Engine, game: Game, dialogues: Sequence[GameState]) -> None:
    """The simulated user answers; a reply that nobody could hear is drawn again."""
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
        unheard: list[tuple[GameState, Outcome]] = []
        for dialogue, (sample,) in _fitting(waiting, sampled):
            reply = read_user_reply(sample, game.user.blocks, game.rules.one_question)
            if isinstance(reply, Outcome):
                unheard.append((dialogue, reply))
                continue
            dialogue.messages.append(reply)
            if game.rules.farewell_ends and is_farewell(reply.text):
                dialogue.outcome = Outcome.FAREWELL
        waiting = [dialogue for dialogue, _ in unheard]
    for dialogue, why in unheard:
        dialogue.outcome = why


def read_user_reply(sample: Sample, blocks: bool, one_question: bool) -> Message | Outcome:
    """The user's message, trimmed after its first question where it may ask but one; or what is wrong with it."""
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
    said = None if chain is None else Chain(chain.state, chain.action, text)
    return Message("user", content, text, said)
