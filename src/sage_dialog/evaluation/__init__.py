"""Evaluation of rollouts: votes, statistics, figures and the report (paper §3.6, §4)."""
