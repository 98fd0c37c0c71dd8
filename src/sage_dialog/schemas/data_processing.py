"""Tables of data processing."""

import pyarrow as pa

from sage_dialog.schemas.columns import BOOL, FLOAT64, INT32, INT64, STRING, intent, nullable, required, schema, sources

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

LABELS = pa.list_(pa.struct(required(name=STRING, value=STRING)))
"""Labels by the names and values of a corpus."""

CORPUS_TURN = pa.struct(required(role=STRING, text=STRING, **intent(""), **sources(), labels=LABELS))

CORPUS_DIALOGUES = schema(
    dialogue_id=STRING,
    corpus=STRING,
    split=STRING,
    labels=LABELS,  # of the whole dialogue
    turns=pa.list_(CORPUS_TURN),  # as published: a role may speak several times in a row
)

CORPUS_REJECTS = schema(
    corpus=STRING,
    record=STRING,  # a file and the place in it
    unit=STRING,  # "dialogue" or "label"
    reason=STRING,
)

TEXT_DUPLICATES = schema(
    dialogue_id=STRING,
    source=STRING,
    split=STRING,
    kind=STRING,  # "exact" or "near"
    overlap=FLOAT64,
    copy_of=STRING,
    copy_source=STRING,
    copy_split=STRING,
    removed=BOOL,  # from the training data
)
