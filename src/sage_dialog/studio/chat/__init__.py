"""The chat with a policy."""
