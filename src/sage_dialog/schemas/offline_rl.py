"""Tables of offline reinforcement learning."""

import pyarrow as pa

from sage_dialog.schemas.columns import (
    BOOL,
    ESTIMATE,
    FLOAT64,
    INT32,
    MESSAGES,
    STRING,
    nullable,
    nullable_floats,
    schema,
)

GOAL_DIALOGUES = schema(
    dialogue_id=STRING,
    task=STRING,
    split=STRING,  # "train", or "valid": neither policies nor the critic are trained on it
    messages=MESSAGES,  # as the agent sees them, blocks included
    replies=INT32,  # messages of the agent
    reward=FLOAT64,
    success=BOOL,
    reply_rewards=nullable(pa.list_(FLOAT64)),  # of each reply, where each has one; else `reward` follows the last
)

ADVANTAGES = schema(
    dialogue_id=STRING,
    task=STRING,
    split=STRING,
    reply=INT32,  # of the agent, counted from 1
    replies=INT32,  # of the dialogue
    value=FLOAT64,  # V at the end of the state block
    action_value=FLOAT64,  # the lower of both Q at the end of the action block
    advantage=FLOAT64,  # how much better the action is than the state: critic.td_weight
    realised=FLOAT64,  # the discounted return from here on
)

WEIGHTED_CONVERSATIONS = schema(
    conversation_id=STRING,
    source=STRING,  # the task
    messages=MESSAGES,
    weights=pa.list_(FLOAT64),  # of each reply in the loss; 1 on average
)

REPLY_COMPARISONS = schema(
    dialogue_id=STRING,  # of rl_rollouts
    turn=INT32,
    candidate=INT32,  # of rl_candidates: the other one
    selector=STRING,
    vote=STRING,  # "reply", "candidate", "tie" or "unreadable"
)

CRITIC_LOG = schema(step=INT32, value_loss=FLOAT64, action_value_loss=FLOAT64)

GOAL_ROLLOUTS = schema(
    policy=STRING,
    task=STRING,
    situation_id=STRING,  # equal for all policies: the same user
    messages=MESSAGES,  # as the agent sees them, blocks included
    hidden=pa.list_(pa.field("element", pa.struct([("name", STRING), ("value", STRING)]), nullable=False)),
    replies=INT32,
    unclear=INT32,  # replies that are none of the task's acts
    reward=FLOAT64,
    success=BOOL,
    value=nullable(FLOAT64),  # V of the first reply, where a critic reads the dialogue
    action_value=nullable(FLOAT64),  # Q of the first action
)

GOAL_SCORES = schema(
    task=STRING,  # "all" for all tasks together
    policy=STRING,
    statistic=STRING,
    **ESTIMATE,
)

GOAL_COMPARISONS = schema(
    task=STRING,
    policy_a=STRING,
    policy_b=STRING,
    n=INT32,  # situations that both played
    wins_a=INT32,  # situations in which only policy_a succeeds
    wins_b=INT32,
    p=FLOAT64,  # exact two-sided sign test
    p_holm=FLOAT64,  # adjusted for all comparisons of a task
)

VALUE_CALIBRATION = schema(
    source=STRING,  # "held out", or a policy
    task=STRING,
    n=INT32,
    **nullable_floats("intercept", "slope", "slope_low", "slope_high", "correlation"),
    mean_predicted=FLOAT64,
    mean_realised=FLOAT64,
)
