"""The pipelines with `--env vllm` and `--env openai`, against a server on this machine."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer
from kedro.framework.session import KedroSession
from kedro.runner import ParallelRunner

from sage_dialog import schemas
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.hooks.errors import RunRefused, RunStopped

pytestmark = pytest.mark.slow

OpenSession = Callable[..., KedroSession]
KEY = "sk-not-to-be-seen-0123456789"
DIALOGUES = 12


def annotate_request(body: dict[str, Any]) -> str:
    """Return valid labels of the dialogue in the last message."""
    utterances = re.findall(r"^(\d+)\. (user|assistant): (.*)$", body["messages"][1]["content"], re.MULTILINE)
    turns = [
        {"turn": int(number), "speaker": speaker, "motivation": "Sharing", "emotion": None, "topics": ["dogs"],
         "text": text, "question": None} for number, speaker, text in utterances
    ]  # fmt: skip
    return json.dumps({"turns": turns})


@pytest.fixture
def server(short_waits: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with FaultyServer(reply=annotate_request, models=("served-model",)) as server:
        monkeypatch.setenv("VLLM_URL", server.url)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


@pytest.fixture
def project(open_session: OpenSession, configured: Path, tmp_path: Path) -> OpenSession:
    """Sessions on a folder that holds the prompts and a table of dialogues."""
    (tmp_path / "conf").symlink_to(configured / "conf")
    rows = [
        {"dialogue_id": f"d{number}", "subreddit": "s", "link_id": "t3_l", "month": "2015-01", "n_turns": 2,
         "turns": [{"comment_id": f"c{number}{turn}", "text": f"My dog number {number} is fine, turn {turn}."}
                   for turn in range(2)], "mean_words": 7.0, "min_sentiment": 0.5} for number in range(DIALOGUES)
    ]  # fmt: skip
    with open_session("vllm") as session:
        catalog = session.load_context().catalog
        catalog.save("dialogues", from_rows(rows, schemas.DIALOGUES))
        catalog.save("corpus_dialogues", from_rows([], schemas.CORPUS_DIALOGUES))
        catalog.save("text_duplicates", from_rows([], schemas.TEXT_DUPLICATES))
    return open_session


def annotate(open_session: OpenSession, env: str, **parameters: Any) -> list[dict[str, Any]]:
    with open_session(env, **parameters) as session:
        made = session.run(node_names=["sac_augmentation.annotate_dialogues"])
    return to_rows(made["annotations"].load())


def test_a_url_suffices(project: OpenSession, server: FaultyServer, tmp_path: Path) -> None:
    rows = annotate(project, "vllm")
    assert {row["dialogue_id"] for row in rows} == {f"d{number}" for number in range(DIALOGUES)}
    assert {row["annotator"].split(" annotator ")[0] for row in rows} == {"served-model"}
    assert {(row["motivation"], row["emotion"], tuple(row["topics"])) for row in rows} == {("sharing", None, ("dogs",))}
    assert len(server.calls) == DIALOGUES
    assert annotate(project, "vllm") == rows
    assert len(server.calls) == DIALOGUES  # the response cache answered
    assert list((tmp_path / "data").rglob("response_cache/responses.sqlite"))


def test_a_cap_stops_the_run_and_the_next_run_continues(project: OpenSession, server: FaultyServer) -> None:
    with pytest.raises(RunStopped, match=r"llm\.caps\.calls = 5 is reached.*same command"):
        annotate(project, "vllm", llm={"caps": {"calls": 5}})
    assert len(server.calls) == 5
    with pytest.raises(RunStopped, match=r"llm\.role_caps\.annotator\.calls = 4 is reached"):
        annotate(project, "vllm", llm={"role_caps": {"annotator": {"calls": 4}}})
    assert len(server.calls) == 9
    assert len(annotate(project, "vllm")) == 2 * DIALOGUES
    assert len(server.calls) == DIALOGUES
    assert max(server.paid.values()) == 1


def test_too_many_failed_rows_end_the_run(project: OpenSession, server: FaultyServer) -> None:
    server.reply = lambda body: "I would rather talk about the weather."
    with pytest.raises(RunStopped, match=r"1 of 12 dialogues failed, more than llm\.max_failed_share = 0\.05"):
        annotate(project, "vllm")
    rows = None
    with project("vllm", llm={"max_failed_share": 1.0}) as session:
        made = session.run(node_names=["sac_augmentation.annotate_dialogues"])
        rows = to_rows(made["annotation_rejects"].load())
    assert len(rows) == DIALOGUES
    assert {row["raw_response"] for row in rows} == {"I would rather talk about the weather."}


def test_several_processes_are_refused(project: OpenSession, server: FaultyServer) -> None:
    with project("vllm") as session, pytest.raises(RunRefused, match="Leave out --runner"):
        session.run(node_names=["sac_augmentation.annotate_dialogues"], runner=ParallelRunner())
    assert not server.calls


def test_a_missing_key_is_reported_before_the_run(
    project: OpenSession, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RunRefused, match="it has no key; set the environment variable OPENAI_API_KEY, which"):
        annotate(project, "openai")
    assert not server.calls


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "http://", "http://host:port/v1", "ftp://host/v1", "http://a b/v1"]
)
def test_an_invalid_address_is_reported_before_the_run(
    project: OpenSession, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(RunRefused, match=r"base_urls: .*not an address such as"):
        annotate(project, "openai")


def test_a_model_without_a_price_under_a_cap_on_money_is_refused_before_the_run(
    project: OpenSession, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_MODEL", "another-model")
    with project("openai", llm={"caps": {"money": 5}}) as session, pytest.raises(RunRefused, match="no price for it"):
        session.run(node_names=["sac_augmentation.annotate_dialogues"])
    assert not server.calls


def test_an_unreachable_server_is_reported_before_the_run(
    project: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(RunRefused, match=r"127\.0\.0\.1:9/v1 does not state its model"):
        annotate(project, "vllm")


def test_a_server_that_lists_no_models_is_used_by_the_name_of_its_model(
    project: OpenSession, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as `transformers serve` without a cache of the hub, which answers 500."""
    server.models = ()
    with pytest.raises(RunRefused, match=r"the server failed: .* Start the server, or name its model in `model:`"):
        annotate(project, "vllm")
    monkeypatch.setenv("VLLM_MODEL", "own-model")
    rows = annotate(project, "vllm")
    assert {row["annotator"].split(" annotator ")[0] for row in rows} == {"own-model"}


def test_a_key_is_used_and_never_logged(
    project: OpenSession,
    server: FaultyServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    rows = annotate(project, "openai")
    assert {row["annotator"].split(" annotator ")[0] for row in rows} == {"gpt-5.4-mini"}
    assert {call.headers["Authorization"] for call in server.calls} == {f"Bearer {KEY}"}

    server.status = (401, {"error": {"message": f"your key {KEY} is wrong"}})
    server.reply = lambda body: ""
    with project("openai", llm={"response_cache": "data/other.sqlite"}) as session:
        catalog = session.load_context().catalog
        with pytest.raises(RunStopped, match="Check the key") as stopped:
            session.run(node_names=["sac_augmentation.annotate_dialogues"])
    outputs = [
        caplog.text,
        str(stopped.value),
        repr(catalog),
        *(repr(catalog[role]) for role in ("annotator", "judges")),
    ]
    assert not any(KEY in text for text in outputs)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "other.sqlite" for path in files)
    assert not any(KEY.encode() in path.read_bytes() for path in files)
