"""Builders of training rows: the mix, refinement, preference pairs."""
