"""Corpora of dialogues with labels, and the user's own dialogues, as published."""

from sage_dialog.corpora.labelled.reading import read_corpora

__all__ = ["read_corpora"]
