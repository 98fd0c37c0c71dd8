"""GGUF files are written by llama.cpp's converter, which is found, or asked for in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sage_dialog.export.gguf import convert_to_gguf, find_converter


def _script(path: Path, text: str, executable: bool = False) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755 if executable else 0o644)
    return path


def test_the_converter_is_the_named_file_or_the_one_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no convert_hf_to_gguf\.py on PATH"):
        find_converter(None)
    packaged = _script(tmp_path / "bin" / "llama-convert-hf-to-gguf", "", executable=True)
    assert find_converter(None) == [str(packaged)]
    cloned = _script(tmp_path / "bin" / "convert_hf_to_gguf.py", "", executable=True)
    assert find_converter(None) == [str(cloned)]
    named = _script(tmp_path / "mine.py", "")
    assert find_converter(named) == [sys.executable, str(named)]
    with pytest.raises(FileNotFoundError, match="--converter: there is no file"):
        find_converter(tmp_path / "bin")


def test_the_converter_gets_paths_as_single_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import sys; open(sys.argv[3], 'wb').write(b'GGUF' + '|'.join(sys.argv[1:]).encode())"
    converter = _script(tmp_path / "convert.py", text, executable=True)
    monkeypatch.chdir(tmp_path)
    model, out = Path("-o $(touch broken); 'm"), Path("--out `x`.gguf")  # names that a shell or an option parser obeys
    convert_to_gguf(find_converter(converter), model, "bf16", out)
    expected = [str(tmp_path / model), "--outfile", str(tmp_path / out), "--outtype", "bf16"]
    assert out.read_bytes() == b"GGUF" + "|".join(expected).encode()
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("print('a\\x1b[2J line'); raise SystemExit(3)", "ended with exit code 3. Its last lines:\n  a�[2J line"),
        ("import os; os.kill(os.getpid(), 9)", "ended with exit code -9. Its last lines:\n  (none)"),
        ("", "wrote no GGUF file"),
        ("import sys; open(sys.argv[3], 'w').write('<html>')", "wrote no GGUF file"),
    ],
)
def test_a_converter_that_writes_no_gguf_is_an_error(tmp_path: Path, text: str, fault: str) -> None:
    converter = _script(tmp_path / "convert.py", text)
    with pytest.raises(ValueError) as error:
        convert_to_gguf(find_converter(converter), tmp_path, "f32", tmp_path / "out.gguf")
    assert fault in str(error.value) and str(converter) in str(error.value)
