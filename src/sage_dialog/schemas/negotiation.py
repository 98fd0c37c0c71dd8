"""Tables of Deal or No Deal as a task."""

import pyarrow as pa

from sage_dialog.schemas.columns import BOOL, FLOAT64, INT32, STRING, nullable, required, schema
from sage_dialog.schemas.offline_rl import GOAL_ROLLOUTS

NEGOTIATION_CONTEXTS = schema(
    situation_id=STRING,  # the human negotiation, seen from one side
    negotiation_id=STRING,  # the same from both sides
    counts=pa.list_(INT32),  # of books, hats and balls
    values=pa.list_(INT32),  # of an item to the agent
    partner_values=pa.list_(INT32),
    agent_begins=BOOL,
)

NEGOTIATION_ROLLOUTS = pa.schema(
    [
        *GOAL_ROLLOUTS,
        *required(
            negotiation_id=STRING,
            selected=nullable(pa.list_(INT32)),  # items that the agent chose
            partner_selected=nullable(pa.list_(INT32)),
            partner_reward=FLOAT64,
        ),
    ]
)

NEGOTIATION_COMPARISONS = schema(
    task=STRING,
    statistic=STRING,  # "success", "reward" or "partner reward"
    policy_a=STRING,
    policy_b=STRING,
    n=INT32,  # contexts that both played
    wins_a=INT32,  # contexts in which policy_a has the larger value
    wins_b=INT32,
    difference=FLOAT64,  # of the means
    low=FLOAT64,
    high=FLOAT64,
    p=FLOAT64,  # two-sided paired permutation test
    p_holm=FLOAT64,  # adjusted for all policies of a statistic
)

PARTNER_LIKENESS = schema(
    policy=STRING,  # with which the simulated partner talked
    simulated=INT32,  # its messages
    human=INT32,  # messages of people in the same contexts
    **{name: nullable(FLOAT64) for name in ("value", "low", "high")},  # area under the curve; null with few messages
)
