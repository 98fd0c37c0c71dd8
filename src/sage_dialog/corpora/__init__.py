"""Outside data read into the project's tables: Reddit dumps, EmpatheticDialogues, conversation files."""
