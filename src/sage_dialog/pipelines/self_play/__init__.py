"""Search by self-play and refinement on what it found, once an iteration (paper §3.4)."""

from sage_dialog.pipelines.self_play.pipeline import create_pipeline

__all__ = ["create_pipeline"]
