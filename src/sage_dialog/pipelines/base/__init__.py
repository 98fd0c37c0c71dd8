"""A GGUF file becomes the base model."""

from sage_dialog.pipelines.base.pipeline import create_pipeline

__all__ = ["create_pipeline"]
