"""Whether the next policy of self-play is better than the one before (paper §3.4)."""

from sage_dialog.pipelines.stop_rule.pipeline import create_pipeline

__all__ = ["create_pipeline"]
