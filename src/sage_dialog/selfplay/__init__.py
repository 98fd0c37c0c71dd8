"""The dialogue game: an agent and a simulated user, candidate search, and what training takes from it."""
