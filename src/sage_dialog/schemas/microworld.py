"""Tables of the microworld."""

from sage_dialog.schemas.columns import STRING, STRINGS, schema

BASE_CORPUS = schema(document=STRING)  # JSON: {"text"} or {"messages"}

WORLD_TRUTH = schema(
    situation_id=STRING,
    split=STRING,
    emotion=STRING,
    topic=STRING,
    suitable=STRINGS,  # motivations that suit the situation
)
