"""A generated world: raw data, a base model, and the truth about every situation."""
