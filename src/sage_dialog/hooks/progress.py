"""Log one line at the start of a node and one at its end, in place of Kedro's list of every input and output."""

from __future__ import annotations

import logging
import time

from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

logger = logging.getLogger(__name__)


class Progress:
    """Logs the number, name and seconds of each node."""

    def __init__(self) -> None:  # a worker process of a parallel run counts for itself
        self._total, self._started = "?", 0
        self._start_times: dict[str, float] = {}

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        self._total, self._started = str(len(pipeline.nodes)), 0

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        self._started += 1
        self._start_times[node.name] = time.monotonic()
        logger.info("%d of %s: %s", self._started, self._total, node.name)

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        logger.info("done in %.1f s: %s", time.monotonic() - self._start_times[node.name], ", ".join(node.outputs))
