"""`kedro sage steer`: requests, tables, saved rows and errors, on small policies and a scripted engine."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from faulty_server import FaultyServer
from kedro.io import Version

from sage_dialog import schemas
from sage_dialog.commands.project import Project
from sage_dialog.commands.steer import steer
from sage_dialog.config import Steering
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.tables import Schema, from_rows
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.inference.engine import FinishReason, Prompt, Sample
from sage_dialog.llm.requests import ChatRequest
from sage_dialog.sac import Chain, Intent, render

ANSWERS = {
    "humor": "Plot twist, lol! [bold red]The dog[/] of the year.\x1b[31m",
    "comfort": "Let me sit with you.",
    None: "Tell me more about the dog.",
}


@dataclass
class Engine:
    """Follows fixed values, ignores boosts, and is cut within its blocks for the motivation sarcasm."""

    requests: list[tuple[Sequence[Prompt], Steering | None]] = field(default_factory=list)
    fingerprint_inputs: Mapping[str, object] = field(default_factory=dict)

    def sample(self, policy, prompts, sampling, samples=1, steering=None, on_text=None) -> list[list[Sample]]:
        self.requests.append((prompts, steering))
        fixed = steering.fixed if steering else {}
        if fixed.get("a_motivation") == "sarcasm":
            return [[Sample("{u_motivation: oh", 5, FinishReason.LENGTH)] for _ in prompts]
        if fixed.get("a_motivation") == "gloom":
            raise ValueError("the tokenizer cannot write 'gloom'")
        action = Intent(fixed.get("a_motivation", "asking"), fixed.get("a_emotion"), fixed.get("a_topic", ("dog",)))
        utterance = ANSWERS.get(action.motivation, ANSWERS[None])
        return [[Sample(render(Chain(Intent("sharing"), action, utterance)), 9, FinishReason.STOP)] for _ in prompts]


def keep(data: Path, name: str, rows: list[dict[str, object]], schema: Schema) -> None:
    entry = AtomicParquet(filepath=str(data / f"{name}.parquet"), version=Version(None, "2026-01-01T00.00.00.000Z"))
    entry.save(from_rows(rows, schema))


def policy(data: Path, name: str, blocks: bool) -> None:
    folder = data / "06_models" / name / "2026-01-01T00.00.00.000Z" / name
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"w")
    Policy.write_card(folder, PolicyCard(name, "base" if name == "sage_0" else "adapter", blocks, "sage_0", "r"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    policy(tmp_path, "sage_0", False)
    policy(tmp_path, "sage_dpo", True)
    situations = [("train/0", "train"), *((f"test/{number}", "test") for number in range(4))]
    rows = [
        {"situation_id": id_, "split": split, "emotion": "sad", "text": f"It is {id_} with the dog."}
        for id_, split in situations
    ]
    keep(tmp_path, "02_intermediate/situations", rows, schemas.SITUATIONS)
    return tmp_path


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def run(configured: Path, data: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("SAGE_DATA", str(data))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(Project, "engine", lambda self, base, policies, seed=None: engine)
    return lambda *given: CliRunner().invoke(steer, [*given], obj=SimpleNamespace(project_path=configured))


def written(data: Path) -> list[dict[str, object]]:
    (file,) = (data / "08_reporting/steering_grid.parquet").glob("*/steering_grid.parquet")
    return pq.read_table(file).to_pylist()


def words(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_reply_without_steering_and_one_for_each_value(run: Callable[..., Result], data: Path) -> None:
    text = words(
        run("--situation", "My dog died.", "--motivations", " Humor, comfort,", "--topics", "music; sport, health")
    )
    rows = written(data)
    assert [row["labels"] for row in rows] == [None, ["humor"], ["comfort"], ["music"], ["sport", "health"]]
    assert {row["situation"] for row in rows} == {"My dog died."} and rows[0]["situation_id"] is None
    assert [row["block_compliance"] for row in rows] == [None, 1.0, 1.0, 1.0, 1.0]
    assert [row["reply_compliance"] for row in rows] == [
        None,
        1.0,
        1.0,
        None,
        None,
    ]  # music is in no list of the annotator
    assert "My dog died." in text and f"Written to {data}/08_reporting/steering_grid.parquet/" in text.replace("\n", "")
    assert "offline-lexicon-annotator" in text and "The offline annotator is a set of rules" in text
    assert "all motivations 2 1.00 0.00 2 1.00 0.00" in text and "all topics 2 1.00 0.00 0 – –" in text


def test_texts_of_a_model_are_escaped(run: Callable[..., Result]) -> None:
    result = run("--situation", "My \x1b[2Jdog [b]died[/b].", "--motivations", "humor")
    text = words(result)
    assert "\x1b" not in result.output and "\\x1b[2J" in text and "\\x1b[31m" in text
    assert "[bold red]" in text and "[b]died[/b]" in text


def test_an_unreadable_reply_is_printed_and_counted(run: Callable[..., Result], data: Path) -> None:
    text = words(run("--situation", "My dog died.", "--motivations", "humor, sarcasm"))
    assert written(data)[2]["block_compliance"] == 0.0
    assert "{u_motivation: oh (cut at the token limit)" in text and "do not parse: 1 of 3" in text


def test_several_situations_give_rates_with_intervals(run: Callable[..., Result], data: Path, engine: Engine) -> None:
    text = words(run("--situations", "4", "--motivations", "humor, comfort", "--boost", "4"))
    assert {row["situation_id"] for row in written(data)} == {f"test/{number}" for number in range(4)}
    assert [steering for _, steering in engine.requests][1:] == [
        Steering(boosts={"a_motivation": {word: 4.0}}) for word in ("humor", "comfort")
    ]
    assert "humor 4 0.00 [0.00, 0.49] 0.00 4 0.00 [0.00, 0.49] 0.00" in text  # Wilson, 0 of 4
    assert "all motivations 8 0.00" in text and "first of 4 situations" in text and "boosted by 4" in text
    refused = run("--situations", "5", "--motivations", "humor")
    assert refused.exit_code == 2 and "4 test situations, not 5" in refused.output


def test_by_default_the_most_frequent_labels_are_tried(run: Callable[..., Result], data: Path) -> None:
    counts = {"humor": 3, "comfort": 4, "asking": 2, "hope": 2, "praise": 2, "rare": 1}
    labelled = [("assistant", label) for label, count in counts.items() for _ in range(count)] + [
        ("user", "sharing")
    ] * 9
    same = {"dialogue_id": "d", "emotion": "calm", "topics": ["dog"], "text": "a", "original_text": "a"}
    same |= {"kept_original": False, "annotator": "x"}
    rows = [{**same, "turn": turn, "role": role, "motivation": label} for turn, (role, label) in enumerate(labelled)]
    refused = run()
    assert refused.exit_code == 1 and "Or name values with --emotions" in refused.output
    keep(data, "03_primary/annotations", rows, schemas.ANNOTATIONS)
    words(run())
    grid = written(data)
    assert [row["labels"][0] for row in grid if row["field"] == "a_motivation"] == [
        "comfort",
        "humor",
        "asking",
        "hope",
        "praise",
    ]
    assert [row["field"] for row in grid] == [None, "a_emotion", *["a_motivation"] * 5, "a_topic"]
    assert len({row["situation_id"] for row in grid}) == 1 and str(grid[0]["situation_id"]).startswith("test/")


def test_a_situation_by_its_id_gives_the_same_replies_as_its_text(run: Callable[..., Result], engine: Engine) -> None:
    words(run("--situation", "train/0", "--motivations", "humor"))
    words(run("--situation", "It is train/0 with the dog.", "--motivations", "humor"))
    assert engine.requests[0] == engine.requests[2]  # and so the same draws
    refused = run("--situation", "trian/0", "--motivations", "humor")
    assert refused.exit_code == 2 and "did you mean train/0?" in refused.output


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("--motivations", "humor", "--situation", "a b", "--situations", "2"), "exclude each other"),
        (("--motivations", " , "), "--motivations is empty"),
        (("--emotions", "a{b, calm"), "--emotions: a_emotion 'a{b' holds '{'"),
        (("--topics", "music", "--boost", "nan"), "--topics: Input should be a finite number"),
        (("--motivations", "humor", "--policy", "sage_0"), "sage_0 writes no state and action blocks"),
        (("--motivations", "humor", "--policy", "sage_7"), "There is no policy 'sage_7'"),
        (("--motivations", "gloom"), "Error: the tokenizer cannot write 'gloom'"),
    ],
)
def test_invalid_options_are_errors(run: Callable[..., Result], given: tuple[str, ...], why: str) -> None:
    refused = run(*given)
    assert refused.exit_code in (1, 2) and isinstance(refused.exception, SystemExit)
    assert why in " ".join(refused.output.split())


def test_a_language_model_reads_the_replies_where_the_environment_names_one(
    run: Callable[..., Result], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def labelled(body: dict[str, Any]) -> str:
        lines = re.findall(r"^(\d+)\. (user|assistant): (.*)$", body["messages"][1]["content"], re.MULTILINE)
        if "sit with you" in lines[1][2]:
            return "Who knows."
        same = {"motivation": "Wry", "emotion": None, "topics": [], "question": None}
        return json.dumps({"turns": [{**same, "turn": int(n), "speaker": by, "text": text} for n, by, text in lines]})

    with FaultyServer(reply=labelled, models=("served-model",)) as server:
        monkeypatch.setenv("VLLM_URL", server.url)
        text = words(run("--env", "vllm", "--situation", "My dog died.", "--motivations", "humor, wry, comfort"))
        assert [row["reply_compliance"] for row in written(data)] == [None, 0.0, 1.0, None]
        assert "served-model annotator" in text and "did not label: 1 of 4" in text
        assert "nothing about language models" not in text
        server.status = (401, {"error": {"message": "no such key"}})
        refused = run("--env", "vllm", "--situation", "Another dog.", "--motivations", "humor")
    assert refused.exit_code == 1 and "Check the key" in refused.output
    assert isinstance(refused.exception, SystemExit)


def test_engine_and_annotator_spend_from_one_budget(
    run: Callable[..., Result], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Project.__init__

    def capped(self: Project, metadata: Any, env: str | None) -> None:
        opened(self, metadata, env)
        self.catalog["params:llm"] = {**self.catalog.load("params:llm"), "caps": {"calls": 4}}

    def reserve(self: Project, base: Policy, policies: Sequence[Policy], seed: int | None = None) -> Engine:
        for _ in range(3):
            assert self.budget.try_reserve(ChatRequest("agent", "m", ({"role": "user", "content": "Hm."},)))
        return engine

    monkeypatch.setattr(Project, "__init__", capped)
    monkeypatch.setattr(Project, "engine", reserve)
    with FaultyServer(models=("served-model",)) as server:
        monkeypatch.setenv("VLLM_URL", server.url)
        refused = run("--env", "vllm", "--situation", "My dog died.", "--motivations", "humor")
        requests = sum("messages" in call.body for call in server.calls)
    assert refused.exit_code == 1 and "llm.caps.calls = 4 is reached" in " ".join(refused.output.split())
    assert requests <= 1
