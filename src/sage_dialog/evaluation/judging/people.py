"""Names of people among the judges. Imports no library, so that listing pipelines stays fast."""

PERSON = "human:"
"""Prefix of the judge names of people, who read each pair once, in a random order."""
PEOPLE = "people together"
"""Judge of the rows that pool all raters."""


def is_human(judge: str) -> bool:
    """Return whether a judge is a rater, or all of them: each answer is in one order."""
    return judge == PEOPLE or judge.startswith(PERSON)
