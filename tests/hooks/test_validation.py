"""Runs that are refused before they start."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from kedro.runner import AbstractRunner, ParallelRunner, SequentialRunner, ThreadRunner

from sage_dialog.hooks.errors import RunRefused


class DerivedRunner(ThreadRunner):
    pass


class OwnRunner(AbstractRunner):
    """A runner with threads that is not derived from Kedro's."""

    def _get_executor(self, max_workers: int) -> Executor:
        return ThreadPoolExecutor(max_workers)

    def _run(self, *args: Any, **options: Any) -> None:
        super()._run(*args, **options)  # type: ignore[safe-super]


class OwnSequentialRunner(SequentialRunner):
    pass


@pytest.mark.parametrize("runner", [ThreadRunner, DerivedRunner, OwnRunner])
@pytest.mark.parametrize(("pipeline", "node"), [("sft", "sft.train_sage_1"), ("sage_2", "iteration_1"), ("demo", "")])
def test_threads_are_refused_where_nodes_train_or_sample(
    open_session: Any, tmp_path: Any, runner: Any, pipeline: str, node: str
) -> None:
    with (
        open_session() as session,
        pytest.raises(RunRefused, match=rf"{runner.__name__} .*{node}.* train or sample, .* Leave out --runner"),
    ):
        session.run(pipeline_names=[pipeline], runner=runner())
    assert not list(tmp_path.rglob("runs"))


@pytest.mark.parametrize("runner", [SequentialRunner, ParallelRunner, OwnSequentialRunner])
def test_runners_without_threads_may_train(open_session: Any, runner: Any) -> None:
    with open_session() as session, pytest.raises(RunRefused, match="Missing inputs"):
        session.run(pipeline_names=["sft"], runner=runner())


def test_threads_may_process_data(open_session: Any) -> None:
    with open_session() as session, pytest.raises(RunRefused, match="Missing inputs"):
        session.run(pipeline_names=["data_processing"], runner=ThreadRunner())
