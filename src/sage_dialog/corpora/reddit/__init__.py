"""Raw Reddit months become dialogues, and a report that explains every line, comment and path left out."""

from sage_dialog.corpora.reddit.dialogues import read_dialogues

__all__ = ["read_dialogues"]
