"""Measures of an agent's replies: emotions, actions, diversity, failures, steering (paper §4)."""
