"""Annotator, selector and judge: a protocol each, a version that asks a language model and one that needs none."""
