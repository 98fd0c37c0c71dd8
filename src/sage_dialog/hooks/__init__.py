"""Hooks of a run: validation, inputs, budget, progress, run records, MLflow."""
