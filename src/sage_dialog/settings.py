"""What Kedro reads when the project starts: its hooks and how configuration is merged."""

import os
from pathlib import Path

from sage_dialog.hooks import InputsGate, Progress, ProjectPaths, SpendingLimit
from sage_dialog.hooks.mlflow import Tracking
from sage_dialog.hooks.run_record import Recorder
from sage_dialog.hooks.validation import LoadVersionValidation, ParameterValidation

# No library reports home, and forked data workers do not trip over the tokenizers' threads.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait for each other spin only briefly: as fast on an idle machine, and not many times slower
# on a busy one.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_SPENDING = SpendingLimit()
HOOKS = (
    ParameterValidation(),
    LoadVersionValidation(),
    _SPENDING,
    InputsGate(),
    ProjectPaths(),
    Progress(),
    Recorder(_SPENDING),
    Tracking(),
)
# Its hook would track every run wherever it is installed; `Tracking` has it do so where an mlflow.yml asks for it.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-mlflow", "kedro_mlflow")

_PROJECT = Path(__file__).resolve().parents[2]


def text_of(file: str) -> str:
    """The words in a text file of the project, without space around them."""
    try:
        return (_PROJECT / file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the text file {file} cannot be read: {error}") from error


CONFIG_LOADER_ARGS = {
    "config_patterns": {"mlflow": ["mlflow*"]},
    "base_env": "base",
    "default_run_env": "local",
    # An environment names the parameters it changes; their siblings stay as base has them.
    "merge_strategy": {"parameters": "soft"},
    # ${env:NAME, default} in catalogs and globals (OmegaConf's own oc.env is kept for credentials), ${text:FILE} in
    # parameters.
    "custom_resolvers": {"env": lambda name, default=None: os.environ.get(name, default), "text": text_of},
}
