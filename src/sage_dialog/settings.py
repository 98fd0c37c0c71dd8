"""Settings that Kedro reads when the project starts: hooks, and how configuration is merged."""

import copy
import os
from collections.abc import Iterator
from typing import Any

from kedro.config import OmegaConfigLoader

from sage_dialog.core.paths import project_folder
from sage_dialog.core.recipe import recipe_pairs

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


class CachedConfigLoader(OmegaConfigLoader):
    """Reads each kind of configuration once: Kedro and the hooks take it many times in one run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loaded: dict[str, dict[str, Any]] = {}
        super().__init__(*args, **kwargs)

    def __getitem__(self, key: str) -> dict[str, Any]:
        if key in self:  # set by a hook
            return super().__getitem__(key)
        if key not in self._loaded:
            self._loaded[key] = super().__getitem__(key)
        return copy.deepcopy(self._loaded[key])


CONFIG_LOADER_CLASS = CachedConfigLoader
CONFIG_LOADER_ARGS = {
    "config_patterns": {"mlflow": ["mlflow*"], "openlineage": ["openlineage*"]},
    "base_env": "base",
    "default_run_env": "local",
    # An environment sets only the parameters that it changes; their siblings keep the values of base.
    "merge_strategy": {"parameters": "soft"},
    # ${env:NAME, default} in catalogs and globals (OmegaConf's own oc.env is kept for credentials), ${text:FILE} and
    # ${recipe_pairs:ITERATIONS} in parameters.
    "custom_resolvers": {
        "env": lambda name, default=None: os.environ.get(name, default),
        "text": read_text,
        "recipe_pairs": lambda iterations: recipe_pairs(iterations) if isinstance(iterations, int) else [],
    },
}
