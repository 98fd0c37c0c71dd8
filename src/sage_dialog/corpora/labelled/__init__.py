"""Corpora of dialogues with labels, and the user's own dialogues, as published."""

from sage_dialog.corpora.labelled.reading import FOLDERS, read_corpora

__all__ = ["FOLDERS", "read_corpora"]
