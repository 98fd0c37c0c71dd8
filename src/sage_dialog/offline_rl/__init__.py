"""Offline reinforcement learning at the level of the action block: dialogues with returns, a critic, ways to act."""
