"""Sampling in this process with transformers."""
