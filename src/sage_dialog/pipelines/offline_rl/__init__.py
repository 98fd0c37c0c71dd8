"""Offline reinforcement learning on goal-directed dialogues (docs/offline_rl.md)."""

from sage_dialog.pipelines.offline_rl.pipeline import create_pipeline

__all__ = ["create_pipeline"]
