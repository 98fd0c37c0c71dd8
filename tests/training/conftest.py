"""A base of a few thousand parameters, conversations to train on, and scripted evaluations."""

from __future__ import annotations

import pytest

from sage_dialog import schemas
from sage_dialog.config import BaseModelConfig
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.microworld.base_model import train_base
from sage_dialog.microworld.base_text import documents
from sage_dialog.microworld.world import load_world

TINY = BaseModelConfig.from_base(
    vocabulary=600, layers=1, hidden=32, heads=2, experts=2, expert_hidden=32, steps=4, batch_size=4
)


@pytest.fixture(scope="session")
def make_base(tmp_path_factory):
    def make(seed: int = 0):
        out = tmp_path_factory.mktemp("base") / "sage_0"
        return train_base(documents(load_world(), 100, seed), TINY, seed, out, threads=1)

    return make


@pytest.fixture(scope="session")
def base(make_base):
    return make_base()


@pytest.fixture
def conversations() -> DataFrame:
    rows = [
        {
            "conversation_id": f"c{number}",
            "source": "listener",
            "messages": [
                {"role": "system", "content": "Listen."},
                {"role": "user", "content": f"My boss took the roses {number} times."},
                {"role": "assistant", "content": "{u_motivation: sharing} You can do this."},
                {"role": "user", "content": "Thanks, that really helps."},
                {"role": "assistant", "content": "Keep going, step by step."},
            ],
        }
        for number in range(6)
    ]
    return from_rows(rows, schemas.SFT_CONVERSATIONS)


@pytest.fixture
def held_out_losses(monkeypatch):
    """Return a function that sets the losses of the evaluations of a training."""
    import torch
    import trl

    def set_losses(losses, kind=trl.SFTTrainer):
        original = kind.prediction_step

        def step(trainer, *args, **kwargs):
            _, *others = original(trainer, *args, **kwargs)
            number = round(trainer.state.global_step / trainer.state.max_steps * 10) - 1
            return torch.tensor(losses[number]), *others

        monkeypatch.setattr(kind, "prediction_step", step)

    return set_losses
