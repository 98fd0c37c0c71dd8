"""Tables of the evaluation on held-out conversations of people."""

from sage_dialog.schemas.columns import (
    BOOL,
    FLOAT64,
    INT32,
    MESSAGES,
    STRING,
    intent,
    nullable,
    nullable_floats,
    schema,
)

_ITEM = {"item_id": STRING, "dialogue_id": STRING, "corpus": STRING}

REFERENCE_ITEMS = schema(
    **_ITEM,
    split=STRING,
    turn=INT32,  # place of the reply in its dialogue, from 0
    scored=BOOL,
    history=MESSAGES,
    reply=STRING,
    **intent("u_"),  # of the user's message before
    **intent("a_"),
    donor=nullable(STRING),  # the item of another dialogue whose labels the shuffled chain takes
)

REFERENCE_LIKELIHOODS = schema(
    **_ITEM,
    policy=STRING,
    condition=STRING,  # "plain", "marginal", "gold" or "shuffled"
    bits=FLOAT64,
    bytes=INT32,
    chains=INT32,  # scored with the reply; 0 of a policy without blocks
    chain_mass=nullable(FLOAT64),  # their probability; null without blocks
    estimate=STRING,  # "exact", "upper bound" or "upper bound in expectation"
)

REFERENCE_CHAINS = schema(item_id=STRING, policy=STRING, chain=STRING)

REFERENCE_LABELS = schema(
    **_ITEM,
    policy=STRING,  # or "majority", "tfidf" or "tfidf_same"
    field=STRING,  # "u_emotion" or "a_motivation"
    gold=STRING,
    predicted=STRING,
    rank=nullable(INT32),  # of the gold label, from 1; null where training has no such label
    **nullable_floats("probability"),  # of the gold label among the labels of training
)

REFERENCE_REPLIES = schema(
    **_ITEM,
    policy=STRING,  # "human" for what the person wrote
    text=STRING,  # what the user reads
    finished=BOOL,  # false at the token limit
    invalid_reason=nullable(STRING),  # why the blocks do not parse
)

REFERENCE_RESULTS = schema(
    corpus=STRING,
    measure=STRING,
    policy=STRING,
    condition=nullable(STRING),  # of a likelihood
    n=INT32,
    dialogues=INT32,
    value=FLOAT64,
    **nullable_floats("low", "high"),
    estimate=nullable(STRING),  # of a likelihood
    chain_mass=nullable(FLOAT64),
    against=nullable(STRING),  # null, as all below, for a figure by itself
    against_condition=nullable(STRING),
    **nullable_floats("difference", "difference_low", "difference_high"),
    test=nullable(STRING),  # "permutation" or "sign"
    **nullable_floats("p_value", "p_adjusted"),
)
