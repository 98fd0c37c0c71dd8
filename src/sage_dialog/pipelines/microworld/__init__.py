"""The generated demo world, its base model, and the scoring of policies against its truth."""

from sage_dialog.pipelines.microworld.pipeline import (
    create_goal_base_pipeline,
    create_negotiation_base_pipeline,
    create_pipeline,
    create_truth_pipeline,
)

__all__ = ["create_goal_base_pipeline", "create_negotiation_base_pipeline", "create_pipeline", "create_truth_pipeline"]
