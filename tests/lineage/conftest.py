from run_records import keep, runs  # noqa: F401  # fixtures
