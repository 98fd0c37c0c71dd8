"""Generate the demo world, train its base model, score policies by its truth."""

from __future__ import annotations

import json
from collections.abc import Callable

from sage_dialog.config import Evaluation, Imagination, Microworld, Negotiation
from sage_dialog.core.policies import Policy, fresh_folder
from sage_dialog.core.tables import DataFrame, from_rows


def write_raw_data(
    microworld: Microworld, seed: int
) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, bytes], dict[str, bytes], DataFrame]:
    """Return Reddit months, EmpatheticDialogues, instructions and multiple choice as files by name, and the truth."""
    from sage_dialog.microworld import files, questions, reddit
    from sage_dialog.microworld.world import load_world
    from sage_dialog.schemas import WORLD_TRUTH

    world = load_world()
    dialogues, truth = files.empathetic_dialogues(world, microworld.situations, seed)
    return (
        reddit.months(world, microworld.threads, seed),
        dialogues,
        files.instructions(world, microworld.instructions, seed),
        questions.multiple_choice(world, microworld.multiple_choice, seed),
        from_rows(truth, WORLD_TRUTH),
    )


def write_base_corpus(microworld: Microworld, seed: int) -> DataFrame:
    """Return the base model's generic text: a row is one document, as JSON ({"text"} or {"messages"})."""
    from sage_dialog.microworld.base_text import documents
    from sage_dialog.microworld.world import load_world
    from sage_dialog.schemas import BASE_CORPUS

    corpus = documents(load_world(), microworld.documents, seed)
    return from_rows([{"document": json.dumps(document)} for document in corpus], BASE_CORPUS)


def train_sage_0(
    base_corpus: DataFrame, microworld: Microworld, seed: int, scratch: str, threads: int | None
) -> Policy:
    """Train a tokenizer and a Mixtral of about a million parameters from scratch."""
    from sage_dialog.microworld.base_model import train_base

    documents = [json.loads(text) for text in base_corpus["document"]]
    return train_base(documents, microworld.base, seed, fresh_folder(scratch, "sage_0"), threads)


def train_goal_base(
    imagination: Imagination, microworld: Microworld, seed: int, scratch: str, threads: int | None
) -> Policy:
    """Train a tiny Mixtral from scratch on the language of the tasks, for goal-directed policies."""
    from sage_dialog.imagination.base_text import documents
    from sage_dialog.microworld.base_model import train_base

    text = documents(imagination.tasks, microworld.goal_documents, seed)
    return train_base(text, microworld.goal_base, seed, fresh_folder(scratch, "goal_base"), threads, "goal_base")


def train_negotiation_base_as(name: str) -> Callable[..., Policy]:
    """Return the node function that trains the base `name`, of policies or of their partner."""

    def train_negotiation_base(
        negotiations: DataFrame,
        dialogues: DataFrame,
        negotiation: Negotiation,
        microworld: Microworld,
        seed: int,
        scratch: str,
        threads: int | None,
    ) -> Policy:
        """Train a tiny Mixtral from scratch on the training dialogues of human negotiations."""
        from sage_dialog.core.seeds import derived_seed
        from sage_dialog.imagination.negotiation import base_documents
        from sage_dialog.microworld.base_model import train_base

        text = base_documents(negotiations, dialogues, negotiation.system_prompt)
        own_seed = derived_seed(seed, name)
        return train_base(text, microworld.negotiation_base, own_seed, fresh_folder(scratch, name), threads, name)

    return train_negotiation_base


def score_by_truth(world_truth: DataFrame, rollouts: DataFrame) -> DataFrame:
    """Score whether each reply suits the feeling, keeps to the topic and is new (schemas.EXTERNAL_SCORES)."""
    from sage_dialog.microworld.truth import truth_scores
    from sage_dialog.microworld.world import load_world

    return truth_scores(load_world(), world_truth, rollouts)


def vote_by_truth(truth_scores: DataFrame, evaluation: Evaluation) -> DataFrame:
    """Vote for the better-scored dialogue of each pair on each situation (schemas.JUDGE_VOTES)."""
    from sage_dialog.microworld.truth import truth_votes

    return truth_votes(truth_scores, evaluation.pairs)
