"""Fixtures of the scripted game, whose dialogues become training data."""

from scripted_game import engine, game, play_alone, say, selector  # noqa: F401
