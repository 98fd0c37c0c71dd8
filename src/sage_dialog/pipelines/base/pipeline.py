"""A GGUF file becomes the base model, once::

base_file ──> [convert_base] ──> sage_0
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.base.nodes import convert_base


def create_pipeline() -> Pipeline:
    return Pipeline([node(convert_base, inputs=["base_file", "params:scratch"], outputs="sage_0", name="convert_base")])
