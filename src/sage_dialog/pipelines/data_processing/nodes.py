"""Raw months and CSVs become tables."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path

from sage_dialog.config import DataProcessing
from sage_dialog.core.tables import Table, table

logger = logging.getLogger(__name__)


def make_dialogues(
    reddit_dumps: dict[str, Path], data_processing: DataProcessing, scratch: str
) -> tuple[Table, Table, Table]:
    """Reddit dialogues and the tables that explain what was left out (paper §3.1).

    Args:
        reddit_dumps: `RC_YYYY-MM` and `RS_YYYY-MM` files by name.
        data_processing: the rules, and who carries them out.
        scratch: finished months and buckets are kept here, so that a killed run goes on.

    Returns:
        Tables of `schemas.DIALOGUES`, `schemas.FILTER_REPORT` and `schemas.REJECTED_LINES`.
    """
    if data_processing.executor == "spark":
        from sage_dialog.corpora.reddit.spark import read_dialogues_on_spark as read
    else:
        from sage_dialog.corpora.reddit.run import read_dialogues

        read = partial(read_dialogues, workers=data_processing.workers)
    limit = data_processing.max_reject_share
    tables = read(reddit_dumps, data_processing.reddit, scratch=Path(scratch), max_reject_share=limit)
    if not len(tables.dialogues):
        logger.warning("No Reddit dialogue passed the rules; `filter_report` says which rule took what.")
    return tuple(tables)


def draw_funnel(filter_report: Table) -> bytes:
    """A table of `schemas.FILTER_REPORT` as a picture, PNG: what each rule took, from the lines to the dialogues."""
    from sage_dialog.corpora.reddit.funnel_figure import funnel_figure

    return funnel_figure(filter_report.to_pylist())


def make_situations(empathetic_dialogues: dict[str, Path]) -> Table:
    """The situations that open played dialogues, as a table of `schemas.SITUATIONS`.

    Args:
        empathetic_dialogues: `train.csv`, `valid.csv`, `test.csv` by name.
    """
    from sage_dialog.corpora.empathetic import read_situations
    from sage_dialog.schemas import SITUATIONS

    situations, _ = read_situations(empathetic_dialogues)
    return table([asdict(situation) for situation in situations], SITUATIONS)
