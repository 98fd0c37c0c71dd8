"""The dialogue game: an agent and a simulated user, candidate search, rollouts."""
