"""Read the negotiations of Deal or No Deal, and play policies that learnt from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.config import Imagination, Negotiation, OfflineRl
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import OpenEngine

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any


def read_negotiations(dealornodeal: dict[str, Path], imagination: Imagination) -> tuple[DataFrame, DataFrame]:
    """Return the negotiations (schemas.NEGOTIATIONS) and the lines left out (schemas.NEGOTIATION_REJECTS)."""
    from sage_dialog.corpora import dealornodeal as reader

    return reader.read_negotiations(dealornodeal, imagination.max_reject_share)


def collect_negotiations(
    negotiations: DataFrame, negotiation: Negotiation, negotiation_rl: OfflineRl, seed: int
) -> tuple[DataFrame, DataFrame]:
    """Return the dialogues to learn from (schemas.GOAL_DIALOGUES), and the contexts to play.

    The contexts are of schemas.NEGOTIATION_CONTEXTS.
    """
    from sage_dialog.imagination.negotiation import draw_contexts, split_negotiations

    dialogues = split_negotiations(negotiations, negotiation.system_prompt, negotiation_rl.held_out, seed)
    contexts = draw_contexts(negotiations, dialogues, negotiation.contexts, negotiation_rl.situations, seed)
    return dialogues, contexts


def negotiate_as(name: str) -> Callable[..., DataFrame]:
    """Return the node function that plays a policy, in the tables under `name`."""

    def negotiate(
        base: Policy,
        policy: Policy,
        partner: Policy,
        contexts: DataFrame,
        engine: OpenEngine,
        negotiation: Negotiation,
        negotiation_rl: OfflineRl,
        seed: int,
        threads: int | None,
        critic: Policy | None = None,
    ) -> DataFrame:
        """Play each context (schemas.NEGOTIATION_ROLLOUTS); with a critic, the best of several replies by Q - V."""
        from sage_dialog.core.seeds import derived_seed
        from sage_dialog.offline_rl.critic import load_critic
        from sage_dialog.offline_rl.negotiation import play_negotiations

        rank = None if critic is None else load_critic(base, policy, critic, threads)
        return play_negotiations(
            engine(base, [policy], seed, threads),
            policy.name,
            engine(partner, [], derived_seed(seed, "negotiation partner"), threads),
            partner.name,
            contexts,
            negotiation.system_prompt,
            negotiation_rl.agent,
            negotiation.partner,
            max_messages=negotiation.max_messages,
            candidates=1 if rank is None else negotiation_rl.candidates,
            rank=rank,
            name=name,
        )

    return negotiate


def score_negotiations(
    negotiation_rollouts: DataFrame,
    negotiations: DataFrame,
    advantages: DataFrame,
    negotiation: Negotiation,
    negotiation_rl: OfflineRl,
    seed: int,
) -> tuple[DataFrame, DataFrame, DataFrame, Figure, DataFrame]:
    """Score the policies, the critic and the partner.

    Returns:
        Tables of `schemas.GOAL_SCORES`, `schemas.NEGOTIATION_COMPARISONS` with `negotiation_bc`, and
        `schemas.VALUE_CALIBRATION`, the figure of the calibration, and the table of `schemas.PARTNER_LIKENESS`.
    """
    from sage_dialog.offline_rl import evaluation
    from sage_dialog.offline_rl import negotiation as scoring

    settings = (negotiation_rl.confidence, negotiation_rl.replicates, seed)
    calibration = evaluation.value_calibration(advantages, negotiation_rollouts, *settings)
    return (
        scoring.negotiation_scores(negotiation_rollouts, *settings),
        scoring.negotiation_comparisons(negotiation_rollouts, "negotiation_bc", *settings),
        calibration,
        evaluation.calibration_figure(advantages, calibration),
        scoring.partner_likeness(negotiation_rollouts, negotiations, negotiation.folds, *settings),
    )
