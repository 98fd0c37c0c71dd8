"""Read dialogues from Reddit months and situations from EmpatheticDialogues."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.config import Corpora, DataProcessing, SameText
from sage_dialog.core.tables import DataFrame, from_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # Kedro resolves the signatures of nodes for every command

logger = logging.getLogger(__name__)


def make_dialogues(
    reddit_dumps: dict[str, Path], data_processing: DataProcessing, scratch: str
) -> tuple[DataFrame, DataFrame, DataFrame]:
    """Return Reddit dialogues and the tables that account for everything left out (paper §3.1).

    Args:
        reddit_dumps: `RC_YYYY-MM` and `RS_YYYY-MM` files by name; none where the catalog entry is optional.
        data_processing: the rules and the executor.
        scratch: folder of finished months and buckets, with which a killed run continues.

    Returns:
        Tables of `schemas.DIALOGUES`, `schemas.FILTER_REPORT` and `schemas.REJECTED_LINES`.
    """
    from sage_dialog.corpora.reddit.funnel import filter_warnings
    from sage_dialog.corpora.reddit.tally import Limits
    from sage_dialog.schemas import DIALOGUES, FILTER_REPORT, REJECTED_LINES

    if not reddit_dumps:
        logger.warning("There are no Reddit dumps; dialogues come from corpora alone")
        return from_rows([], DIALOGUES), from_rows([], FILTER_REPORT), from_rows([], REJECTED_LINES)
    if data_processing.executor == "spark":
        from sage_dialog.corpora.reddit.spark import read_dialogues_on_spark as read
    else:
        from sage_dialog.corpora.reddit.run import read_dialogues

        workers, bucket_comments = data_processing.workers, data_processing.bucket_comments
        read = partial(read_dialogues, workers=workers, bucket_comments=bucket_comments)
    limits = Limits(
        data_processing.max_reject_share, data_processing.max_unread_share, data_processing.require_submissions
    )
    tables = read(reddit_dumps, data_processing.reddit, scratch=Path(scratch), limits=limits)
    for warning in filter_warnings(tables.filter_report):
        logger.warning(warning)
    if tables.dialogues.empty:
        logger.warning("No Reddit dialogue passed the rules; `filter_report` has the counts of each rule.")
    return tuple(tables)


def draw_funnel(filter_report: DataFrame) -> Figure:
    """Draw what each rule removed, from the lines to the dialogues."""
    from sage_dialog.corpora.reddit.funnel_figure import funnel_figure

    return funnel_figure(filter_report)


def make_situations(empathetic_dialogues: dict[str, Path], same_text_situations: SameText) -> DataFrame:
    """Return the situations that open played dialogues, as a table of `schemas.SITUATIONS`.

    Args:
        empathetic_dialogues: `train.csv`, `valid.csv`, `test.csv` by name.
        same_text_situations: which conversations with the same situation are kept, "first" or "all".
    """
    from sage_dialog.corpora.empathetic import read_situations
    from sage_dialog.schemas import SITUATIONS

    situations, _ = read_situations(empathetic_dialogues, same_text_situations)
    return from_rows(map(asdict, situations), SITUATIONS)


def read_labelled_corpora(
    esconv: dict[str, Path],
    dailydialog: dict[str, Path],
    empathetic_dialogues: dict[str, Path],
    empathetic_intents: dict[str, Path],
    own_dialogues: dict[str, Path],
    corpora: Corpora,
) -> tuple[DataFrame, DataFrame]:
    """Return the dialogues of the corpora in use with their labels, and what was left out of them.

    Returns:
        Tables of `schemas.CORPUS_DIALOGUES` and `schemas.CORPUS_REJECTS`.
    """
    from sage_dialog.corpora.labelled import read_corpora

    folders = {
        "esconv": esconv,
        "dailydialog": dailydialog,
        "empathetic_dialogues": empathetic_dialogues,
        "empathetic_intents": empathetic_intents,
        "own_dialogues": own_dialogues,
    }
    return read_corpora(folders, corpora)


def find_text_duplicates(dialogues: DataFrame, corpus_dialogues: DataFrame, corpora: Corpora) -> DataFrame:
    """Return the dialogues of corpora and Reddit that copy another one, as a table of `schemas.TEXT_DUPLICATES`.

    Without a corpus nothing is held out, and nothing is compared.
    """
    from sage_dialog.core.tables import to_rows
    from sage_dialog.corpora.duplicates import SourceText, find_duplicates

    def text(row: dict[str, Any]) -> str:
        return " ".join(turn["text"] for turn in row["turns"])

    texts = [
        SourceText(row["dialogue_id"], row["corpus"], row["split"], text(row)) for row in to_rows(corpus_dialogues)
    ]
    if texts:
        columns = dialogues[["dialogue_id", "turns"]]
        texts += [SourceText(row["dialogue_id"], "reddit", "train", text(row)) for row in to_rows(columns)]
    table = find_duplicates(texts, corpora.duplicates.min_overlap, corpora.duplicates.remove)
    for (source, split, kind, copy_source, copy_split), rows in table.groupby(
        ["source", "split", "kind", "copy_source", "copy_split"]
    ):
        logger.info(
            "%s, %s: %d dialogues are %s copies of %s, %s; %d of them are removed",
            *(source, split, len(rows), kind, copy_source, copy_split, rows["removed"].sum()),
        )
    return table
