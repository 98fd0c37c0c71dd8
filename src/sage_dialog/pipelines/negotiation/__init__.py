"""Human negotiations with exact rewards and policies that learn from them (docs/offline_rl.md)."""

from sage_dialog.pipelines.negotiation.pipeline import (
    create_collection_pipeline,
    create_learning_pipeline,
    create_pipeline,
)

__all__ = ["create_collection_pipeline", "create_learning_pipeline", "create_pipeline"]
