"""Tables of self-play."""

from sage_dialog.schemas.columns import BOOL, INT32, STRING, intent, nullable, schema

CANDIDATES = schema(
    situation_id=STRING,
    turn=INT32,
    candidate=INT32,
    text=STRING,  # as sampled, with its blocks
    utterance=nullable(STRING),
    **intent("u_"),
    **intent("a_"),
    valid=BOOL,
    invalid_reason=nullable(STRING),
    chosen=BOOL,
)

TRAJECTORIES = schema(
    situation_id=STRING,
    turn=INT32,
    role=STRING,  # "user" or "assistant"
    text=STRING,  # what the other side reads
    content=STRING,  # what the policy wrote, blocks included
    **intent("u_"),
    **intent("a_"),
    outcome=STRING,  # how the dialogue ended, equal on all its rows
)
