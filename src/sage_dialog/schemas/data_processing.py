"""Tables of data processing."""

import pyarrow as pa

from sage_dialog.schemas.columns import FLOAT64, INT32, INT64, STRING, nullable, required, schema

TURN = pa.struct(
    required(
        comment_id=STRING,
        author=nullable(STRING),  # hashed; null where unknown
        text=STRING,
    )
)

DIALOGUES = schema(
    dialogue_id=STRING,
    subreddit=STRING,
    link_id=STRING,
    month=STRING,
    turns=pa.list_(TURN),
    n_turns=INT32,
    mean_words=FLOAT64,
    min_sentiment=FLOAT64,
)

FILTER_REPORT = schema(
    month=STRING,
    step=INT32,
    rule=STRING,
    unit=STRING,  # "line", "comment" or "path"
    n_in=INT64,
    n_removed=INT64,
)

REJECTED_LINES = schema(
    month=STRING,
    file=STRING,
    line=INT64,  # from 1
    reason=STRING,
    excerpt=STRING,
)

SITUATIONS = schema(situation_id=STRING, split=STRING, emotion=STRING, text=STRING)
