"""Score, sample and compare policies on held-out conversations of people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.config import Reference, SacAugmentation
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import OpenEngine

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # Kedro resolves the signatures of nodes for every command


EXAMPLES = 20
"""Replies that the report shows, at most."""


def make_items(
    corpus_dialogues: DataFrame, reference: Reference, sac_augmentation: SacAugmentation, seed: int
) -> DataFrame:
    """Return replies of held-out dialogues with their histories and labels, as `schemas.REFERENCE_ITEMS`."""
    from sage_dialog.evaluation.reference.items import reference_items

    may_open = any(source.kind == "listener" and source.assistant_may_open for source in sac_augmentation.mix)
    return reference_items(corpus_dialogues, reference, seed, may_open)


def score_replies(
    base: Policy,
    conversations: DataFrame,
    items: DataFrame,
    reference: Reference,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    scratch: str,
    **policies: Policy,
) -> tuple[DataFrame, DataFrame, DataFrame]:
    """Return the bits of human replies under each policy, the labels it predicts, and the chains it infers.

    Args:
        conversations: those with the whole chain, whose labels are the chains that policies know.

    Returns:
        Tables of `schemas.REFERENCE_LIKELIHOODS`, `REFERENCE_LABELS` and `REFERENCE_CHAINS`.
    """
    from sage_dialog.evaluation.reference.chain_set import training_chains
    from sage_dialog.evaluation.reference.likelihoods import score_policies

    listeners = [source.name for source in sac_augmentation.mix if source.kind == "listener"]
    training = training_chains(conversations, listeners)
    prompt = sac_augmentation.system_prompts.get("listener") or None
    return score_policies(base, policies, items, training, prompt, reference, seed, threads, Path(scratch))


def predict_baselines(
    corpus_dialogues: DataFrame,
    text_duplicates: DataFrame,
    conversations: DataFrame,
    items: DataFrame,
    reference: Reference,
    sac_augmentation: SacAugmentation,
) -> DataFrame:
    """Return the labels that a majority vote and TF-IDF predict, as a table of `schemas.REFERENCE_LABELS`."""
    from sage_dialog.evaluation.reference.baselines import baseline_labels
    from sage_dialog.training_data.annotation import training_dialogues
    from sage_dialog.training_data.mix import dialogue_ids

    removed = set(text_duplicates.loc[text_duplicates["removed"], "dialogue_id"])
    listeners = [source.name for source in sac_augmentation.mix if source.kind == "listener"]
    trained = dialogue_ids(conversations, listeners)
    return baseline_labels(items, training_dialogues(corpus_dialogues, removed), trained, reference)


def write_replies(
    base: Policy,
    engine: OpenEngine,
    items: DataFrame,
    chains: DataFrame,
    reference: Reference,
    sac_augmentation: SacAugmentation,
    seed: int,
    threads: int | None,
    **policies: Policy,
) -> DataFrame:
    """Return a sampled reply of each policy where a person replied, as a table of `schemas.REFERENCE_REPLIES`."""
    from sage_dialog.evaluation.reference.replies import sample_replies

    opened = engine(base, list(policies.values()), seed, threads)
    prompt = sac_augmentation.system_prompts.get("listener") or None
    return sample_replies(opened, policies, items, chains, prompt, reference, seed)


def compare_policies(
    likelihoods: DataFrame,
    labels: DataFrame,
    baselines: DataFrame,
    items: DataFrame,
    replies: DataFrame,
    reference: Reference,
    seed: int,
) -> DataFrame:
    """Return all figures with intervals and tests, as a table of `schemas.REFERENCE_RESULTS`."""
    from sage_dialog.evaluation.reference.results import reference_results

    return reference_results(likelihoods, labels, baselines, items, replies, reference, seed)


def draw_reference(results: DataFrame, reference: Reference) -> Figure:
    """Draw the differences in bits per byte with their intervals."""
    from sage_dialog.evaluation.report.reference_figure import reference_figure

    return reference_figure(results, reference.confidence)


def report_results(results: DataFrame, figure: bytes | Figure, items: DataFrame, replies: DataFrame, seed: int) -> str:
    """Render the results, and some of the replies, as one HTML file."""
    from sage_dialog.evaluation.report.page import assemble_page, inline_image, render_section
    from sage_dialog.evaluation.report.reference_figure import measures_by_corpus, reply_examples

    corpora, forest = measures_by_corpus(results), inline_image(figure)
    measured = render_section("reference.html.j2", results=results, corpora=corpora, forest=forest)
    examples = reply_examples(items, replies, EXAMPLES, seed)
    return assemble_page([measured, render_section("reference_replies.html.j2", examples=examples)], footer=False)
