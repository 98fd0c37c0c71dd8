"""A fingerprint changes with the inputs and with the code."""

from collections.abc import Callable
from pathlib import Path

import pytest

import sage_dialog
from sage_dialog.core.hashing import fingerprint


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two folders in place of this one."""
    for file in ("__init__.py", "selfplay/search.py", "roles/words.toml", "roles/__pycache__/play.pyc"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    monkeypatch.setattr(sage_dialog, "__file__", str(tmp_path / "__init__.py"))
    return tmp_path


def test_a_fingerprint_depends_on_the_inputs_alone(package: Path) -> None:
    assert fingerprint({"seed": 1, "config": [2]}) == fingerprint({"config": [2], "seed": 1})
    assert len({fingerprint(inputs) for inputs in ({}, {"seed": 1}, {"seed": 2}, {"seed": "1"})}) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda package: (package / "selfplay/search.py").write_text("otherwise"),
        lambda package: (package / "roles/words.toml").write_text("another word"),
        lambda package: (package / "roles/words.toml").rename(package / "roles/renamed.toml"),
        lambda package: (package / "roles/new.py").touch(),
        lambda package: (package / "roles/words.toml").unlink(),
    ],
)
def test_a_change_of_code_or_word_lists_is_another(package: Path, change: Callable[[Path], object]) -> None:
    before, of_one_folder = fingerprint({}), fingerprint({}, "generation", "sac/chain.py")
    change(package)
    assert fingerprint({}) != before
    assert fingerprint({}, "generation", "sac/chain.py") == of_one_folder


def test_compiled_code_does_not_count(package: Path) -> None:
    before = fingerprint({})
    (package / "roles/__pycache__/play.pyc").write_bytes(b"compiled anew")
    assert fingerprint({}) == before
