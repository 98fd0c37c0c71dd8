"""Catalog types: kedro-datasets with atomic saves; policies, raw folders, roles and engines."""
