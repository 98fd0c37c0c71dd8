"""One iteration of search and refinement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sage_dialog.config import Launcher, SacAugmentation, SelfPlay, Sft
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import OpenEngine
from sage_dialog.roles.protocols import Selector


def search(
    base: Policy,
    agent: Policy,
    user: Policy,
    situations: DataFrame,
    selector: Selector,
    engine: OpenEngine,
    self_play: SelfPlay,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    scratch: str,
) -> tuple[DataFrame, DataFrame]:
    """Play train situations and return all candidates and the chosen dialogues.

    Args:
        user: the policy of the simulated user, `sage_1` in every iteration.
        situations: schemas.SITUATIONS.
        selector: picks the best candidate of each agent turn.
        sac_augmentation: its system prompts "listener" and "speaker" are the agent's and the user's.
        scratch: folder of finished shards, which an interrupted run reuses.

    Returns:
        schemas.CANDIDATES and schemas.TRAJECTORIES.
    """
    from sage_dialog.selfplay import search as selfplay

    opened, system_prompts = engine(base, [agent, user], seed, threads), sac_augmentation.system_prompts
    return selfplay.search(opened, agent, user, situations, self_play, system_prompts, selector, seed, Path(scratch))


def refine_into(name: str) -> Callable[..., tuple[DataFrame, DataFrame, Policy]]:
    """Return the node function that trains the policy `name`."""

    def refine(
        base: Policy,
        agent: Policy,
        candidates: DataFrame,
        trajectories: DataFrame,
        sft_conversations: DataFrame,
        self_play: SelfPlay,
        sft: Sft,
        sac_augmentation: SacAugmentation,
        seed: int,
        threads: int | None,
        scratch: str,
        launcher: Launcher,
    ) -> tuple[DataFrame, DataFrame, Policy]:
        """Train the agent's adapter further on its chosen trajectories; the loss leaves out the user's messages.

        Args:
            candidates: schemas.CANDIDATES of the search, to rank dialogues for `self_play.best_share`.
            trajectories: schemas.TRAJECTORIES of the search.
            sft_conversations: schemas.SFT_CONVERSATIONS, of which `self_play.replay_share` is mixed in.

        Returns:
            Tables of `schemas.TRAINING_LOG` and `schemas.TRAINING_REJECTS`, and the policy.
        """
        from sage_dialog.training.sft import fine_tune
        from sage_dialog.training_data.refinement import refinement_mix

        conversations = refinement_mix(
            trajectories,
            sft_conversations,
            sac_augmentation.system_prompts.get("listener"),
            self_play.replay_share,
            seed,
            candidates,
            self_play.best_share,
        )
        return fine_tune(
            *(name, base, agent, conversations, self_play.training, sft.lora, seed, Path(scratch)),
            blocks=agent.card.blocks,
            threads=threads,
            launcher=launcher,
        )

    return refine
