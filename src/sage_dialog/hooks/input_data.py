"""Messages in place of tracebacks for input data that cannot be read."""

from __future__ import annotations

from kedro.framework.hooks import hook_impl
from kedro.pipeline.node import Node

from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.hooks.errors import RunStopped


class InputDataErrors:
    """Ends the run with the message of a node that finds its input data unusable."""

    @hook_impl
    def on_node_error(self, error: Exception, node: Node) -> None:
        if isinstance(error, InputDataError):
            raise RunStopped(f"{node.name} stopped: {error}") from None
