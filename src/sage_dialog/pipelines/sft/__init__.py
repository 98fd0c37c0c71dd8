"""Supervised fine-tuning of `sage_1` and its ablation without blocks (paper §3.3)."""

from sage_dialog.pipelines.sft.pipeline import create_pipeline

__all__ = ["create_pipeline"]
