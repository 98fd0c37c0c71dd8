"""Runs that are refused before they start."""

from __future__ import annotations

from typing import Any

import pytest
from kedro.runner import ThreadRunner

from sage_dialog.hooks.errors import RunRefused


class OwnRunner(ThreadRunner):
    pass


@pytest.mark.parametrize("runner", [ThreadRunner, OwnRunner])
@pytest.mark.parametrize(("pipeline", "node"), [("sft", "sft.train_sage_1"), ("sage_2", "iteration_1"), ("demo", "")])
def test_threads_are_refused_where_nodes_train_or_sample(
    open_session: Any, tmp_path: Any, runner: Any, pipeline: str, node: str
) -> None:
    with (
        open_session() as session,
        pytest.raises(RunRefused, match=rf"{node}.* train or sample, .* Leave out --runner"),
    ):
        session.run(pipeline_names=[pipeline], runner=runner())
    assert not list(tmp_path.rglob("runs"))


def test_threads_may_process_data(open_session: Any) -> None:
    with open_session() as session, pytest.raises(RunRefused, match="Missing inputs"):
        session.run(pipeline_names=["data_processing"], runner=ThreadRunner())
