"""Settings that Kedro reads when the project starts: hooks, and how configuration is merged."""

import os
from collections.abc import Iterator

from sage_dialog.core.paths import project_folder

# No library sends telemetry, and forked data workers do not warn about the tokenizers' threads.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Waiting OpenMP threads spin only briefly: as fast on an idle machine, and much faster on a busy one.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


class ProjectHooks:
    """The project's hooks, imported when a session registers them: commands without a session start sooner."""

    def __iter__(self) -> Iterator[object]:
        from sage_dialog.hooks import HOOKS

        return iter(HOOKS)


HOOKS = ProjectHooks()
# kedro-mlflow's hook tracks every run wherever it is installed; `Tracking` uses it only where there is an mlflow.yml.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-mlflow", "kedro_mlflow")


def read_text(file: str) -> str:
    """Return the text of a file of the project, without white space around it."""
    try:
        return (project_folder() / file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the text file {file} cannot be read: {error}") from error


CONFIG_LOADER_ARGS = {
    "config_patterns": {"mlflow": ["mlflow*"], "openlineage": ["openlineage*"]},
    "base_env": "base",
    "default_run_env": "local",
    # An environment sets only the parameters that it changes; their siblings keep the values of base.
    "merge_strategy": {"parameters": "soft"},
    # ${env:NAME, default} in catalogs and globals (OmegaConf's own oc.env is kept for credentials), ${text:FILE} in
    # parameters.
    "custom_resolvers": {"env": lambda name, default=None: os.environ.get(name, default), "text": read_text},
}
