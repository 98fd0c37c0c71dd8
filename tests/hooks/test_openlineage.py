"""Environments with an `openlineage.yml`, without the client."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.config import MissingConfigException, OmegaConfigLoader

from sage_dialog.hooks.errors import RunRefused
from sage_dialog.hooks.openlineage import OpenLineageEvents
from sage_dialog.settings import CONFIG_LOADER_ARGS


def test_a_missing_client_is_named_with_the_extra(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    loader = OmegaConfigLoader(str(configured / "conf"), env="openlineage", **CONFIG_LOADER_ARGS)
    context = SimpleNamespace(config_loader=loader, project_path=tmp_path, env="openlineage")
    with pytest.raises(RunRefused, match=r"The environment openlineage has .*pip install '\.\[openlineage\]'"):
        OpenLineageEvents(SimpleNamespace(record=None)).after_context_created(context)  # type: ignore[arg-type]


def test_other_environments_need_no_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client", None)

    class NoFile(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            raise MissingConfigException(name)

    hook = OpenLineageEvents(SimpleNamespace(record=None))  # type: ignore[arg-type]
    hook.after_context_created(SimpleNamespace(config_loader=NoFile(), project_path=tmp_path, env="test"))
    hook.before_pipeline_run()
