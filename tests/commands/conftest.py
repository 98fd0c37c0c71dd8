"""A small project with its own data and configuration, in which the stages before training have been run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from block_writers import shared_block_writer
from kedro.framework.session import KedroSession
from run_records import keep, runs  # noqa: F401  # fixtures

from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.lineage.run_folder import RunFolder


@dataclass
class SmallProject:
    """A folder with `conf` and `data`."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def runs(self) -> RunFolder:
        return RunFolder(self.data / "runs")

    @property
    def metadata(self) -> SimpleNamespace:
        """The object that Kedro passes to commands."""
        return SimpleNamespace(project_path=self.path)

    def run(self, pipelines: list[str], node: str | None = None) -> None:
        """Run pipelines as `kedro run --env test --pipelines …`, or one node of them."""
        from kedro.framework.project import pipelines as registered

        found = [one.name for name in pipelines for one in registered[name].nodes if node and one.name.endswith(node)]
        with KedroSession.create(project_path=self.path, env="test") as session:
            session.run(pipeline_names=pipelines, node_names=found)


@pytest.fixture(scope="session")
def small_project(configured: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """The project of the session; tests change the copy `project`."""
    project = SmallProject(tmp_path_factory.mktemp("project"))
    shutil.copytree(configured / "conf", project.path / "conf")
    sizes = project.path / "conf/test/parameters_microworld.yml"
    sizes.write_text(sizes.read_text().replace("threads: 400", "threads: 120"))
    (project.path / "conf/test/parameters_data_processing.yml").write_text("data_processing: {workers: 1}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGE_DATA", str(project.data))
        project.run(["microworld"], "write_raw_data")
        project.run(["data_processing", "sac_augmentation"])
    return project


@pytest.fixture
def project(small_project: SmallProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallProject]:
    """A copy of the project, with the times of change of the files."""
    shutil.copytree(small_project.path, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data"))
    yield SmallProject(tmp_path)


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    """A base that writes blocks, and two adapters on it, one of which writes none by its card."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tmp_path_factory.mktemp("policies") / "sage_0"
    shutil.copytree(shared_block_writer("words", tmp_path_factory).path, base)
    revision = Policy.open(base).card.base_revision
    made = {"sage_0": Policy.write_card(base, PolicyCard("sage_0", "base", True, "sage_0", revision))}
    for name, blocks in (("sage_dpo", True), ("sage_1_plain", False)):
        path = tmp_path_factory.mktemp(name)
        config = LoraConfig(
            r=2, target_modules=["q_proj"], rank_pattern={"of_experts": 2}, alpha_pattern={"of_experts": 8}
        )
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(path)
        made[name] = Policy.write_card(path, PolicyCard(name, "adapter", blocks, "sage_0", revision))
    return made
