"""Imported ahead of processes that run the project: what each of them would find out for itself, and alike."""

from __future__ import annotations

import killed_runs

from sage_dialog.lineage.code import code_of_callable
from sage_dialog.pipeline_registry import register_pipelines

for node in register_pipelines()["__default__"].nodes:
    code_of_callable(node.func)
assert killed_runs.PIPELINES
