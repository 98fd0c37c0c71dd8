"""A thousand dialogues annotated by way of a server that fails one call in five: the tables of one that never does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from annotation_program import PROMPT, annotated, dialogues
from faulty_server import EVERY_FAULT, WRONG_FORM, FaultyServer

from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.pipelines.sac_augmentation.nodes import annotate_dialogues
from sage_dialog.roles.llm.annotator import LLMAnnotator


@pytest.fixture
def annotate(
    make_client: Callable[..., LiveClient], serve: Callable[..., FaultyServer], tmp_path: Path
) -> Callable[..., tuple[FaultyServer, pa.Table, pa.Table, ResponseCache]]:
    def annotate(number: int, **faults: Any) -> tuple[FaultyServer, pa.Table, pa.Table, ResponseCache]:
        server = serve(reply=annotated, **faults)
        response_cache = ResponseCache(tmp_path / f"{server.port}.sqlite")
        client = make_client(
            server.url,
            response_cache=response_cache,
            concurrency=64,
            timeout_s=1.0,
            attempts=20,
            max_invalid_responses=8,
        )
        return server, *annotate_dialogues(dialogues(number), LLMAnnotator(client, PROMPT)), response_cache

    return annotate


def test_faults_change_nothing_but_the_number_of_calls(annotate) -> None:
    _, annotations, rejects, _ = annotate(1000)
    assert len(rejects) == 20 and len(annotations) == 980 * 4
    assert set(rejects["raw_response"].to_pylist()) == {WRONG_FORM}
    assert set(annotations["emotion"].to_pylist()) == {"glad", "sad", None, "a bit worried"}

    faulty, same, same_rejects, response_cache = annotate(1000, share=0.2, faults=EVERY_FAULT, seed=3)
    assert same.equals(annotations) and same_rejects.equals(rejects)
    assert max(faulty.paid.values()) == 1
    failed = sum(call.outcome != "reply" for call in faulty.calls)
    assert failed > 200 and {call.outcome for call in faulty.calls} == {"reply", *EVERY_FAULT}
    assert sum(faulty.paid.values()) + failed == len(faulty.calls)
    (spent,) = response_cache.spent()
    assert spent.replies == sum(faulty.paid.values()) + sum(call.outcome == "wrong form" for call in faulty.calls)
    response_cache.close()
