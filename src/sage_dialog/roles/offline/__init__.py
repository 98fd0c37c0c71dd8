"""Annotator, selector and judge by rules and word lists."""
