"""The training mix: conversations of several sources, with blocks or without (paper §3.2, §3.3)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import pyarrow as pa

from sage_dialog import schemas
from sage_dialog.config import SacAugmentation, Source
from sage_dialog.core.seeds import derived_seed, sample_ids, seed_label
from sage_dialog.dialogue import Message
from sage_dialog.training_data.blending import blended
from sage_dialog.training_data.sources import Sources

logger = logging.getLogger(__name__)


def training_mix(sources: Sources, config: SacAugmentation, seed: int, with_blocks: bool) -> tuple[pa.Table, pa.Table]:
    """Conversations of every source of the mix in seeded order, and what of the sources is no conversation.

    Both are drawn, blended and judged as they are with blocks: the plain mix holds the same dialogues.

    Returns:
        Tables of `schemas.SFT_CONVERSATIONS` and `schemas.MIX_REJECTS`.

    Raises:
        ValueError: naming the source that cannot be read.
    """
    pools = {source.name: sources.pool(source) for source in config.mix}
    for name in sources.untaken:
        logger.warning("%s is in no source of the mix", name)
    sizes = mix_sizes(config.mix, {name: len(pool.ids) for name, pool in pools.items()})
    rows = []
    for source in config.mix:
        pool, system_prompt = pools[source.name], config.system_prompt(source)
        drawn = sample_ids(sorted(pool.ids), sizes[source.name], seed, f"mix {seed_label(source.name)}")
        dialogues: dict[str, Sequence[Message]] = {name: _under(system_prompt, pool.turns(name)) for name in drawn}
        if config.blend and source.name in config.blend.sources:
            dialogues = {**blended(dialogues, config.blend, seed, seed_label(source.name))}
        for name, turns in dialogues.items():
            messages = [{"role": turn.role, "content": turn.content if with_blocks else turn.text} for turn in turns]
            rows.append({"conversation_id": f"{source.name}:{name}", "source": source.name, "messages": messages})
        logger.info(
            "%s: %d of %d conversations, %d rejected", source.name, len(drawn), len(pool.ids), len(pool.rejects)
        )
    rows.sort(key=lambda row: derived_seed(seed, "mix order", seed_label(str(row["conversation_id"]))))
    rejects = [
        {"source": name, "record": record.where, "reason": record.reason}
        for name, pool in pools.items()
        for record in pool.rejects
    ]
    return (
        pa.Table.from_pylist(rows, schema=schemas.SFT_CONVERSATIONS),
        pa.Table.from_pylist(rejects, schema=schemas.MIX_REJECTS),
    )


def mix_sizes(mix: Sequence[Source], available: Mapping[str, int]) -> dict[str, int]:
    """How many conversations each source gives, of those it has.

    Sources without a share give their `size`, or all. They are what the shares leave of the mix, so they say how large
    it is. If every source has a share, the mix is as large as the scarcest of them allows.
    """
    given = {
        source.name: available[source.name] if source.size is None else min(source.size, available[source.name])
        for source in mix
        if source.share is None
    }
    shares = {source.name: source.share for source in mix if source.share is not None}
    if given:
        whole = sum(given.values()) / (1 - math.fsum(shares.values()))
    else:
        whole = min((available[name] / share for name, share in shares.items()), default=0.0)
    for name, share in shares.items():
        asked = round(share * whole)
        given[name] = min(asked, available[name])
        if asked > available[name]:
            logger.warning(
                "%s: its share of the mix would be %d conversations, and it has %d; all are taken",
                name,
                asked,
                available[name],
            )
    return given


def _under(system_prompt: str | None, turns: Sequence[Message]) -> Sequence[Message]:
    """The dialogue under the source's system message, if it has one, in place of its own."""
    if system_prompt is None:
        return turns
    return [Message("system", system_prompt), *(turn for turn in turns if turn.role != "system")]
