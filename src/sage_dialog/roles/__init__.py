"""Annotator, selector and judge: a protocol each, and versions that need no server."""
