"""Preference learning on what the last search chose and what it passed over (paper §3.5)."""

from sage_dialog.pipelines.preference.pipeline import create_pipeline

__all__ = ["create_pipeline"]
