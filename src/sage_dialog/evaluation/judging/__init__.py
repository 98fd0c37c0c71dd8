"""Judged pairs: votes, exact tests, rankings, agreement and bias of judges (paper §3.6)."""
