"""Measures of policies on held-out conversations of people, without a judge."""
