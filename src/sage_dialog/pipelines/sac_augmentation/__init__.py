"""Dialogues are annotated and become training conversations (paper §3.2)."""

from sage_dialog.pipelines.sac_augmentation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
