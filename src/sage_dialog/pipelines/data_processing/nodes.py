"""Raw months and CSVs become tables."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from sage_dialog.parameters import DataProcessing
from sage_dialog.tables import Table, table

logger = logging.getLogger(__name__)


def make_dialogues(reddit_dumps: dict[str, Path], data_processing: DataProcessing) -> tuple[Table, Table]:
    """Reddit dialogues and the report that explains what was left out (paper §3.1).

    Args:
        reddit_dumps: `RC_YYYY-MM` and `RS_YYYY-MM` files by name.
        data_processing: the thresholds.

    Returns:
        Tables of `schemas.DIALOGUES` and `schemas.FILTER_REPORT`.
    """
    from sage_dialog.corpora.reddit import read_dialogues
    from sage_dialog.schemas import DIALOGUES, FILTER_REPORT

    dialogues, report = read_dialogues(reddit_dumps, data_processing.reddit)
    if not dialogues:
        logger.warning("No Reddit dialogue passed the rules; `filter_report` says which rule took what.")
    return table(dialogues, DIALOGUES), table(report, FILTER_REPORT)


def make_situations(empathetic_dialogues: dict[str, Path]) -> Table:
    """The situations that open played dialogues, as a table of `schemas.SITUATIONS`.

    Args:
        empathetic_dialogues: `train.csv`, `valid.csv`, `test.csv` by name.
    """
    from sage_dialog.corpora.empathetic import read_situations
    from sage_dialog.schemas import SITUATIONS

    situations, _ = read_situations(empathetic_dialogues)
    return table([asdict(situation) for situation in situations], SITUATIONS)
