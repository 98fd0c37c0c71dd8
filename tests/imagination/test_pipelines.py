"""The pipelines: by rules, by a language model on a server, and human negotiations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer
from kedro.framework.session import KedroSession

from sage_dialog.core.tables import to_rows
from sage_dialog.hooks.errors import RunStopped

OpenSession = Callable[..., KedroSession]


def run(open_session: OpenSession, pipeline: str, *tables: str, env: str = "test", **parameters: Any) -> Any:
    with open_session(env, **parameters) as session:
        session.run(pipeline_names=[pipeline])
    with open_session(env, **parameters) as session:
        catalog = session.load_context().catalog
        return [catalog.load(table) for table in tables]


def test_imagination_by_rules(open_session: OpenSession) -> None:
    personas, dialogues, critiques, rewards = run(
        open_session, "imagination", "personas", "imagined_dialogues", "critiques", "rewards"
    )
    assert len(personas) == len(dialogues) == len(critiques) == 80 and set(personas["task"]) == {
        "preference_elicitation",
        "teaching",
    }
    assert len(rewards) == (critiques["verdict"] != "drop").sum()
    assert 0 < rewards["success"].mean() < 1


def write(body: dict[str, Any]) -> str:
    """A language model that writes personas, dialogues in which the user tells early, and rewrites of them."""
    system, user = (message["content"] for message in body["messages"][:2])
    sides = ("student", "tutor") if "student" in user else ("customer", "adviser")
    if "Describe" in user:
        return json.dumps({"personas": re.findall(r"^\d+\. (.*)$", user, re.MULTILINE)})
    early = [{"speaker": sides[0], "text": "I know it all."}, {"speaker": sides[1], "text": "Then goodbye."}]
    if "You examine" not in system:
        return json.dumps({"messages": early})
    mended = [{"speaker": sides[0], "text": "Hello."}, early[1]]
    values = re.findall(r'^- "(\w+)": one of (.*)$', user, re.MULTILINE)
    state = {name: options.split(", ")[0] for name, options in values}
    return json.dumps({"faults": ["early"], "verdict": "rewrite", "messages": mended, "last_state": state})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with FaultyServer(reply=write, models=("served-model",)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
        yield server


def test_imagination_by_a_language_model(
    open_session: OpenSession, configured: Path, tmp_path: Path, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data"))
    (tmp_path / "conf").symlink_to(configured / "conf")
    critiques, rewards = run(
        open_session, "imagination", "critiques", "rewards", env="openai", imagination={"personas": 3}
    )
    assert set(critiques["verdict"]) == {"rewrite"} and len(rewards) == 6
    assert {row["messages"][0]["content"] for row in to_rows(critiques)} == {"Hello."}
    assert all("gpt" in critic for critic in critiques["critic"])


def test_negotiations(open_session: OpenSession, tmp_path: Path) -> None:
    folder = tmp_path / "data/test/01_raw/dealornodeal"
    folder.mkdir(parents=True)
    line = "1 4 4 1 1 2 YOU: deal <eos> THEM: <selection> item0=1 item1=0 item2=1 <eos> reward={} agree 1 0 4 2 1 2"
    (folder / "train.txt").write_text("\n".join([line.format(6)] * 30 + [line.format(7)]))
    negotiations, rejects = run(open_session, "negotiation", "negotiations", "negotiation_rejects")
    assert set(negotiations["reward"]) == {6} and len(negotiations) == 30 and len(rejects) == 1
    with pytest.raises(RunStopped, match=r"1 of 31 lines cannot be read.*max_reject_share = 0.01"):
        run(open_session, "negotiation", imagination={"max_reject_share": 0.01})
