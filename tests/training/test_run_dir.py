"""The folder of a training: its lock, complete and incomplete content, the interval of checkpoints."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pytest

from sage_dialog.core.policies import Policy, TrainedPolicy, identity, weights_revision
from sage_dialog.core.tables import from_arrow
from sage_dialog.training import callbacks
from sage_dialog.training import run_dir as run_dir_module
from sage_dialog.training.callbacks import CheckpointCallback
from sage_dialog.training.job import table_digest
from sage_dialog.training.run_dir import checkpoint_fault, open_run_dir

INPUTS = {"training": ["sft", "sage_t"], "seed": 0}
EMPTY = pd.DataFrame({"row": pd.Series([], dtype=pd.ArrowDtype(pa.string()))})


def folder(scratch: Path, **changed: object) -> Path:
    with open_run_dir(scratch, "sage_t", {**INPUTS, **changed}) as run_dir:
        return run_dir.folder


def test_other_inputs_have_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    first = folder(tmp_path)
    assert folder(tmp_path) == first != folder(tmp_path, seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert folder(tmp_path) != first, "another number of threads adds up in another order"
    torch.set_num_threads(threads)
    monkeypatch.setattr(run_dir_module, "version", lambda library: "0")
    assert folder(tmp_path) != first


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("optimizer.pt", lambda content: content[:-50], "optimizer.pt (File is not a zip file)"),
        ("optimizer.pt", lambda content: content.replace(b"\x07" * 8, b"\x08" * 8), "optimizer.pt ("),
        ("adapter_model.safetensors", lambda content: content[:-1], "adapter_model.safetensors ("),
        ("trainer_state.json", lambda content: content[:-1], "trainer_state.json ("),
    ],
)
def test_a_damaged_checkpoint_is_found(name: str, damage: Callable[[bytes], bytes], why: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    numbers = torch.full((64,), 7, dtype=torch.uint8)
    torch.save({"state": numbers}, tmp_path / "optimizer.pt")
    save_file({"weight": numbers}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "trainer_state.json").write_text('{"step": 1}')
    assert checkpoint_fault(tmp_path) is None
    file = tmp_path / name
    file.write_bytes(damage(file.read_bytes()))
    fault = checkpoint_fault(tmp_path)
    assert fault is not None and fault.startswith(why)


def test_identity_covers_weights_and_template(base: Policy, tmp_path: Path) -> None:
    copy = Policy.open(shutil.copytree(base.path, tmp_path / "sage_0"))
    assert identity(copy) == identity(base) is not None
    template = copy.path / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert identity(copy) != identity(base)


def test_the_revision_of_a_base_is_read_from_its_card(base: Policy, tmp_path: Path) -> None:
    copy = Policy.open(shutil.copytree(base.path, tmp_path / "sage_0"))
    assert copy.revision() == copy.card.base_revision == weights_revision(copy.path)
    for file in copy.path.glob("*.safetensors"):
        file.write_bytes(b"not looked at")
    assert copy.revision() == base.revision() and identity(copy) == identity(base)
    adapter = Policy(copy.path, replace(copy.card, kind="adapter"))
    assert adapter.revision() == weights_revision(copy.path) != copy.revision()


def test_a_revision_covers_all_weight_files_by_name(tmp_path: Path) -> None:
    for name, content in (("b.safetensors", b"two"), ("a.safetensors", b"one"), ("c.json", b"")):
        (tmp_path / name).write_bytes(content)
    expected = hashlib.sha256(b"a.safetensors" + b"one" + b"b.safetensors" + b"two").hexdigest()
    assert weights_revision(tmp_path) == expected


def test_table_digest_depends_on_rows_not_on_chunks() -> None:
    def digest(*chunks: list[str]) -> str:
        return table_digest(from_arrow(pa.table({"text": pa.chunked_array(chunks, pa.string())})))

    assert digest(["a", "b"], ["c"]) == digest(["a"], ["b", "c"]) != digest(["a", "c", "b"])
    assert digest(["a", "bc"]) != digest(["ab", "c"])


def test_incomplete_content_is_removed(tmp_path: Path) -> None:
    where = folder(tmp_path)
    (where / "log").write_text("what processes wrote")
    for half in ("trainer/checkpoint-9", "job", ".step-00000009.partial", "step-00000002", "step-00000005"):
        (where / half).mkdir(parents=True)
        (where / half / "adapter_model.safetensors").write_text(half)
    (where / ".trained.partial/policy").mkdir(parents=True)
    with open_run_dir(tmp_path, "sage_t", INPUTS) as run_dir:
        assert run_dir.folder == where
        assert run_dir.checkpoint == where / "step-00000005" and not run_dir.trained.exists()
        assert {path.name for path in where.iterdir()} == {"lock", "log", "step-00000005"}


def test_a_checkpoint_replaces_the_previous_one(tmp_path: Path) -> None:
    with open_run_dir(tmp_path, "sage_t", INPUTS) as run_dir:
        for step in (9, 10):
            written = run_dir.trainer / f"checkpoint-{step}"
            (written / "ref").mkdir(parents=True)
            (written / "ref" / "weights").write_text(str(step))
            (written / "training_args.bin").write_bytes(b"a pickle")
            run_dir.save_checkpoint(step)
        assert list(run_dir.trainer.iterdir()) == []
        assert [path.name for path in run_dir.folder.glob("step-*")] == ["step-00000010"]
        assert run_dir.checkpoint is not None and [path.name for path in run_dir.checkpoint.iterdir()] == ["ref"]
        assert (run_dir.checkpoint / "ref/weights").read_text() == "10"


def test_two_processes_cannot_run_the_same_training(tmp_path: Path) -> None:
    with open_run_dir(tmp_path, "sage_t", INPUTS):
        with pytest.raises(ValueError, match=r"another process is training sage_t .* wait for it"):
            folder(tmp_path)
        folder(tmp_path, seed=1)
    folder(tmp_path)


def test_a_partly_removed_result_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Policy) -> None:
    def save(out: Path) -> Policy:
        return Policy.open(shutil.copytree(base.path, out))

    with open_run_dir(tmp_path, "sage_t", INPUTS) as run_dir:
        run_dir.save_result(EMPTY, EMPTY, save)
        trained = run_dir.result()
        assert trained.log.equals(EMPTY) and isinstance(trained.policy, TrainedPolicy)
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(InterruptedError))
        with pytest.raises(InterruptedError):
            trained.policy.forget()
    with open_run_dir(tmp_path, "sage_t", INPUTS) as run_dir:
        assert not run_dir.trained.exists()
        assert [path.name for path in run_dir.folder.parent.iterdir()] == [run_dir.folder.name]
        run_dir.save_result(EMPTY, EMPTY, save)
        run_dir.result().policy.forget()  # type: ignore[attr-defined]
    assert list((tmp_path / "training").iterdir()) == []


def test_checkpoints_are_a_minute_apart_and_take_a_twentieth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, cost, saved = 0.0, 1.0, []
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now)

    class Trainer:
        accelerator = SimpleNamespace(wait_for_everyone=lambda: None)

        def train(self, callback: CheckpointCallback) -> None:
            nonlocal now, cost
            for step in range(1, 101):  # ten seconds each
                now += 10
                cost = 1.0 if step < 50 else 9.0
                state = SimpleNamespace(global_step=step, max_steps=100, is_world_process_zero=False)
                control = SimpleNamespace(should_save=False)
                callback.on_log(None, state, control, {"eval_loss": 1.0})
                assert not control.should_save, "the sums of the log are not empty there"
                if step % 2 == 0:
                    callback.on_log(None, state, control, {"loss": 1.0})
                if control.should_save:
                    now += cost
                    saved.append(step)
                    callback.on_save(None, state, control)

    with open_run_dir(tmp_path, "sage_t", INPUTS) as run_dir:
        trainer = Trainer()
        trainer.train(CheckpointCallback(trainer, run_dir))
    assert saved == [6, 12, 18, 24, 30, 36, 42, 48, 54, 72, 90], "at the end there is the policy itself"
