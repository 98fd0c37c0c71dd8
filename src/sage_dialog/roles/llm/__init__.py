"""Annotator, selector and judge by a language model on a server."""
