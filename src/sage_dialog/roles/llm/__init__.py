"""Annotator, selector and judge by a language model behind a server."""
