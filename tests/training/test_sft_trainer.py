"""Fine-tuning with weights: weights of 1 change nothing, weights of 0 teach nothing, others scale the gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sage_dialog import schemas
from sage_dialog.config import FineTuning, LoraSettings
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.training.sft import fine_tune

CONFIG = FineTuning.from_base(batch_size=2, epochs=1.0, max_length=200, logits_at_labels_only=True)
LORA = LoraSettings.from_base(r=4, alpha=8, target_modules=("q_proj", "v_proj"))


def weighted(conversations: DataFrame, *weights: float) -> DataFrame:
    rows = [row | {"weights": list(weights)} for row in to_rows(conversations)]
    return from_rows(rows, schemas.WEIGHTED_CONVERSATIONS)


def train(base: Policy, rows: DataFrame, folder: Path, **changes: Any) -> Any:
    config = CONFIG.model_copy(update=changes)
    return fine_tune("sage_w", base, None, rows, config, LORA, 0, folder, blocks=True, threads=1)


def test_weights_of_one_train_as_without_weights(base: Policy, conversations: DataFrame, tmp_path: Path) -> None:
    # sums are in another order, so the first loss is compared, on all rows as one batch
    step = {"batch_size": len(conversations), "max_steps": 1}
    ones = train(base, weighted(conversations, 1.0, 1.0), tmp_path / "w", **step)
    config = CONFIG.model_copy(update=step)
    plain = fine_tune("sage_w", base, None, conversations, config, LORA, 0, tmp_path / "p", blocks=True, threads=1)
    assert ones.log["loss"].iloc[0] == pytest.approx(plain.log["loss"].iloc[0], rel=1e-4)


def test_a_loss_is_the_weighted_sum_of_the_replies(base: Policy, conversations: DataFrame, tmp_path: Path) -> None:
    step = {"batch_size": len(conversations), "max_steps": 1, "router_aux_loss_coef": 0.0}
    losses = {
        weights: train(base, weighted(conversations, *weights), tmp_path / f"{weights}", **step).log["loss"].iloc[0]
        for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0), (0.0, 0.0))
    }
    assert losses[2.0, 3.0] == pytest.approx(2 * losses[1.0, 0.0] + 3 * losses[0.0, 1.0], rel=1e-3)
    assert losses[0.0, 0.0] == 0 and losses[1.0, 0.0] > 0


def test_the_same_training_gives_the_same_bytes(base: Policy, conversations: DataFrame, tmp_path: Path) -> None:
    rows = weighted(conversations, 0.5, 2.0)
    one, other = (train(base, rows, tmp_path / name).policy for name in "ab")
    assert one.revision() == other.revision()
    changed = train(base, weighted(conversations, 2.0, 0.5), tmp_path / "c").policy
    assert changed.revision() != one.revision() and load_file(next(changed.path.glob("*.safetensors")))


def test_a_missing_weight_is_named(base: Policy, conversations: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"conversation c0 of source .*: 2 replies and 1 weights"):
        train(base, weighted(conversations, 1.0), tmp_path)
