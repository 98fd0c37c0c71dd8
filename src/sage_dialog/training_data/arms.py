"""Arms of the ablation: what of the state-action chain the training text holds (paper §3.3 has `chain` and `plain`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sage_dialog.core.recipe import Arm
from sage_dialog.core.seeds import derived_seed
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.dialogue import Message
from sage_dialog.sac import Chain, Intent, render


def texts_of_arm(
    dialogues: Mapping[str, Sequence[Message]], arm: Arm, seed: int, source: str
) -> dict[str, list[Message]]:
    """Return the dialogues of a source with the training text of an arm as the `text` of each message.

    `content` keeps the whole chain, by whose length dialogues are blended and left out in every arm. Blocks of an arm
    are complete; labels that it lacks are null. A shuffled dialogue takes all its chains, in order, from one other
    dialogue, drawn by (seed, source); where that one is shorter, they begin again.

    Args:
        dialogues: by id.

    Raises:
        InputDataError: if chains are to be shuffled and there is one dialogue only.
    """
    if arm == "plain":
        return {name: list(messages) for name, messages in dialogues.items()}
    if arm == "chain":
        return {name: [replace(each, text=each.content) for each in messages] for name, messages in dialogues.items()}
    donors = _donors(dialogues, seed, source) if arm == "shuffled" else {}
    found = {}
    for name, messages in dialogues.items():
        chains = _chains(dialogues[donors[name]]) if arm == "shuffled" else _chains(messages)
        written = 0
        texts = []
        for message in messages:
            if message.chain is None:
                texts.append(message)
                continue
            chain = chain_of_arm(chains[written % len(chains)], arm)
            texts.append(replace(message, text=render(replace(chain, utterance=message.chain.utterance))))
            written += 1
        found[name] = texts
    return found


def chain_of_arm(chain: Chain, arm: Arm) -> Chain:
    """Return what the text of an arm has of a chain; of a shuffled one, all."""
    if arm == "emotion":
        return replace(chain, state=Intent(emotion=chain.state.emotion), action=Intent())
    return replace(chain, state=Intent()) if arm == "action" else chain


def _chains(messages: Sequence[Message]) -> list[Chain]:
    return [message.chain for message in messages if message.chain is not None]


def _donors(dialogues: Mapping[str, Sequence[Message]], seed: int, source: str) -> dict[str, str]:
    """Return another dialogue for each that has chains: the next one in seeded order."""
    names = [name for name, messages in dialogues.items() if _chains(messages)]
    if len(names) == 1:
        raise InputDataError(
            f"source {source!r} of the mix: {names[0]} is its only dialogue with labels, and the arm `shuffled` takes "
            "them from another; leave out the pipeline `ablations`, or add dialogues"
        )
    order = sorted(names, key=lambda name: derived_seed(seed, "shuffled chain", source, name))
    return dict(zip(order, order[1:] + order[:1], strict=True))
