"""Names of Pushshift's monthly dumps: `RC_YYYY-MM` for comments, `RS_YYYY-MM` for submissions."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sage_dialog.corpora.compression import SUFFIXES
from sage_dialog.corpora.rejects import InputDataError

logger = logging.getLogger(__name__)

_NAME = re.compile(rf"(?P<kind>RC|RS)_(?P<month>\d{{4}}-(?:0[1-9]|1[0-2]))(?:{'|'.join(map(re.escape, SUFFIXES))})?")


class Dump(NamedTuple):
    """A month's file; `kind` is "RC" (comments) or "RS" (submissions)."""

    month: str
    kind: str
    path: Path


def find_dumps(files: Mapping[str, Path]) -> list[Dump]:
    """Return the dumps among the files, by month, comments before submissions.

    Raises:
        InputDataError: if there is no month of comments, or a month has two files.
    """
    dumps: dict[tuple[str, str], Dump] = {}
    for name, path in sorted(files.items()):
        found = _NAME.fullmatch(name)
        if found is None:
            logger.warning("%s is no Reddit dump (RC_YYYY-MM or RS_YYYY-MM, %s or plain); ignored", name, SUFFIXES)
            continue
        dump = Dump(found["month"], found["kind"], path)
        if (other := dumps.setdefault((dump.month, dump.kind), dump)) is not dump:
            raise InputDataError(f"{other.path} and {path} are dumps of the same month; remove one of them")
    ordered = [dumps[key] for key in sorted(dumps)]
    if not any(dump.kind == "RC" for dump in ordered):
        raise InputDataError(
            f"No Reddit comments among {sorted(files) or 'no files'}: expected RC_YYYY-MM.zst, .bz2, .xz, .gz or plain"
        )
    return ordered
