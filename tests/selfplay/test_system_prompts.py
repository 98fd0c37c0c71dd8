"""System prompts are text files named by parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click import ClickException
from kedro.framework.session import KedroSession


@pytest.fixture
def system_prompts(configured: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """A function that returns the prompts of conf/base with an environment "other" of given values."""

    def read(environment: dict[str, str], **parameters: Any) -> dict[str, str]:
        conf = tmp_path / "conf"
        conf.mkdir()
        (conf / "base").symlink_to(configured / "conf/base")
        (conf / "other").mkdir()
        lines = "".join(f"    {name}: {value}\n" for name, value in environment.items())
        (conf / "other/parameters_sac_augmentation.yml").write_text(f"sac_augmentation:\n  system_prompts:\n{lines}")
        session = KedroSession.create(
            project_path=tmp_path, conf_source=str(conf), env="other", runtime_params=parameters
        )
        found = session.load_context().params["sac_augmentation"]
        return dict(found.system_prompts)

    return read


def test_an_environment_names_another_file_or_sets_the_text(system_prompts, configured, tmp_path) -> None:
    (tmp_path / "speaker.txt").write_text("\nYou tell\na story: {x}.\n\n")
    found = system_prompts({"speaker": f"${{text:{tmp_path / 'speaker.txt'}}}", "instructions": "You help."})
    kept = (configured / "conf/base/system_prompts/listener.txt").read_text().strip()
    assert found == {"listener": kept, "speaker": "You tell\na story: {x}.", "instructions": "You help."}


def test_a_missing_file_is_named_with_its_parameter(system_prompts) -> None:
    with pytest.raises(ClickException) as refused:
        system_prompts({"speaker": "${text:conf/other/speaker.txt}"})
    assert refused.value.message.splitlines()[1].startswith(
        "  sac_augmentation.system_prompts.speaker: the text file conf/other/speaker.txt cannot be read: "
    )
