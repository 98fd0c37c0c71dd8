"""Policies trained on a part of the state-action chain, or on another dialogue's."""

from sage_dialog.pipelines.ablations.pipeline import create_pipeline

__all__ = ["create_pipeline"]
