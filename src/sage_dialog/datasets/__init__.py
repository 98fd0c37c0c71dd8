"""Catalog entries: versioned Parquet and policy directories that appear only when whole, raw folders, roles."""
