"""Sampling over HTTP, from vLLM and other completions servers."""
