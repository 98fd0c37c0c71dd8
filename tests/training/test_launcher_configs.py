"""The launcher's parameters and config files: checks before a process starts, and the job on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import killed_training
import launched
import pytest
import yaml
from kedro.config import OmegaConfigLoader
from pydantic import ValidationError

from sage_dialog import settings
from sage_dialog.config import FineTuning, Launcher, LoraSettings
from sage_dialog.core.policies import Policy
from sage_dialog.hooks.errors import RunRefused
from sage_dialog.hooks.validation import validate_parameters
from sage_dialog.training import launch
from sage_dialog.training.adapters import gather_weights
from sage_dialog.training.job import TrainingJob
from sage_dialog.training.launch import load_launcher_config
from sage_dialog.training.run_dir import TrainingRunDir
from sage_dialog.training.sft import fine_tune
from sage_dialog.training.trainer import run_trainer

PROJECT = Path(__file__).parents[2]
CONFIGS = PROJECT / "conf/accelerate"
TWO_PROCESSES = Launcher.from_base(config=str(CONFIGS / "ddp.yaml"), num_processes=2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddp", {"multi_gpu": True}),
        ("fsdp", {"use_fsdp": True, "fsdp_version": "2", "fsdp_state_dict_type": "SHARDED_STATE_DICT"}),
        (
            "zero3",
            {
                "use_deepspeed": True,
                "zero_stage": 3,
                "gradient_accumulation_steps": "auto",
                "gradient_clipping": "auto",
                "offload_optimizer_device": "none",
            },
        ),
        ("zero3_offload", {"use_deepspeed": True, "zero_stage": 3, "offload_optimizer_device": "cpu"}),
    ],
)
def test_accelerate_knows_every_key_of_our_configs(name: str, expected: dict[str, Any]) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    file = str(CONFIGS / f"{name}.yaml")
    given = ["--config_file", file, "--num_processes", "2", "--num_machines", "1", "--module", "worker"]
    parsed = launch_command_parser().parse_args(given)
    config = load_launcher_config(file)
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(config.get(section, {})) <= set(vars(parsed)), "accelerate ignores unknown keys"
    merged = vars(_validate_launch_command(parsed)[0])
    assert {key: str(merged[key]) for key in expected} == {key: str(value) for key, value in expected.items()}
    assert [key for key in ("multi_gpu", "use_fsdp", "use_deepspeed") if merged[key]] == [next(iter(expected))]
    assert merged["num_processes"] == 2 and merged["mixed_precision"] == "no", "the project sets the precision"


def test_there_is_a_config_for_each_kind_of_parallelism() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == {"ddp", "fsdp", "zero3", "zero3_offload"}
    plain, offload = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("zero3", "zero3_offload"))
    assert offload["deepspeed_config"].pop("offload_optimizer_device") == "cpu"
    assert plain["deepspeed_config"].pop("offload_optimizer_device") == "none"
    assert plain == offload


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "accelerate cannot read it: The passed configuration file"),
        ("distributed_type: MULTI_GPU\nprocesses: 2\n", r"unknown keys \(\['processes'\]\)"),
        ("num_machines: 1\n", "`distributed_type` must be specified"),
        ("a list: [", "accelerate cannot read it: while parsing"),
        ("just a line\n", "accelerate cannot read it"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2\n", "num_machines is 2, but a run has one machine"),
    ],
)
def test_an_invalid_config_is_an_error(content: str | None, why: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=rf"(?s)launcher.config {file}: .*{why}"):
        load_launcher_config(str(file))


def test_missing_hardware_and_libraries_are_errors_before_the_start(
    base: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for config, gpus, why in (
        ("fsdp", 0, "needs GPUs, and this machine has none"),
        ("zero3", 0, "needs GPUs, and this machine has none"),
        ("ddp", 1, "launcher.num_processes is 2, but this machine has 1 GPUs"),
        ("zero3", 2, r"needs DeepSpeed; pip install 'sage-dialog\[deepspeed\]'"),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=why):
            tuned(base, tmp_path, Launcher.from_base(config=str(CONFIGS / f"{config}.yaml"), num_processes=2))


def test_an_indivisible_batch_is_an_error(base: Policy, tmp_path: Path) -> None:
    launcher = Launcher.from_base(config="ddp.yaml", num_processes=4, gradient_accumulation_steps=2)
    assert [launcher.rows_at_once(size) for size in (8, 24)] == [1, 3]
    for size in (4, 12):
        with pytest.raises(ValueError, match=f"batch_size {size} is not divisible .* a multiple of 8"):
            launcher.rows_at_once(size)
    with pytest.raises(ValueError, match="sage_t: batch_size 4 is not divisible"):
        tuned(base, tmp_path, Launcher.from_base(gradient_accumulation_steps=3))
    with pytest.raises(ValidationError, match="2 processes need a config"):
        Launcher.from_base(num_processes=2)


def test_a_run_with_indivisible_batches_does_not_start() -> None:
    raw = OmegaConfigLoader(str(PROJECT / "conf"), env="test", **settings.CONFIG_LOADER_ARGS)["parameters"]
    trainings = {
        "sft.training": raw["sft"]["training"],
        "self_play.training": raw["self_play"]["training"],
        "preference": raw["preference"],
        **{f"offline_rl.{name}": raw["offline_rl"][name] for name in ("training", "refinement", "preference")},
        **{f"negotiation_rl.{name}": raw["negotiation_rl"][name] for name in ("training", "refinement")},
        "self_play_rl.refinement": raw["self_play_rl"]["refinement"],
    }
    raw["launcher"] |= {"config": "conf/accelerate/ddp.yaml", "num_processes": 7}
    with pytest.raises(RunRefused) as refused:
        validate_parameters(raw, "test")
    faults = str(refused.value).splitlines()[1:]
    for fault, (path, config) in zip(faults, trainings.items(), strict=True):
        assert fault.startswith(f"  {path}.batch_size: batch_size {config['batch_size']} is not divisible")


def job(base: Policy) -> TrainingJob:
    """Return the job of `tuned` in two processes."""
    config, lora = FineTuning.from_base(learning_rate=1e-2, batch_size=4, epochs=1.0), LoraSettings.from_base(r=4)
    rows = killed_training.conversations()
    return TrainingJob("sft", "sage_t", base, None, rows, None, config, lora, True, 0, 1, TWO_PROCESSES)


def tuned(base: Policy, scratch: Path, launcher: Launcher, threads: int | None = 1) -> None:
    config, lora = FineTuning.from_base(learning_rate=1e-2, batch_size=4, epochs=1.0), LoraSettings.from_base(r=4)
    fine_tune("sage_t", base, None, killed_training.conversations(), config, lora, 0, scratch, True, threads, launcher)


class NotStartedError(Exception):
    pass


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[TrainingRunDir]:
    """The folders in which processes would have been started."""
    met: list[TrainingRunDir] = []

    def launched(launcher: Launcher, threads: int, name: str, place: TrainingRunDir) -> None:
        met.append(place)
        raise NotStartedError

    monkeypatch.setattr(launch, "launch_workers", launched)
    return met


@pytest.mark.slow
def test_the_launcher_is_part_of_the_fingerprint(base: Policy, tmp_path: Path, places: list[TrainingRunDir]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text((CONFIGS / "ddp.yaml").read_text())

    def place(launcher: Launcher, threads: int | None = 1) -> Path:
        with pytest.raises(NotStartedError):
            tuned(base, tmp_path, launcher, threads)
        return places[-1].folder

    ours = place(Launcher.from_base(config=str(CONFIGS / "ddp.yaml"), num_processes=2))
    assert place(Launcher.from_base(config=str(config), num_processes=2)) == ours, "the content counts, not the path"
    config.write_text("# a remark\n" + config.read_text())
    assert place(Launcher.from_base(config=str(config), num_processes=2)) == ours
    others = {
        place(Launcher.from_base(config=str(config), num_processes=4)),
        place(Launcher.from_base(config=str(config), num_processes=2, gradient_accumulation_steps=2)),
        place(Launcher.from_base(config=str(config), num_processes=2), threads=2),
    }
    config.write_text(config.read_text() + "main_training_function: main\n")
    others.add(place(Launcher.from_base(config=str(config), num_processes=2)))
    assert len(others | {ours}) == 5


def test_the_job_of_worker_processes_is_json_and_parquet(
    base: Policy, tmp_path: Path, places: list[TrainingRunDir]
) -> None:
    with pytest.raises(NotStartedError):
        tuned(base, tmp_path, TWO_PROCESSES)
    folder = places[-1].job
    assert {path.name for path in folder.iterdir()} == {"job.json", "rows.parquet"}
    assert "sage_policy.json" in {path.name for path in base.path.iterdir()}, "see the test of a base from a hub"
    read, expected = TrainingJob.read(folder), job(Policy.open(base.path.resolve()))
    assert read.rows.equals(expected.rows) and read.rows.dtypes.equals(expected.rows.dtypes)
    assert replace(read, rows=None) == replace(expected, rows=None)


def test_a_job_names_a_base_that_has_no_card_in_its_folder(base: Policy, tmp_path: Path) -> None:
    hub = launched.hub_form(base, tmp_path / "base")
    written = replace(job(hub), start=hub, measured=killed_training.conversations())
    written.write(tmp_path / "job")
    read = TrainingJob.read(tmp_path / "job")
    assert (read.base, read.start) == (hub, hub) and read.base.card.base_revision == hub.card.base_revision
    assert read.measured is not None and read.measured.equals(written.measured)
    assert read.fingerprint_inputs() == written.fingerprint_inputs()


def test_several_gpus_without_a_launcher_are_an_error(
    base: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ValueError, match=r"shows 4 GPUs, and .* launcher.num_processes=4, or CUDA_VISIBLE_DEVICES=0"):
        tuned(base, tmp_path, launch.IN_PROCESS)


def test_sharded_weights_are_gathered() -> None:
    """FSDP on one process: its parameters are shards."""
    import torch
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2, bias=False))
    model[0].requires_grad_(False)
    expected = model[1].weight.detach().clone()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        weights = gather_weights(fully_shard(model, mesh=mesh), first=True)
        assert gather_weights(model, first=False) == {}
    finally:
        distributed.destroy_process_group()
    assert list(weights) == ["1.weight"] and type(weights["1.weight"]) is torch.Tensor
    assert weights["1.weight"].equal(expected)


def test_fsdp_cannot_train_all_weights(base: Policy, tmp_path: Path) -> None:
    full = SimpleNamespace(peft_config={"default": SimpleNamespace(modules_to_save=["lm_head"])})
    trainer = SimpleNamespace(is_fsdp_enabled=True, model=full)
    with pytest.raises(ValueError, match=r"sage_t: FSDP cannot train all weights; train with DDP or ZeRO-3"):
        run_trainer(trainer, job(base), killed_training.pairs(), TrainingRunDir(tmp_path))


def test_the_configs_named_in_the_parameters_exist() -> None:
    for file in (PROJECT / "conf").glob("*/parameters.yml"):
        launcher = (yaml.safe_load(file.read_text()) or {}).get("launcher")
        if launcher and launcher.get("config"):
            assert (PROJECT / launcher["config"]).is_file(), file
