"""Asking language models behind OpenAI-compatible servers: every reply kept once, nothing asked twice, spend capped."""
