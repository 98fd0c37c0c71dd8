"""The arena: people judge pairs of dialogues blind, in a page on their own machine (paper §3.6)."""
