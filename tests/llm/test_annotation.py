"""Failures of a server change no table: dialogues are annotated as by a server that never fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from annotation_program import NO_CORPORA, PROMPT, annotate, make_dialogues
from faulty_server import EVERY_FAULT, WRONG_FORM, FaultyServer

from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.roles.llm.annotator import LLMAnnotator
from sage_dialog.training_data.annotation import label_dialogues


@pytest.mark.slow
def test_faults_change_nothing_but_the_number_of_calls(
    make_client: Callable[..., LiveClient], serve: Callable[..., FaultyServer], tmp_path: Path
) -> None:
    def annotated(**faults: Any) -> tuple[FaultyServer, pd.DataFrame, pd.DataFrame, ResponseCache]:
        server = serve(reply=annotate, **faults)
        response_cache = ResponseCache(tmp_path / f"{server.port}.sqlite")
        patience = {"timeout_s": 2.0, "attempts": 20, "max_invalid_responses": 8}
        client = make_client(server.url, response_cache=response_cache, concurrency=64, **patience)
        return (
            server,
            *label_dialogues(make_dialogues(500), NO_CORPORA, LLMAnnotator(client, PROMPT), "dialogues"),
            response_cache,
        )

    _, annotations, rejects, _ = annotated()
    assert len(rejects) == 10 and len(annotations) == 490 * 4
    assert set(rejects["raw_response"]) == {WRONG_FORM}
    assert set(annotations["emotion"].dropna()) == {"glad", "sad", "a bit worried"}
    assert annotations["emotion"].isna().any()

    faulty, same, same_rejects, response_cache = annotated(share=0.2, faults=EVERY_FAULT, seed=3)
    pd.testing.assert_frame_equal(same, annotations)
    pd.testing.assert_frame_equal(same_rejects, rejects)
    assert max(faulty.paid.values()) == 1
    failed = sum(call.outcome != "reply" for call in faulty.calls)
    assert failed > 100 and {call.outcome for call in faulty.calls} == {"reply", *EVERY_FAULT}
    assert sum(faulty.paid.values()) + failed == len(faulty.calls)
    (usage,) = response_cache.usage()
    assert usage.responses == sum(faulty.paid.values()) + sum(call.outcome == "wrong form" for call in faulty.calls)
    response_cache.close()
