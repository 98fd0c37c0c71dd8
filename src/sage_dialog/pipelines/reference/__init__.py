"""Policies on held-out conversations of people, measured without a judge."""

from sage_dialog.pipelines.reference.pipeline import create_pipeline

__all__ = ["create_pipeline"]
