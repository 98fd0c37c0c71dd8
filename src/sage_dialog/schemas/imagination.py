"""Tables of imagined dialogues."""

import pyarrow as pa

from sage_dialog.schemas.columns import (
    BOOL,
    FLOAT64,
    INT32,
    MESSAGES,
    STRING,
    STRINGS,
    nullable,
    nullable_floats,
    required,
    schema,
)

VARIABLES = pa.list_(pa.field("element", pa.struct(required(name=STRING, value=STRING)), nullable=False))

PERSONAS = schema(
    persona_id=STRING,
    task=STRING,
    text=STRING,  # the user in words
    shared=VARIABLES,  # what both sides know
    hidden=VARIABLES,  # what the user alone knows
    author=STRING,  # the role that wrote it
)

IMAGINED_DIALOGUES = schema(
    dialogue_id=STRING,
    task=STRING,
    persona_id=STRING,
    author=STRING,
    messages=MESSAGES,  # text without blocks; empty where there is no dialogue
    last_state=VARIABLES,  # of the user at the end, by the task's rules; empty where no rules made the dialogue
    invalid_reason=nullable(STRING),  # why there is no dialogue
)

CRITIQUES = schema(
    dialogue_id=STRING,
    task=STRING,
    critic=STRING,
    verdict=STRING,  # "keep", "rewrite" or "drop"
    faults=STRINGS,
    messages=MESSAGES,  # after the critique; empty where the dialogue is dropped
    last_state=VARIABLES,  # of the user at the end
)

REWARDS = schema(
    dialogue_id=STRING,
    task=STRING,
    replies=INT32,  # messages of the agent
    reward=FLOAT64,
    success=BOOL,
)

PERSONA_DIVERSITY = schema(task=STRING, statistic=STRING, n=INT32, value=FLOAT64)

CRITIQUE_EFFECTS = schema(
    task=STRING,
    statistic=STRING,
    n_before=INT32,  # dialogues before the critique
    **nullable_floats("before"),
    n_after=INT32,  # dialogues that it keeps
    **nullable_floats("after"),
)

NEGOTIATIONS = schema(
    record=STRING,  # file and line
    negotiation_id=STRING,  # the same from both sides
    split=STRING,
    counts=pa.list_(INT32),  # of books, hats and balls
    values=pa.list_(INT32),  # of an item to this side
    partner_values=pa.list_(INT32),
    messages=MESSAGES,  # this side is the assistant
    agreed=BOOL,
    taken=nullable(pa.list_(INT32)),  # items that this side gets
    selected=nullable(pa.list_(INT32)),  # items that this side chose
    reward=INT32,  # of this side, out of 10; 0 without an agreement
    partner_reward=INT32,
)

NEGOTIATION_REJECTS = schema(record=STRING, reason=STRING)
