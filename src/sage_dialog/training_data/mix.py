"""The training mix: conversations of several sources, in the text of an arm (paper §3.2, §3.3)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from sage_dialog.config import SacAugmentation, Source
from sage_dialog.core.recipe import Arm
from sage_dialog.core.seeds import derived_seed, sample_ids, seed_label
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.dialogue import Message
from sage_dialog.schemas import MIX_REJECTS, SFT_CONVERSATIONS
from sage_dialog.training_data.arms import texts_of_arm
from sage_dialog.training_data.blending import blend_dialogues
from sage_dialog.training_data.sources import SourceReader

logger = logging.getLogger(__name__)


def training_mix(reader: SourceReader, config: SacAugmentation, seed: int, arm: Arm) -> tuple[DataFrame, DataFrame]:
    """Return conversations of every source of the mix in seeded order, and the rejects of the sources.

    Sampling, blending and checks use the text with the whole chain, so all arms hold the same dialogues.

    Returns:
        Tables of `schemas.SFT_CONVERSATIONS` and `schemas.MIX_REJECTS`.

    Raises:
        ValueError: naming the source that cannot be read.
    """
    pools = {source.name: reader.read(source) for source in config.mix}
    for name in reader.unused_files:
        logger.warning("%s belongs to no source of the mix", name)
    sizes = mix_sizes(config.mix, {name: len(pool.ids) for name, pool in pools.items()})
    rows = []
    for source in config.mix:
        pool, label, system_prompt = pools[source.name], seed_label(source.name), config.system_prompt(source)
        sample = sample_ids(sorted(pool.ids), sizes[source.name], seed, f"mix {label}")
        dialogues = {name: _with_system_prompt(pool.messages(name), system_prompt) for name in sample}
        dialogues = texts_of_arm(dialogues, arm, seed, label)
        if config.blend and source.name in config.blend.sources:
            dialogues = blend_dialogues(dialogues, config.blend, seed, label)
        for name, dialogue in dialogues.items():
            messages = [{"role": message.role, "content": message.text} for message in dialogue]
            rows.append({"conversation_id": f"{source.name}:{name}", "source": source.name, "messages": messages})
        logger.info(
            "%s: %d of %d conversations, %d rejected", source.name, len(sample), len(pool.ids), len(pool.rejects)
        )
    rows.sort(key=lambda row: derived_seed(seed, "mix order", seed_label(str(row["conversation_id"]))))
    rejects = [
        {"source": name, "record": reject.where, "reason": reject.reason}
        for name, pool in pools.items()
        for reject in pool.rejects
    ]
    return from_rows(rows, SFT_CONVERSATIONS), from_rows(rejects, MIX_REJECTS)


def dialogue_ids(conversations: DataFrame, sources: Sequence[str]) -> set[str]:
    """Return the dialogues of training conversations (schemas.SFT_CONVERSATIONS) that come from these sources."""
    ids = conversations.loc[conversations["source"].isin(list(sources)), "conversation_id"]
    return {str(name).partition(":")[2] for name in ids}


def mix_sizes(mix: Sequence[Source], available: Mapping[str, int]) -> dict[str, int]:
    """Return the number of conversations to sample from each source, at most those available.

    A source without a share gives its `size`, or all. These sources fill what the shares leave of the mix and so
    determine its size. Where every source has a share, the source that is scarcest for its share does.
    """
    sizes = {
        source.name: available[source.name] if source.size is None else min(source.size, available[source.name])
        for source in mix
        if source.share is None
    }
    shares = {source.name: source.share for source in mix if source.share is not None}
    if sizes:
        total = sum(sizes.values()) / (1 - math.fsum(shares.values()))
    else:
        total = min((available[name] / share for name, share in shares.items()), default=0.0)
    for name, share in shares.items():
        wanted = round(share * total)
        sizes[name] = min(wanted, available[name])
        if wanted > available[name]:
            logger.warning(
                "%s: its share of the mix is %d conversations, but it has %d; all are used",
                *(name, wanted, available[name]),
            )
    return sizes


def _with_system_prompt(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """Return the messages with the source's system message in place of their own, where the source has one."""
    if system_prompt is None:
        return list(messages)
    return [Message("system", system_prompt), *(message for message in messages if message.role != "system")]
