"""A generated world: raw data, a base model, and what is true of every situation in it."""
