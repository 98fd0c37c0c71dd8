"""Preference tuning on chosen and rejected candidates of the last search (paper §3.5)."""

from sage_dialog.pipelines.preference.pipeline import create_pipeline

__all__ = ["create_pipeline"]
