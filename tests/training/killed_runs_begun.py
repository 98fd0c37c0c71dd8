"""Preloaded by a fork server: the registry and the code analysis, which are the same in every process."""

from __future__ import annotations

import killed_runs

from sage_dialog.lineage.code import code_of_callable
from sage_dialog.pipeline_registry import register_pipelines

for node in register_pipelines()["__default__"].nodes:
    code_of_callable(node.func)
assert killed_runs.PIPELINES
