"""Tables of SFT and preference learning."""

from sage_dialog.schemas.columns import FLOAT64, INT32, INT64, MESSAGES, STRING, nullable, nullable_floats, schema

DPO_PAIRS = schema(situation_id=STRING, turn=INT32, prompt=MESSAGES, chosen=STRING, rejected=STRING)

TRAINING_REJECTS = schema(
    row=STRING,  # a conversation's id, or a pair's situation and turn
    tokens=INT32,  # of a pair, of the longer side; of an ablation, with the whole chain
    max_length=INT32,
)

TRAINING_LOG = schema(
    step=INT32,  # updates so far
    split=STRING,  # "train": the mean since the row before; "held out": the whole split
    epoch=FLOAT64,
    tokens=INT64,  # trained on so far, without padding
    loss=FLOAT64,
    **nullable_floats("learning_rate", "grad_norm"),  # null where nothing is trained
    router_aux_loss=nullable(FLOAT64),  # of a mixture of experts
    token_accuracy=nullable(FLOAT64),
    **nullable_floats("preference_accuracy", "preference_margin"),  # of preference learning only
)
