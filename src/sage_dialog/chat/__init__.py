"""Talking with a policy."""
