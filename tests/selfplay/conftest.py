"""Fixtures of the scripted game, and the small policies."""

from scripted_game import engine, game, play_to_end, policies, say, search_config, selector, situations  # noqa: F401
from tiny_policies import adapters, base  # noqa: F401
