"""Annotator, selector and judge: their protocols, an offline version and an LLM version of each."""
