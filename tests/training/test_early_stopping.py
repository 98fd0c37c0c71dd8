"""Stopping early: a training ends when what is held out gets no better, and gives the policy at its best."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.config import FineTuning, LoraSettings, Preference
from sage_dialog.training import checkpoints
from sage_dialog.training.checkpoints import TrainingRunDir
from sage_dialog.training.dpo import prefer
from sage_dialog.training.early_stopping import stop_early
from sage_dialog.training.sft import fine_tune

LORA = LoraSettings.from_base(r=4, alpha=8)
DIALS = FineTuning.from_base(learning_rate=1e-2, batch_size=2, max_steps=20, max_length=200, held_out=0.34)


def trained(base, conversations, scratch, **config):
    tuning = DIALS.model_copy(update=config)
    return fine_tune("sage_t", base, None, conversations, tuning, LORA, 0, scratch, blocks=True, threads=1)


@pytest.fixture
def measured(monkeypatch):
    """Makes each measurement of the loss on the held out what a test says, by its place."""
    import torch
    import trl

    def say(losses, kind=trl.SFTTrainer):
        genuine = kind.prediction_step

        def step(trainer, *given, **named):
            _, *others = genuine(trainer, *given, **named)
            place = round(trainer.state.global_step / trainer.state.max_steps * 10) - 1
            return torch.tensor(losses[place]), *others

        monkeypatch.setattr(kind, "prediction_step", step)

    return say


def steps(made):
    rows = made.log.to_pylist()
    return max(row["step"] for row in rows), [row["loss"] for row in rows if row["split"] == "held out"]


def test_the_policy_is_the_one_that_was_best(base, conversations, tmp_path, measured, caplog):
    caplog.set_level("INFO")
    measured([5.0, 4.0, 3.0, 3.5, 3.0, 3.1, 1.0, 1.0, 1.0, 1.0])
    made = trained(base, conversations, tmp_path / "patient", patience=3)
    assert steps(made) == (12, [5.0, 4.0, 3.0, 3.5, 3.0, pytest.approx(3.1)])
    assert "sage_t is as of step 6 of 12, where the loss on the held out was lowest (3.0000)" in caplog.text
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


def test_a_training_that_gets_better_goes_to_its_end(base, conversations, tmp_path, measured, caplog):
    caplog.set_level("INFO")
    measured([5.0, 4.0, 4.5, 3.0, 2.0, 2.5, 1.0, 0.9, 0.8, 0.7])
    made = trained(base, conversations, tmp_path / "patient", patience=2)
    assert steps(made)[0] == 20 and "as of step" not in caplog.text
    assert made.policy.revision() == trained(base, conversations, tmp_path / "plain").policy.revision()


def test_a_loss_that_is_no_number_is_no_better(base, conversations, tmp_path, measured):
    measured([2.0, math.nan, math.nan, *[1.0] * 7])
    assert steps(trained(base, conversations, tmp_path, patience=2))[0] == 6


@pytest.mark.parametrize("killed_at", [5, 9, 11])
def test_killed_and_gone_on_it_is_the_same(killed_at, base, conversations, tmp_path, measured, monkeypatch):
    """What was best before the kill is kept with the checkpoint."""
    import trl

    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "COST", float("inf"))
    measured([5.0, 4.0, 3.0, 3.5, 3.2, 3.1, 1.0, 1.0, 1.0, 1.0])
    whole = trained(base, conversations, tmp_path / "whole", patience=3)

    class KilledError(Exception):
        pass

    genuine = trl.SFTTrainer.training_step

    def dying(trainer, *given, **named):
        if trainer.state.global_step == killed_at:
            raise KilledError
        return genuine(trainer, *given, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(trl.SFTTrainer, "training_step", dying)
        trained(base, conversations, tmp_path / "killed", patience=3)
    again = trained(base, conversations, tmp_path / "killed", patience=3)
    assert again.policy.revision() == whole.policy.revision()
    assert again.log.equals(whole.log)


def test_preference_learning_stops_as_well(base, conversations, tmp_path, measured):
    import trl

    start = trained(base, conversations, tmp_path / "start", max_steps=1, held_out=0.0).policy
    told = {"prompt": [{"role": "user", "content": "Hm."}], "chosen": "You can do this.", "rejected": "Plot twist."}
    rows = [{"situation_id": f"s{number}", "turn": 1, **told} for number in range(24)]
    pairs = pa.Table.from_pylist(rows, schema=schemas.DPO_PAIRS)
    measured([3.0, 2.0, *[2.5] * 8], trl.DPOTrainer)
    config = Preference.from_base(learning_rate=1e-2, batch_size=1, held_out=0.17, patience=2)
    made = prefer("sage_dpo", base, start, pairs, config, 0, tmp_path, threads=1)
    assert steps(made)[1] == [3.0, 2.0, 2.5, 2.5] and steps(made)[0] == 8
    assert made.policy.revision() != start.revision()


def test_weights_that_are_dealt_out_are_not_waited_for():
    import torch

    dealt_out = torch.nn.Linear(1, 1)
    dealt_out.weight.ds_id = 0
    for trainer in (
        SimpleNamespace(is_fsdp_enabled=True, model=torch.nn.Linear(1, 1)),
        SimpleNamespace(is_fsdp_enabled=False, model=dealt_out),
    ):
        with pytest.raises(ValueError, match="sage_t: patience keeps the best weights, and FSDP and ZeRO-3 deal"):
            stop_early(trainer, "sage_t", 1, TrainingRunDir(None))
