"""Deal or No Deal as tables, and policies that learn from it::

dealornodeal ──> [read_negotiations] ──> negotiations, negotiation_rejects

negotiations ──> [collect_negotiations] ──> negotiation_dialogues, negotiation_contexts
negotiation_base, negotiation_dialogues ──> [clone] ──> negotiation_bc
negotiation_bc, negotiation_dialogues ──┬─> [clone_best] ──> negotiation_filtered
                                        └─> [fit_critic] ──> negotiation_critic, negotiation_advantages
negotiation_advantages ──> [weigh] ──> negotiation_weighted_conversations ──> [train_weighted] ──> negotiation_awr

each policy, negotiation_partner, negotiation_contexts ──> [play_…] ──> [concat] ──> negotiation_rollouts
negotiation_rollouts ──> [score] ──> negotiation_scores, negotiation_comparisons, …

The nodes that learn are those of `offline_rl`.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.negotiation.nodes import (
    collect_negotiations,
    negotiate_as,
    read_negotiations,
    score_negotiations,
)
from sage_dialog.pipelines.offline_rl.nodes import (
    clone_best_into,
    clone_into,
    concat,
    fit_critic_into,
    train_weighted_into,
    weigh,
)

POLICIES = ("negotiation_bc", "negotiation_filtered", "negotiation_awr")
"""The policies that are played by themselves."""

RERANKED = "negotiation_rerank"
"""`negotiation_bc` whose messages the critic chooses."""


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                read_negotiations,
                inputs=["dealornodeal", "params:imagination"],
                outputs=["negotiations", "negotiation_rejects"],
                name="read_negotiations",
            )
        ]
    )


def create_collection_pipeline() -> Pipeline:
    """Return the division of the negotiations between training and evaluation."""
    return Pipeline(
        [
            node(
                collect_negotiations,
                inputs=["negotiations", "params:negotiation", "params:negotiation_rl", "params:seed"],
                outputs=["negotiation_dialogues", "negotiation_contexts"],
                name="collect",
            )
        ]
    )


def create_learning_pipeline() -> Pipeline:
    """Return the training of policies and critic, and their negotiations with the partner."""
    base, cloned, dialogues, parameters = (
        *("negotiation_base", "negotiation_bc", "negotiation_dialogues"),
        "params:negotiation_rl",
    )
    training = [parameters, "params:seed", "params:scratch", "params:threads", "params:launcher"]
    play = [
        *("negotiation_partner", "negotiation_contexts", "engine", "params:negotiation", parameters),
        *("params:seed", "params:threads"),
    ]
    rollouts = {name: f"negotiation_rollouts_{name}" for name in (*POLICIES, RERANKED)}
    return Pipeline(
        [
            node(clone_into(cloned), [base, dialogues, *training], _trained(cloned), name="clone"),
            node(
                clone_best_into("negotiation_filtered"),
                [base, cloned, dialogues, *training],
                _trained("negotiation_filtered"),
                name="clone_best",
            ),
            node(
                fit_critic_into("negotiation_critic"),
                [
                    *(base, cloned, dialogues, "engine"),
                    *(parameters, "params:seed", "params:scratch", "params:threads"),
                ],
                ["negotiation_critic_log", "negotiation_advantages", "negotiation_critic"],
                name="fit_critic",
            ),
            node(
                weigh,
                [dialogues, "negotiation_advantages", parameters],
                "negotiation_weighted_conversations",
                name="weigh",
            ),
            node(
                train_weighted_into("negotiation_awr"),
                [base, cloned, "negotiation_weighted_conversations", *training],
                _trained("negotiation_awr"),
                name="train_weighted",
            ),
            *(node(negotiate_as(name), [base, name, *play], rollouts[name], name=f"play_{name}") for name in POLICIES),
            node(
                negotiate_as(RERANKED),
                [base, cloned, *play, "negotiation_critic"],
                rollouts[RERANKED],
                name=f"play_{RERANKED}",
            ),
            node(concat, list(rollouts.values()), "negotiation_rollouts", name="concat"),
            node(
                score_negotiations,
                [
                    *("negotiation_rollouts", "negotiations", "negotiation_advantages"),
                    *("params:negotiation", parameters, "params:seed"),
                ],
                [
                    *("negotiation_scores", "negotiation_comparisons", "negotiation_calibration"),
                    *("negotiation_calibration_figure", "partner_likeness"),
                ],
                name="score",
            ),
        ]
    )


def _trained(name: str) -> list[str]:
    return [f"training_log_{name}", f"training_rejects_{name}", name]
