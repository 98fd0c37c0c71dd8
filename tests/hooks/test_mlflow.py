"""MLflow tracks runs in environments with an mlflow.yml only."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.session import KedroSession

from sage_dialog import schemas, settings
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.hooks.errors import RunRefused
from sage_dialog.hooks.mlflow import _name
from sage_dialog.lineage.formatting import flatten
from sage_dialog.training import sft

OpenSession = Callable[..., KedroSession]
INSTALLED = importlib.util.find_spec("kedro_mlflow") is not None
needs_mlflow = pytest.mark.skipif(not INSTALLED, reason="needs the extra mlflow")
LOSSES = [(1, "train", 3.0), (2, "train", 2.0), (2, "held out", 2.5)]


def weights(path: Path, name: str, kind: str) -> Policy:
    import numpy as np
    from safetensors.numpy import save_file

    path.mkdir(parents=True)
    save_file({"weight": np.ones(2)}, path / "model.safetensors")
    return Policy.write_card(path, PolicyCard(name, kind, False, "sage_0", "r", "sage_0", "r"))


@pytest.fixture
def train(
    open_session: OpenSession, configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Run the training of `sage_1` in an environment, without training anything."""
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").symlink_to(configured / "conf")

    def fine_tune(name: str, *_: Any, **__: Any) -> tuple[DataFrame, DataFrame, Policy]:
        rows = [
            {"step": step, "split": split, "epoch": 1.0, "tokens": 10 * step, "loss": loss}
            for step, split, loss in LOSSES
        ]
        policy = weights(tmp_path / "trained", name, "adapter")
        return from_rows(rows, schemas.TRAINING_LOG), from_rows([], schemas.TRAINING_REJECTS), policy

    monkeypatch.setattr(sft, "fine_tune", fine_tune)

    def run(env: str, with_inputs: bool = True, **parameters: Any) -> None:
        if with_inputs:
            with open_session("base") as session:
                catalog = session.load_context().catalog
                catalog.save("sage_0", weights(tmp_path / "base", "sage_0", "base"))
                catalog.save("sft_conversations", from_rows([], schemas.SFT_CONVERSATIONS))
        with open_session(env, **parameters) as session:
            session.run(node_names=["sft.train_sage_1"])

    return run


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """The store's client and the runs in it; MLflow is left as it was found."""
    import mlflow

    def there() -> tuple[Any, list[Any]]:
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/data/mlflow/runs.db")
        return client, client.search_runs([one.experiment_id for one in client.search_experiments()])

    before = mlflow.get_tracking_uri()
    yield there
    mlflow.set_tracking_uri(before)


def test_the_plugins_own_hook_is_off() -> None:
    assert {"kedro-mlflow", "kedro_mlflow"} <= set(settings.DISABLE_HOOKS_FOR_PLUGINS)


def test_an_environment_without_the_file_tracks_nothing(train: Callable[..., None], tmp_path: Path) -> None:
    train("base")
    assert list((tmp_path / "data/06_models/sage_1").iterdir())
    assert [path.name for path in tmp_path.rglob("*ml*run*")] == []
    assert not (tmp_path / "data/mlflow").exists()


@pytest.mark.skipif(INSTALLED, reason="the extra mlflow is here")
def test_without_the_extra_the_file_is_refused(train: Callable[..., None]) -> None:
    with pytest.raises(RunRefused, match=r"environment mlflow has an mlflow\.yml.*pip install '\.\[mlflow\]'"):
        train("mlflow")


def test_parameters_have_dotted_names() -> None:
    tree = {"sft": {"lora": {"r": 8}, "system_prompts": {}}, "seed": 0, "prices": {"gpt(4)": 1}}
    named = {_name(key): value for key, value in flatten(tree).items()}
    assert named == {"sft.lora.r": 8, "sft.system_prompts": {}, "seed": 0, "prices.gpt_4_": 1}


@needs_mlflow
def test_curves_parameters_and_cards_are_in_the_store(train: Callable[..., None], runs: Callable[[], Any]) -> None:
    train("mlflow", sft={"lora": {"r": 5}})
    client, (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["sft.lora.r"] == "5" and run.data.params["seed"] == "0"
    assert "preference.beta" not in run.data.params  # of a stage that did not run
    curves = {
        split: [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, f"sage_1/{split}/loss")
        ]
        for split in ("train", "held out")
    }
    assert curves == {"train": [(1, 3.0), (2, 2.0)], "held out": [(2, 2.5)]}
    assert [file.path for file in client.list_artifacts(run.info.run_id, "sage_1")] == ["sage_1/sage_policy.json"]


@needs_mlflow
def test_a_refused_run_is_none_and_a_failed_one_says_so(
    train: Callable[..., None], runs: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunRefused, match="nothing was run"):
        train("mlflow", with_inputs=False)
    assert runs()[1] == []
    monkeypatch.setattr(sft, "fine_tune", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("mlflow")
    assert [run.info.status for run in runs()[1]] == ["FAILED"]


def test_it_reports_to_nobody_and_shows_itself_to_this_machine_alone(configured: Path) -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"  # by the settings, before anything imports it
    assert yaml.safe_load((configured / "conf/mlflow/mlflow.yml").read_text())["ui"]["host"] == "127.0.0.1"
