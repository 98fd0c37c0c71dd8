"""`logits_at_labels_only`: the same loss, gradients and measures from fewer logits."""

from __future__ import annotations

import pytest
import torch

from sage_dialog import schemas
from sage_dialog.config import FineTuning, Launcher, LoraSettings, Preference
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.training.adapters import load_model, new_adapter
from sage_dialog.training.dpo import preference_tune
from sage_dialog.training.label_logits import logits_at_labels_only
from sage_dialog.training.sft import fine_tune

LORA = LoraSettings.from_base(r=4, alpha=8)
CONFIG = FineTuning.from_base(
    learning_rate=1e-2, batch_size=4, max_steps=3, max_length=200, epochs=1.0, held_out=0.3, gradient_checkpointing=True
)
MEASURES = ["loss", "grad_norm", "router_aux_loss", "token_accuracy", "preference_accuracy", "preference_margin"]


@pytest.fixture
def scored(monkeypatch):
    """The number of positions that the head of each forward pass scores, by TRL's function or by the model's layer."""
    from trl.trainer import utils

    scored, fused, layer = [], utils._ChunkedLogProbFunction.apply, torch.nn.Linear.forward

    def apply(hidden, *more):
        scored.append(len(hidden))
        return fused(hidden, *more)

    def forward(linear, hidden):
        if linear.out_features == 600:
            scored.append(hidden.shape[:-1].numel())
        return layer(linear, hidden)

    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", apply)
    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    return scored


def _model(base, lora=LORA):
    """Return an adapter that changes the base, with TRL's head."""
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(0)
    model = new_adapter(load_model(base, None), lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model


def _batch(kind):
    """Return a batch of two rows of lengths 12 and 7, padded, or packed into one row; the first token has a label."""
    torch.manual_seed(1)
    ids = torch.randint(0, 600, (2, 12))
    labels = ids.clone()
    labels[0, 1:5] = labels[0, 8:10] = labels[1, 7:] = labels[1, :3] = -100
    padding = torch.ones_like(ids)
    padding[1, 7:] = 0
    batch = {"input_ids": ids, "labels": labels, "attention_mask": padding}
    if kind == "a row without labels":
        labels[1] = -100
    if kind == "no labels":
        labels[:] = -100
    if kind == "packed":
        labels[1, 0] = -100
        kept = padding.bool()
        places = torch.cat([torch.arange(12), torch.arange(7)])[None]
        return {"input_ids": ids[kept][None], "labels": labels[kept][None], "position_ids": places}
    return batch


@pytest.mark.parametrize("kind", ["padded", "a row without labels", "no labels", "packed", "all weights"])
def test_loss_gradients_and_measures_equal_those_from_all_logits(base, scored, kind):
    found, gradients = [], []
    for only in (False, True):
        model = _model(base, None if kind == "all weights" else LORA)
        if only:
            logits_at_labels_only(model)
        outputs = model(**_batch(kind), output_router_logits=True, fused_lm_head=True)
        (0.1 * outputs.log_probs.sum(1).square().sum() - outputs.log_probs.sum() + outputs.aux_loss).backward()
        found.append(outputs)
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    every, only = found
    assert every.keys() - only.keys() == {"loss"}
    for name, values in only.items():
        assert values.dtype == every[name].dtype and values.shape == every[name].shape, name
        assert (values.float() - every[name].float()).abs().max() < 1e-5, name
    labels = _batch(kind)["labels"]
    assert scored == [labels[:, 1:].numel(), int((labels[:, 1:] != -100).sum())]
    assert len(gradients[0]) == len(gradients[1]) and gradients[0]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)

    batch = _batch(kind)
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    assert -only.log_probs.sum().item() == pytest.approx(loss.item(), abs=1e-4)


def test_other_calls_and_errors_leave_the_model_as_it_was(base, monkeypatch):
    from sage_dialog.training import label_logits

    model = _model(base)
    batch = {"input_ids": _batch("padded")["input_ids"]}
    with torch.no_grad():
        before = model(**batch).logits
        logits_at_labels_only(model)
        assert model(**batch).logits.equal(before)
        assert model(**_batch("padded")).loss.isfinite()
        monkeypatch.setattr(label_logits, "_measures", None)
        with pytest.raises(TypeError):
            model(**_batch("padded"), fused_lm_head=True)
        assert model(**batch).logits.equal(before)
        assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape == (2, 14)


def _conversations(conversations):
    """Return replies of different lengths, so that the parts of a batch have different numbers of labels."""
    rows = to_rows(conversations)
    for number, row in enumerate(rows):
        row["messages"][2]["content"] += " You can." * (2 * number)
    return from_rows(rows, schemas.SFT_CONVERSATIONS)


def _curves(log):
    return log[["step", "split", *MEASURES]].set_index(["step", "split"]).astype("float64")


def test_fine_tuning_has_the_same_curves(base, conversations, tmp_path, scored):
    launcher = Launcher.from_base(gradient_accumulation_steps=2)  # with different numbers of labels
    curves, positions = [], []
    for only in (False, True):
        scored.clear()
        config = CONFIG.model_copy(update={"logits_at_labels_only": only})
        rows = _conversations(conversations)
        result = fine_tune(
            *("sage_t", base, None, rows, config, LORA, 0, tmp_path / str(only), True, 1),
            launcher=launcher,
        )
        curves.append(_curves(result.log))
        positions.append(sum(scored))
    assert positions[1] < 0.7 * positions[0]
    assert {"train", "held out"} == set(curves[0].index.get_level_values("split")) and curves[0]["loss"].nunique() > 3
    assert ((curves[0] - curves[1]).abs().fillna(0) < 2e-4).all(axis=None)
    assert curves[0].isna().equals(curves[1].isna())


def test_preference_tuning_has_the_same_curves(base, conversations, tmp_path, scored):
    start = fine_tune("sage_t", base, None, conversations, CONFIG, LORA, 0, tmp_path / "start", True, 1).policy
    rows = [
        {
            "situation_id": f"s{number}",
            "turn": 1,
            "prompt": [{"role": "user", "content": "My boss took the roses."}],
            "chosen": "You can do this." * (1 + number % 2),
            "rejected": "Plot twist of the year, lol.",
        }
        for number in range(6)
    ]
    curves, positions = [], []
    for only in (False, True):
        scored.clear()
        config = Preference.from_base(
            learning_rate=1e-2, batch_size=2, max_steps=3, held_out=0.2, logits_at_labels_only=only
        )
        pairs = from_rows(rows, schemas.DPO_PAIRS)
        result = preference_tune("sage_dpo", base, start, pairs, config, 0, tmp_path / str(only), threads=1)
        curves.append(_curves(result.log))
        positions.append(sum(scored))
    assert positions[1] < 0.7 * positions[0]
    assert curves[0]["loss"].nunique() > 3 and curves[0]["preference_margin"].notna().any()
    assert ((curves[0] - curves[1]).abs().fillna(0) < 2e-4).all(axis=None)
