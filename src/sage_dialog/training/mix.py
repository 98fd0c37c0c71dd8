"""The training mix: annotations and instructions become conversations, with blocks or without."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pyarrow as pa

from sage_dialog import schemas
from sage_dialog.corpora.conversations import Conversation
from sage_dialog.parameters import SacAugmentation
from sage_dialog.sac import Annotated, Intent, augment
from sage_dialog.seeds import derived_seed, sample_ids

OTHER_ROLE = {"user": "assistant", "assistant": "user"}


def training_mix(
    annotations: pa.Table,
    instructions: Sequence[Conversation],
    dials: SacAugmentation,
    seed: int,
    with_blocks: bool,
) -> pa.Table:
    """Conversations of every source of the mix (schemas.SFT_CONVERSATIONS), in seeded order.

    Sizes are sampled by seed and id, so the plain mix holds the same dialogues as the augmented one.
    """
    dialogues = dict(_dialogues(annotations))
    rows = []
    for source in dials.mix:
        if source.name == "instructions":
            available = {
                told.id: [{"role": message.role, "content": message.content} for message in told.messages]
                for told in instructions
            }
        else:
            available = {
                name: _conversation(said, source.name == "sharer", with_blocks) for name, said in dialogues.items()
            }
        preamble = dials.preambles.get(source.name)
        for name in sample_ids(sorted(available), source.size, seed, f"mix {source.name}"):
            messages = available[name]
            if preamble:
                told = [message for message in messages if message["role"] != "system"]
                messages = [{"role": "system", "content": preamble}, *told]
            if any(message["role"] == "assistant" for message in messages):
                rows.append({"conversation_id": f"{source.name}:{name}", "source": source.name, "messages": messages})
    rows.sort(key=lambda row: derived_seed(seed, "mix order", row["conversation_id"]))
    return pa.Table.from_pylist(rows, schema=schemas.SFT_CONVERSATIONS)


def _dialogues(annotations: pa.Table) -> Iterator[tuple[str, list[Annotated]]]:
    rows = sorted(annotations.to_pylist(), key=lambda row: (row["dialogue_id"], row["turn"]))
    for name, utterances in itertools.groupby(rows, key=lambda row: row["dialogue_id"]):
        yield (
            str(name),
            [
                Annotated(
                    row["speaker"], row["text"], Intent(row["motivation"], row["emotion"], tuple(row["topics"] or ()))
                )
                for row in utterances
            ],
        )


def _conversation(utterances: Sequence[Annotated], sharer_speaks: bool, with_blocks: bool) -> list[dict[str, str]]:
    """One dialogue as messages. The sharer's side is the same dialogue with the roles changed."""
    if sharer_speaks:
        utterances = [Annotated(OTHER_ROLE[said.role], said.text, said.intent) for said in utterances]
    if with_blocks:
        return augment(utterances)
    return [{"role": said.role, "content": said.text} for said in utterances]
