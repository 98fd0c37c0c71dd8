"""The sections of the report, each an HTML fragment from its own tables."""
