"""The folder of a training: whose it is, what is taken for whole in it, how often a checkpoint is taken."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from sage_dialog.core.policies import Policy, TrainedPolicy, identity, weights_revision
from sage_dialog.training import checkpoints
from sage_dialog.training.checkpoints import run_dir, table_digest, train_on

DECIDES = {"training": ["sft", "sage_t"], "seed": 0}
EMPTY = pa.table({"row": pa.array([], pa.string())})


def folder(scratch: Path, **changed: object) -> Path:
    with run_dir(scratch, "sage_t", {**DECIDES, **changed}) as place:
        return place.folder


def test_another_training_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    first = folder(tmp_path)
    assert folder(tmp_path) == first != folder(tmp_path, seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert folder(tmp_path) != first, "another number of threads adds up in another order"
    torch.set_num_threads(threads)
    monkeypatch.setattr(checkpoints, "version", lambda library: "0")
    assert folder(tmp_path) != first


def test_policies_are_told_apart_by_weights_and_template(base: Policy, tmp_path: Path) -> None:
    copy = Policy.open(shutil.copytree(base.path, tmp_path / "sage_0"))
    assert identity(copy) == identity(base) is not None
    template = copy.path / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert identity(copy) != identity(base)


def test_a_bases_weights_are_not_read_again(base: Policy, tmp_path: Path) -> None:
    copy = Policy.open(shutil.copytree(base.path, tmp_path / "sage_0"))
    assert copy.revision() == copy.card.base_revision == weights_revision(copy.path)
    for file in copy.path.glob("*.safetensors"):
        file.write_bytes(b"not looked at")
    assert copy.revision() == base.revision() and identity(copy) == identity(base)
    adapter = Policy(copy.path, replace(copy.card, kind="adapter"))
    assert adapter.revision() == weights_revision(copy.path) != copy.revision()


def test_a_revision_is_of_all_files_by_name(tmp_path: Path) -> None:
    for name, content in (("b.safetensors", b"two"), ("a.safetensors", b"one"), ("c.json", b"")):
        (tmp_path / name).write_bytes(content)
    expected = hashlib.sha256(b"a.safetensors" + b"one" + b"b.safetensors" + b"two").hexdigest()
    assert weights_revision(tmp_path) == expected


def test_tables_are_told_apart_by_their_rows() -> None:
    def digest(*chunks: list[str]) -> str:
        return table_digest(pa.table({"said": pa.chunked_array(chunks, pa.string())}))

    assert digest(["a", "b"], ["c"]) == digest(["a"], ["b", "c"]) != digest(["a", "c", "b"])
    assert digest(["a", "bc"]) != digest(["ab", "c"])


def test_what_is_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    where = folder(tmp_path)
    (where / "log").write_text("what processes wrote")
    for half in ("trainer/checkpoint-9", "job", ".step-00000009.partial", "step-00000002", "step-00000005"):
        (where / half).mkdir(parents=True)
        (where / half / "adapter_model.safetensors").write_text(half)
    (where / ".trained.partial/policy").mkdir(parents=True)
    with run_dir(tmp_path, "sage_t", DECIDES) as place:
        assert place.folder == where
        assert place.checkpoint == where / "step-00000005" and place.earlier() is None
        assert {path.name for path in where.iterdir()} == {"lock", "log", "step-00000005"}


def test_a_checkpoint_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    with run_dir(tmp_path, "sage_t", DECIDES) as place:
        for step in (9, 10):
            written = place.trainer / f"checkpoint-{step}"
            (written / "ref").mkdir(parents=True)
            (written / "ref" / "weights").write_text(str(step))
            (written / "training_args.bin").write_bytes(b"a pickle")
            place.keep(written, step)
        assert list(place.trainer.iterdir()) == []
        assert [path.name for path in place.folder.glob("step-*")] == ["step-00000010"]
        assert place.checkpoint is not None and [path.name for path in place.checkpoint.iterdir()] == ["ref"]
        assert (place.checkpoint / "ref/weights").read_text() == "10"


def test_two_processes_do_not_train_the_same_at_once(tmp_path: Path) -> None:
    with run_dir(tmp_path, "sage_t", DECIDES):
        with pytest.raises(ValueError, match=r"another process is training sage_t .* wait for it"):
            folder(tmp_path)
        folder(tmp_path, seed=1)
    folder(tmp_path)


def test_what_is_half_removed_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Policy) -> None:
    def save(out: Path) -> Policy:
        return Policy.open(shutil.copytree(base.path, out))

    with run_dir(tmp_path, "sage_t", DECIDES) as place:
        trained = place.finish(EMPTY, EMPTY, save)
        assert place.earlier() == trained and isinstance(trained.policy, TrainedPolicy)
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(InterruptedError))
        with pytest.raises(InterruptedError):
            trained.policy.forget()
    with run_dir(tmp_path, "sage_t", DECIDES) as place:
        assert place.earlier() is None
        assert [path.name for path in place.folder.parent.iterdir()] == [place.folder.name]
        place.finish(EMPTY, EMPTY, save).policy.forget()  # type: ignore[attr-defined]
    assert list((tmp_path / "training").iterdir()) == []


def test_checkpoints_are_a_minute_apart_and_cost_a_twentieth_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, cost, saved = 0.0, 1.0, []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)

    class Trainer:
        accelerator = SimpleNamespace(wait_for_everyone=lambda: None)

        def add_callback(self, callback: object) -> None:
            self.callback = callback

        def train(self, resume_from_checkpoint: str | None) -> None:
            nonlocal now, cost
            for step in range(1, 101):  # ten seconds each
                now += 10
                cost = 1.0 if step < 50 else 9.0
                state = SimpleNamespace(global_step=step, max_steps=100, is_world_process_zero=False)
                control = SimpleNamespace(should_save=False)
                self.callback.on_log(None, state, control, {"eval_loss": 1.0})
                assert not control.should_save, "the sums of the log are not empty there"
                if step % 2 == 0:
                    self.callback.on_log(None, state, control, {"loss": 1.0})
                if control.should_save:
                    now += cost
                    saved.append(step)
                    self.callback.on_save(None, state, control)

    with run_dir(tmp_path, "sage_t", DECIDES) as place:
        train_on(Trainer(), "sage_t", place)
    assert saved == [6, 12, 18, 24, 30, 36, 42, 48, 54, 72, 90], "at the end there is the policy itself"
