"""A policy behind an OpenAI-compatible API."""
