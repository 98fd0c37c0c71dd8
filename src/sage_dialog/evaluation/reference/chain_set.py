"""The closed set of chains that a policy knows from its training: every value that a field of its blocks had there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from sage_dialog.core.recipe import ABLATIONS, Arm
from sage_dialog.core.tables import DataFrame
from sage_dialog.sac import Chain, Intent, parse
from sage_dialog.sac.chain import ACTION_PREFIX, STATE_PREFIX, render, render_block
from sage_dialog.training_data.arms import chain_of_arm

FIELDS = ("u_motivation", "u_emotion", "u_topic", "a_motivation", "a_emotion", "a_topic")
"""The fields of the blocks in the order of their text."""

STATE_FIELDS = FIELDS[:3]
"""Those of the state block."""

Value = str | tuple[str, ...] | None
"""A label, the topics, or no label."""

Labels = tuple[Value, ...]
"""A value for each of `FIELDS`."""


@dataclass(frozen=True)
class ChainSet:
    """Values of each field, the most frequent in training first."""

    values: Mapping[str, tuple[Value, ...]]

    @property
    def size(self) -> int:
        return prod(len(values) for values in self.values.values())

    @property
    def varying(self) -> list[str]:
        """The fields with more than one value."""
        return [field for field in FIELDS if len(self.values[field]) > 1]

    def all(self) -> list[Labels]:
        """Return every chain of the set."""
        return list(product(*(self.values[field] for field in FIELDS)))

    def at_most(self, values: int) -> ChainSet:
        """Return the set with at most so many values of each field."""
        return ChainSet({field: known[:values] for field, known in self.values.items()})

    def opening(self) -> ChainSet:
        """Return the set for a reply that no message precedes: its state is empty."""
        empty = {field: (() if field.endswith("topic") else None,) for field in STATE_FIELDS}
        return ChainSet({**self.values, **empty})


def chain_set(chains: Iterable[Chain]) -> ChainSet:
    """Return the values that the fields of chains have.

    Raises:
        ValueError: if there is no chain.
    """
    counts: dict[str, Counter[Value]] = {field: Counter() for field in FIELDS}
    for chain in chains:
        for field, value in zip(FIELDS, labels_of(chain), strict=True):
            counts[field][value] += 1
    if not counts[FIELDS[0]]:
        raise ValueError("no reply of the training conversations has state and action blocks")
    order = {field: sorted(found, key=lambda value: (-found[value], str(value))) for field, found in counts.items()}
    return ChainSet({field: tuple(values) for field, values in order.items()})


def training_chains(conversations: DataFrame, sources: Sequence[str]) -> list[Chain]:
    """Return the chains of the training conversations (schemas.SFT_CONVERSATIONS) of these sources of the mix."""
    texts = conversations.loc[conversations["source"].isin(list(sources)), "messages"]
    parsed = [parse(message["content"]) for messages in texts for message in messages if message["role"] == "assistant"]
    return [chain for chain in parsed if isinstance(chain, Chain)]


def arm_of(policy: str) -> Arm:
    """Return the arm of the ablation on whose text a policy with blocks was trained; the whole chain for others."""
    arms: dict[str, Arm] = {f"sage_1_{arm}": arm for arm in ABLATIONS}
    return arms.get(policy, "chain")


def in_arm(labels: Labels, arm: Arm) -> Labels:
    """Return labels as the text of an arm has them."""
    return labels_of(chain_of_arm(as_chain(labels), arm))


def labels_of(chain: Chain) -> Labels:
    """Return the labels of a chain, in the order of `FIELDS`."""
    state, action = chain.state, chain.action
    return state.motivation, state.emotion, state.topics, action.motivation, action.emotion, action.topics


def as_chain(labels: Labels) -> Chain:
    """Return a chain of these labels without an utterance."""
    return Chain(Intent(*labels[:3]), Intent(*labels[3:]), "")  # type: ignore[arg-type]


def blocks_text(labels: Labels) -> str:
    """Return the text of the blocks, with the space before the utterance."""
    return render(as_chain(labels))


def value_end(labels: Labels, field: str) -> int:
    """Return the character of `blocks_text` after the one that ends the value of a field: a comma, or a bracket."""
    place = FIELDS.index(field)
    chain = as_chain(labels)
    start = 0 if place < 3 else len(render_block(STATE_PREFIX, chain.state)) + 1
    prefix, intent = (STATE_PREFIX, chain.state) if place < 3 else (ACTION_PREFIX, chain.action)
    block = render_block(prefix, intent)
    if place % 3 == 2:
        return start + len(block) - 1
    following = FIELDS[place + 1]
    return start + block.index(f" {following}: ")
