"""How well policies predict what people said and felt, on held-out conversations::

    corpus_dialogues ─> [make_items] ─> reference_items
    sage_0, policies, reference_items, sft_conversations ─> [score_replies]
        ─> reference_likelihoods, reference_labels, reference_chains
    corpus_dialogues, text_duplicates, sft_conversations, reference_items ─> [predict_baselines] ─> reference_baselines
    engine, policies, reference_items, reference_chains ─> [write_replies] ─> reference_replies
    all of these ─> [compare_policies] ─> reference_results ─> [draw_reference] ─> reference_figure
    reference_results, reference_figure, reference_items, reference_replies ─> [report_results] ─> reference_report

The policies are those of `reference.policies`. The next report of the evaluation has a section on the results.
"""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Pipeline, node

from sage_dialog.core.hub_models import BASE
from sage_dialog.pipelines.reference import nodes

REFERENCE, SEED, MIX = "params:reference", "params:seed", "params:sac_augmentation"


def create_pipeline(policies: Sequence[str]) -> Pipeline:
    by_name = {policy: policy for policy in policies}
    run = {"seed": SEED, "threads": "params:threads"}
    items, config = {"items": "reference_items"}, {"reference": REFERENCE, "sac_augmentation": MIX}
    return Pipeline(
        [
            node(nodes.make_items, ["corpus_dialogues", REFERENCE, MIX, SEED], "reference_items", name="make_items"),
            node(
                nodes.score_replies,
                {
                    **{"base": BASE, "conversations": "sft_conversations", "scratch": "params:scratch"},
                    **items, **config, **run, **by_name,
                },
                ["reference_likelihoods", "reference_labels", "reference_chains"],
                name="score_replies",
            ),
            node(
                nodes.predict_baselines,
                ["corpus_dialogues", "text_duplicates", "sft_conversations", "reference_items", REFERENCE, MIX],
                "reference_baselines",
                name="predict_baselines",
            ),
            node(
                nodes.write_replies,
                {"base": BASE, "engine": "engine", "chains": "reference_chains", **items, **config, **run, **by_name},
                "reference_replies",
                name="write_replies",
            ),
            node(
                nodes.compare_policies,
                {
                    **{"likelihoods": "reference_likelihoods", "labels": "reference_labels", **items},
                    **{"baselines": "reference_baselines", "replies": "reference_replies"},
                    **{"reference": REFERENCE, "seed": SEED},
                },
                "reference_results",
                name="compare_policies",
            ),
            node(nodes.draw_reference, ["reference_results", REFERENCE], "reference_figure", name="draw_reference"),
            node(
                nodes.report_results,
                ["reference_results", "reference_figure", "reference_items", "reference_replies", SEED],
                "reference_report",
                name="report_results",
            ),
        ]
    )  # fmt: skip
