"""Conversion of a complete model to GGUF, the format of llama.cpp, by llama.cpp's own converter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sage_dialog.lineage.formatting import printable

CONVERTERS = ("convert_hf_to_gguf.py", "llama-convert-hf-to-gguf")
"""Names of the converter, in the repository and in packages of llama.cpp."""

FORMATS = ("f32", "f16", "bf16", "q8_0")
"""Number formats that the converter writes; others are made from these by llama-quantize."""

_MAGIC = b"GGUF"
_ERROR_LINES = 5


def find_converter(file: Path | None) -> list[str]:
    """Return the command of the converter: a file, or else the first of `CONVERTERS` on PATH.

    A file that is not executable is run by this Python.

    Raises:
        FileNotFoundError: if there is none.
    """
    if file is None:
        found = next(filter(None, map(shutil.which, CONVERTERS)), None)
        if found is None:
            raise FileNotFoundError(
                f"GGUF is written by llama.cpp's converter, and there is no {CONVERTERS[0]} on PATH. Get "
                "https://github.com/ggml-org/llama.cpp with the Python packages of its converter, and name the file "
                "by --converter"
            )
        return [found]
    if not file.is_file():
        raise FileNotFoundError(f"--converter: there is no file {file}")
    path = str(file.absolute())
    return [path] if os.access(path, os.X_OK) else [sys.executable, path]


def convert_to_gguf(converter: Sequence[str], model: Path, number_format: str, out: Path) -> None:
    """Convert a complete model in a folder to the file `out`.

    Args:
        converter: from `find_converter`.
        number_format: one of `FORMATS`.

    Raises:
        ValueError: if the converter fails or writes no GGUF file; with its last lines.
    """
    finished = subprocess.run(
        [*converter, str(model.absolute()), "--outfile", str(out.absolute()), "--outtype", number_format],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    fault = f"ended with exit code {finished.returncode}" if finished.returncode else None
    if fault is None and not _is_gguf(out):
        fault = "wrote no GGUF file"
    if fault:
        lines = [printable(line) for line in finished.stdout.splitlines() if line.strip()]
        raise ValueError(
            f"the converter {converter[-1]} {fault}. Its last lines:\n"
            + "\n".join(f"  {line}" for line in lines[-_ERROR_LINES:] or ["(none)"])
        )


def _is_gguf(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC
