"""Reddit months become dialogues, and tables that account for every line, comment and path left out."""

from sage_dialog.corpora.reddit.job import RedditTables
from sage_dialog.corpora.reddit.run import read_dialogues

__all__ = ["RedditTables", "read_dialogues"]
