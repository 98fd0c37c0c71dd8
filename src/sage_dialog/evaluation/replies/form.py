"""How often a policy writes blocks that parse where nothing in its training prepares it, with and without a held form.

A policy that writes valid blocks on the situations may lose the form on other openings, such as those that people type
into a chat. Replies with a held form show what `hold_form` changes (docs/steering.md).
"""

from __future__ import annotations

import logging
import tomllib
from functools import cache
from importlib import resources

from sage_dialog.config import SamplingConfig
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.evaluation.statistics import clustered_share
from sage_dialog.inference.engine import Engine, Prompt
from sage_dialog.sac import Chain, parse
from sage_dialog.schemas import FORM_VALIDITY

logger = logging.getLogger(__name__)

SAMPLES = 2  # of each opening


def form_validity(
    engine: Engine, policy: str, sampling: SamplingConfig, system_prompt: str | None, confidence: float
) -> DataFrame:
    """Return how often replies to everyday openings have blocks that parse, as a table of `schemas.FORM_VALIDITY`.

    A policy whose form cannot be held has no row with a held form, which is logged. Intervals take openings as
    clusters.

    Args:
        policy: the name of a policy that writes blocks.
        sampling: as in the rollouts; `hold_form` is both off and on.
    """
    version, openings = everyday_openings()
    prompts = [Prompt(agent_view([Message("user", text)], system_prompt), ("form", text)) for text in openings]
    rows = []
    for held in (False, True):
        try:
            replies = engine.sample(policy, prompts, sampling.model_copy(update={"hold_form": held}), SAMPLES)
        except ValueError as error:
            if not held:
                raise
            logger.warning("the form of %s is not held: %s", policy, error)
            continue
        valid = [sum(isinstance(parse(sample.text), Chain) for sample in samples) for samples in replies]
        if any(replies):  # else the openings leave no room for a reply
            share = clustered_share(valid, [len(samples) for samples in replies], confidence)
            row = {"policy": policy, "hold_form": held, "openings": version, "count": sum(valid)}
            rows.append({**row, **vars(share), "share": share.value})
    return from_rows(rows, FORM_VALIDITY)


@cache
def everyday_openings() -> tuple[int, tuple[str, ...]]:
    """Return the version of `everyday_openings.toml` and its openings."""
    file = resources.files("sage_dialog.evaluation.replies") / "everyday_openings.toml"
    read = tomllib.loads(file.read_text("utf-8"))
    return int(read["version"]), tuple(read["openings"])
