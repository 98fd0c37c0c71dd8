"""Writing the demo world, training its base model, scoring by its truth."""

from __future__ import annotations

import json

import pyarrow as pa

from sage_dialog import schemas
from sage_dialog.evaluation.votes import win_rates
from sage_dialog.microworld.truth import scores, votes
from sage_dialog.microworld.world import load_world
from sage_dialog.parameters import Evaluation, Microworld
from sage_dialog.policies import Policy, fresh_folder


def write_raw_data(
    microworld: Microworld, seed: int
) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, bytes], dict[str, bytes], pa.Table]:
    """Reddit months, EmpatheticDialogues CSVs, instructions and multiple choice by file name; and the truth."""
    from sage_dialog.microworld import files, reddit

    world = load_world()
    dialogues, truth = files.empathetic_dialogues(world, microworld.situations, seed)
    return (
        reddit.months(world, microworld.threads, seed),
        dialogues,
        files.instructions(world, microworld.instructions, seed),
        files.multiple_choice(world, microworld.multiple_choice, seed),
        pa.Table.from_pylist(truth),
    )


def write_base_corpus(microworld: Microworld, seed: int) -> pa.Table:
    """The generic text of the base model: a row is one document, as JSON ({"text"} or {"messages"})."""
    from sage_dialog.microworld.base_text import documents

    written = documents(load_world(), microworld.documents, seed)
    return pa.table({"document": [json.dumps(document) for document in written]})


def train_sage_0(
    base_corpus: pa.Table, microworld: Microworld, seed: int, scratch: str, threads: int | None
) -> Policy:
    """A tokenizer and a Mixtral of about a million parameters, from scratch."""
    from sage_dialog.microworld.base_model import train_base

    documents = [json.loads(text) for text in base_corpus["document"].to_pylist()]
    return train_base(documents, microworld.base, seed, fresh_folder(scratch, "sage_0"), threads)


def score_by_truth(world_truth: pa.Table, **rollouts: pa.Table) -> pa.Table:
    """What the world knows of each reply: does it suit the feeling, keep to the topic, say something new."""
    return scores(load_world(), world_truth, rollouts)


def vote_by_truth(truth_scores: pa.Table, evaluation: Evaluation) -> pa.Table:
    """The better-scored dialogue of each pair on each situation (schemas.JUDGE_VOTES)."""
    return votes(truth_scores, evaluation.pairs)


def count_truth_votes(truth_votes: pa.Table, evaluation: Evaluation) -> pa.Table:
    """Wins, ties and exact tests by the world's truth (schemas.WIN_RATES)."""
    return pa.Table.from_pylist(win_rates(truth_votes.to_pylist(), evaluation.confidence), schema=schemas.WIN_RATES)
