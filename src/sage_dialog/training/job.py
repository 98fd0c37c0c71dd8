"""A training job: the arguments of one training, which worker processes read from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from sage_dialog.config import FineTuning, Launcher, LoraSettings, Preference
from sage_dialog.core.policies import Policy, PolicyCard, identity
from sage_dialog.core.tables import DataFrame, to_arrow

JOB, ROWS, MEASURED = "job.json", "rows.parquet", "measured.parquet"


@dataclass(frozen=True)
class TrainingJob:
    """The arguments of one training.

    Attributes:
        kind: "sft", supervised fine-tuning; "dpo", preference tuning.
        name: of the policy to train.
        base: the base model.
        start: the policy whose adapter is trained on; None starts with a new adapter.
        rows: schemas.SFT_CONVERSATIONS, schemas.WEIGHTED_CONVERSATIONS or schemas.DPO_PAIRS.
        measured: the same conversations in another form, whose length decides which rows are left out; None for the
            length of the rows themselves.
        lora: parameters of a new adapter; None trains all weights.
        blocks: whether the policy writes state and action blocks.
        threads: of each process; None takes all cores, divided among the processes.
    """

    kind: Literal["sft", "dpo"]
    name: str
    base: Policy
    start: Policy | None
    rows: DataFrame
    measured: DataFrame | None
    config: FineTuning | Preference
    lora: LoraSettings | None
    blocks: bool
    seed: int
    threads: int | None
    launcher: Launcher

    def fingerprint_inputs(self) -> dict[str, Any]:
        """Return the arguments that determine the weights, as JSON."""
        return {
            **self._settings(),
            "base": identity(self.base),
            "start": identity(self.start),
            "rows": table_digest(self.rows),
            "measured": None if self.measured is None else table_digest(self.measured),
        }

    def write(self, folder: Path) -> None:
        """Write the job to a new folder; policies are written as paths with their cards."""
        folder.mkdir()
        policies = {"base": _policy_fields(self.base), "start": self.start and _policy_fields(self.start)}
        self.rows.to_parquet(folder / ROWS)
        if self.measured is not None:
            self.measured.to_parquet(folder / MEASURED)
        (folder / JOB).write_text(json.dumps(self._settings() | policies, indent=1))

    @classmethod
    def read(cls, folder: Path) -> TrainingJob:
        """Read the job that `write` wrote."""
        fields = json.loads((folder / JOB).read_text())
        config: type[FineTuning | Preference] = Preference if fields["kind"] == "dpo" else FineTuning
        lora = fields["lora"]
        return cls(
            **fields
            | {
                "base": _read_policy(fields["base"]),
                "start": _read_policy(fields["start"]) if fields["start"] else None,
                "rows": pd.read_parquet(folder / ROWS, dtype_backend="pyarrow"),
                "measured": pd.read_parquet(folder / MEASURED, dtype_backend="pyarrow")
                if (folder / MEASURED).exists()
                else None,
                "config": config.model_validate(fields["config"]),
                "lora": LoraSettings.model_validate(lora) if lora else None,
                "launcher": Launcher.model_validate(fields["launcher"]),
            }
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "config": self.config.model_dump(mode="json"),
            "lora": self.lora and self.lora.model_dump(mode="json"),
            "blocks": self.blocks,
            "seed": self.seed,
            "threads": self.threads,
            "launcher": self.launcher.model_dump(mode="json"),
        }


def _policy_fields(policy: Policy) -> dict[str, Any]:
    """Return a policy as JSON. With its card, because a base in the hub's cache has none in its folder."""
    return {"path": str(policy.path.resolve()), "card": policy.card.as_dict()}


def _read_policy(fields: Mapping[str, Any]) -> Policy:
    return Policy(Path(fields["path"]), PolicyCard(**fields["card"]))


def table_digest(table: DataFrame) -> str:
    """Return the sha256 of the rows of a table."""
    digest = hashlib.sha256()
    for batch in to_arrow(table).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
