"""Early stopping: a training ends when the held-out loss stops improving, with the best weights."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from sage_dialog import schemas
from sage_dialog.config import FineTuning, LoraSettings, Preference
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.training.callbacks import EarlyStopping
from sage_dialog.training.dpo import preference_tune
from sage_dialog.training.run_dir import TrainingRunDir
from sage_dialog.training.sft import fine_tune

pytestmark = pytest.mark.slow

LORA = LoraSettings.from_base(r=4, alpha=8)
CONFIG = FineTuning.from_base(learning_rate=1e-2, batch_size=2, max_steps=20, max_length=200, held_out=0.34, epochs=1.0)


def trained(base, conversations, scratch, **config):
    tuning = CONFIG.model_copy(update=config)
    return fine_tune("sage_t", base, None, conversations, tuning, LORA, 0, scratch, blocks=True, threads=1)


def steps(made):
    rows = to_rows(made.log)
    return max(row["step"] for row in rows), [row["loss"] for row in rows if row["split"] == "held out"]


def test_the_policy_has_the_best_weights(base, conversations, tmp_path, held_out_losses, caplog):
    caplog.set_level("INFO")
    held_out_losses([5.0, 4.0, 3.0, 3.5, 3.0, 3.1, 1.0, 1.0, 1.0, 1.0])
    made = trained(base, conversations, tmp_path / "patient", patience=3)
    assert steps(made) == (12, [5.0, 4.0, 3.0, 3.5, 3.0, pytest.approx(3.1)])
    assert "sage_t has the weights of step 6 of 12, where the held-out loss was lowest (3.0000)" in caplog.text
    # the same weights as a training that ends just there, its learning rates being those of the longer one
    assert made.policy.revision() == as_of_step(6, base, conversations, tmp_path)


def as_of_step(step, base, conversations, tmp_path):
    import trl

    class StoppedError(Exception):
        pass

    seen = {}
    genuine = trl.SFTTrainer.training_step

    def watched(trainer, *given, **named):
        if trainer.state.global_step == step and "revision" not in seen:
            trainer.model.save_pretrained(tmp_path / "then", selected_adapters=["default"], save_embedding_layers=False)
            seen["revision"] = True
            raise StoppedError
        return genuine(trainer, *given, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(trl.SFTTrainer, "training_step", watched)
        trained(base, conversations, tmp_path / "whole")
    from sage_dialog.core.policies import weights_revision

    return weights_revision(tmp_path / "then")


def test_a_training_that_improves_is_not_stopped(base, conversations, tmp_path, held_out_losses, caplog):
    caplog.set_level("INFO")
    held_out_losses([5.0, 4.0, 4.5, 3.0, 2.0, 2.5, 1.0, 0.9, 0.8, 0.7])
    made = trained(base, conversations, tmp_path / "patient", patience=2)
    assert steps(made)[0] == 20 and "has the weights of step" not in caplog.text
    assert made.policy.revision() == trained(base, conversations, tmp_path / "plain").policy.revision()


def test_a_loss_of_nan_is_no_improvement(base, conversations, tmp_path, held_out_losses):
    held_out_losses([2.0, math.nan, math.nan, *[1.0] * 7])
    assert steps(trained(base, conversations, tmp_path, patience=2))[0] == 6


def test_preference_tuning_stops_early(base, conversations, tmp_path, held_out_losses):
    import trl

    start = trained(base, conversations, tmp_path / "start", max_steps=1, held_out=0.0).policy
    pair = {"prompt": [{"role": "user", "content": "Hm."}], "chosen": "You can do this.", "rejected": "Plot twist."}
    rows = [{"situation_id": f"s{number}", "turn": 1, **pair} for number in range(24)]
    pairs = from_rows(rows, schemas.DPO_PAIRS)
    held_out_losses([3.0, 2.0, *[2.5] * 8], trl.DPOTrainer)
    config = Preference.from_base(learning_rate=1e-2, batch_size=1, held_out=0.17, patience=2)
    made = preference_tune("sage_dpo", base, start, pairs, config, 0, tmp_path, threads=1)
    assert steps(made)[1] == [3.0, 2.0, 2.5, 2.5] and steps(made)[0] == 8
    assert made.policy.revision() != start.revision()


def test_the_best_weights_of_shards_are_kept_whole(tmp_path):
    """FSDP on one process: its parameters are shards. Only the first process keeps them."""
    import torch
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.Linear(3, 2, bias=False)
    expected = model.weight.detach().clone()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        trainer = SimpleNamespace(model=fully_shard(model, mesh=distributed.device_mesh.init_device_mesh("cpu", (1,))))
        for first in (True, False):
            state = SimpleNamespace(global_step=1, is_world_process_zero=first)
            stopping = EarlyStopping(trainer, "sage_t", 1, TrainingRunDir(tmp_path))
            control = SimpleNamespace(should_training_stop=False)
            stopping.on_evaluate(None, state, control, {"eval_loss": 1.0})
            with torch.no_grad():
                model.weight.mul_(2.0)
            stopping.on_evaluate(None, state, control, {"eval_loss": 1.5})
            assert stopping.loss == 1.0 and control.should_training_stop
            assert list(stopping.best) == (["weight"] if first else [])
            if first:
                assert type(stopping.best["weight"]) is torch.Tensor and stopping.best["weight"].equal(expected)
    finally:
        distributed.destroy_process_group()
