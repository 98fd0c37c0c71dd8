"""The tables of searches, rollouts and votes as the explorer shows them."""
