"""Held-out rollouts, judged pairs, figures and the report (paper §3.6, §4)."""

from sage_dialog.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
