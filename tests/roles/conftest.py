"""A client with scripted responses."""

from scripted_client import prompts, scripted

__all__ = ["prompts", "scripted"]
