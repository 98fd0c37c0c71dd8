"""Clients of OpenAI-compatible servers, with a response cache and hard caps on calls, tokens and money."""
