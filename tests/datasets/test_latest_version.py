"""An incomplete version, or a folder without the name of a run, is never the latest; a warning names it."""

import json
import logging
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from kedro.io import DatasetError, Version

from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.datasets import atomic
from sage_dialog.datasets.figure import PNG_BEGIN, PNG_END, AtomicFigure
from sage_dialog.datasets.files import AtomicText
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.policy import PolicyDirectory

OLD, NEW, NEWER, EMPTY = (f"2026-03-0{day}T12.00.00.000Z" for day in (1, 2, 3, 4))
LATEST = Version(None, None)
PNG = PNG_BEGIN + b"0" * 20 + PNG_END


@pytest.fixture(autouse=True)
def _reset_warnings() -> None:
    atomic._warn_once.cache_clear()


def parquet(folder: Path, version: Version = LATEST) -> AtomicParquet:
    return AtomicParquet(filepath=str(folder / "n.parquet"), version=version)


def safetensors(length: int = 16) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"x" * length


def save_policy(folder: Path, version: str) -> Path:
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "adapter_model.safetensors").write_bytes(safetensors())
    policy = Policy.write_card(source, PolicyCard("sage_1", "adapter", True, "sage_0", "abc"))
    PolicyDirectory(filepath=str(folder / "sage_1"), version=Version(None, version)).save(policy)
    return folder / "sage_1" / version / "sage_1"


@pytest.mark.parametrize("keep", [0, 3, 11, 100, -1, -5], ids=str)
def test_a_table_cut_anywhere_is_skipped_and_named(tmp_path: Path, caplog, keep: int) -> None:
    for version in (OLD, NEW):
        parquet(tmp_path, Version(None, version)).save(pd.DataFrame({"version": [version] * 100}))
    cut = tmp_path / "n.parquet" / NEW / "n.parquet"
    cut.write_bytes(cut.read_bytes()[:keep])
    assert parquet(tmp_path).load()["version"][0] == OLD
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert str(cut) in warning.message and OLD in warning.message


def test_a_folder_without_the_name_of_a_run_is_skipped(tmp_path: Path, caplog) -> None:
    parquet(tmp_path, Version(None, OLD)).save(pd.DataFrame({"n": [1]}))
    for name in ("backup", f"{NEW}.bak", "9999-01-01", ".2026-03-09T12.00.00.000Z.gone"):
        parquet(tmp_path, Version(None, name)).save(pd.DataFrame({"n": [2]}))
    assert parquet(tmp_path).resolve_load_version() == OLD
    named = " ".join(record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert "'backup'" in named and f"'{NEW}.bak'" in named and "'9999-01-01'" in named and "gone" not in named
    assert parquet(tmp_path, Version("backup", None)).load()["n"].tolist() == [2]  # opened by its name


def test_without_a_complete_version_nothing_exists_and_the_error_says_why(tmp_path: Path) -> None:
    file = tmp_path / "n.parquet" / OLD / "n.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PAR1")
    assert not parquet(tmp_path).exists()
    with pytest.raises(DatasetError, match="no complete version") as refusal:
        parquet(tmp_path).load()
    assert str(file) in str(refusal.value) and f"Remove {file.parent}" in str(refusal.value)


def test_a_pinned_version_is_never_replaced_by_another(tmp_path: Path) -> None:
    for version in (OLD, NEW):
        parquet(tmp_path, Version(None, version)).save(pd.DataFrame({"n": [1]}))
    cut = tmp_path / "n.parquet" / NEW / "n.parquet"
    cut.write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=NEW):
        parquet(tmp_path, Version(NEW, None)).load()


def test_incomplete_versions_on_an_object_store_are_skipped(caplog) -> None:
    address = "memory://versions/remote_n.parquet"
    for version in (OLD, NEW):
        AtomicParquet(filepath=address, version=Version(None, version)).save(pd.DataFrame({"version": [version]}))
    fsspec.filesystem("memory").pipe_file(f"/remote_n.parquet/{NEW}/remote_n.parquet", b"PAR1 and then PAR1")
    dataset = AtomicParquet(filepath=address, version=LATEST)
    assert dataset.load()["version"].tolist() == [OLD]
    assert NEW in caplog.text
    assert dataset.content(OLD).bytes > 100 and len(dataset.content(OLD).sha256) == 64


def test_a_policy_with_missing_weights_is_skipped(tmp_path: Path, caplog) -> None:
    save_policy(tmp_path, OLD)
    (save_policy(tmp_path, NEW) / "adapter_model.safetensors").write_bytes(safetensors(15))
    (save_policy(tmp_path, EMPTY) / "adapter_model.safetensors").write_bytes(b"")
    (save_policy(tmp_path, NEWER) / "adapter_model.safetensors").unlink()
    dataset = PolicyDirectory(filepath=str(tmp_path / "sage_1"), version=LATEST)
    assert dataset.load().path.parent.name == OLD
    assert "adapter_model.safetensors is cut off: 85 of 86" in caplog.text
    assert "adapter_model.safetensors is cut off: it is empty" in caplog.text
    assert "no weights" in caplog.text


def test_incomplete_images_and_texts_are_skipped(tmp_path: Path, caplog) -> None:
    image = str(tmp_path / "figure.png")
    text = str(tmp_path / "report.html")
    AtomicFigure(filepath=image, version=Version(None, OLD)).save(PNG)
    AtomicText(filepath=text, version=Version(None, OLD)).save("<p>")
    for path, content in ((image, PNG[:-1]), (text, b"")):
        file = Path(path) / NEW / Path(path).name
        file.parent.mkdir()
        file.write_bytes(content)
    assert AtomicFigure(filepath=image, version=LATEST).load() == PNG
    assert AtomicText(filepath=text, version=LATEST).load() == "<p>"
    assert "no complete PNG" in caplog.text and "it is empty" in caplog.text


def test_a_run_loads_what_it_saved_though_a_later_run_has_saved_meanwhile(tmp_path: Path) -> None:
    parquet(tmp_path, Version(None, NEW)).save(pd.DataFrame({"n": [2]}))  # by another run, begun later
    ours = parquet(tmp_path, Version(None, OLD))
    assert ours.resolve_load_version() == NEW
    ours.save(pd.DataFrame({"n": [1]}))
    assert ours.load()["n"].tolist() == [1]
    assert parquet(tmp_path, Version(None, OLD)).load()["n"].tolist() == [1]  # in another process of the run
