"""Talking with policies and judging them: chat and arena."""
