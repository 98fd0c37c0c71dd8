"""Tables of the SAC augmentation."""

from sage_dialog.schemas.columns import BOOL, INT32, MESSAGES, STRING, intent, nullable, schema, sources

ANNOTATIONS = schema(
    dialogue_id=STRING,
    turn=INT32,
    role=STRING,
    **intent(""),
    text=STRING,
    original_text=STRING,
    kept_original=BOOL,  # the annotator's wording differs in meaning
    annotator=STRING,
    **sources(),  # "human", "silver" or "annotator"
)

ANNOTATION_REJECTS = schema(dialogue_id=STRING, reason=STRING, raw_response=nullable(STRING))

SFT_CONVERSATIONS = schema(conversation_id=STRING, source=STRING, messages=MESSAGES)

MIX_REJECTS = schema(
    source=STRING,
    record=STRING,  # a dialogue's or situation's id, or a file and the place in it
    reason=STRING,
)
