"""Human negotiations with exact rewards (docs/imagination.md)."""

from sage_dialog.pipelines.negotiation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
