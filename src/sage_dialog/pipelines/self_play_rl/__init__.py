"""Offline reinforcement learning on the dialogues of the last iteration's policy."""

from sage_dialog.pipelines.self_play_rl.pipeline import create_pipeline

__all__ = ["create_pipeline"]
