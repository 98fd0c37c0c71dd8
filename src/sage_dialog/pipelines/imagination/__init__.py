"""Imagined dialogues on tasks, their critique and their rewards (docs/imagination.md)."""

from sage_dialog.pipelines.imagination.pipeline import create_pipeline

__all__ = ["create_pipeline"]
