"""The stages: each names its data and calls the library."""
