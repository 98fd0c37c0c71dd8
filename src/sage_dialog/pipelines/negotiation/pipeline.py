"""Deal or No Deal as tables::

dealornodeal ──> [read_negotiations] ──> negotiations, negotiation_rejects
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.negotiation.nodes import read_negotiations


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                read_negotiations,
                inputs=["dealornodeal", "params:imagination"],
                outputs=["negotiations", "negotiation_rejects"],
                name="read_negotiations",
            )
        ]
    )
