"""Raw months and CSVs become tables."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from sage_dialog import schemas
from sage_dialog.corpora.empathetic import read_situations
from sage_dialog.corpora.reddit import read_dialogues
from sage_dialog.parameters import DataProcessing

logger = logging.getLogger(__name__)


def make_dialogues(reddit_dumps: dict[str, Path], data_processing: DataProcessing) -> tuple[pa.Table, pa.Table]:
    """Reddit dialogues and the report that explains what was left out (paper §3.1).

    Args:
        reddit_dumps: `RC_YYYY-MM` and `RS_YYYY-MM` files by name.
        data_processing: the thresholds.

    Returns:
        Tables of `schemas.DIALOGUES` and `schemas.FILTER_REPORT`.
    """
    dialogues, report = read_dialogues(reddit_dumps, data_processing.reddit)
    if not dialogues:
        logger.warning("No Reddit dialogue passed the rules; `filter_report` says which rule took what.")
    return (
        pa.Table.from_pylist(dialogues, schema=schemas.DIALOGUES),
        pa.Table.from_pylist(report, schema=schemas.FILTER_REPORT),
    )


def make_situations(empathetic_dialogues: dict[str, Path]) -> pa.Table:
    """The situations that open played dialogues, as a table of `schemas.SITUATIONS`.

    Args:
        empathetic_dialogues: `train.csv`, `valid.csv`, `test.csv` by name.
    """
    situations, _ = read_situations(empathetic_dialogues)
    return pa.Table.from_pylist([asdict(situation) for situation in situations], schema=schemas.SITUATIONS)
