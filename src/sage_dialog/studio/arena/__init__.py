"""People as judges: a page that shows two dialogues blind, and what becomes of the votes (paper §3.6)."""
