"""Tables of rollouts and of measures of the policies' replies."""

import pyarrow as pa

from sage_dialog.schemas.columns import (
    BOOL,
    ESTIMATE,
    FLOAT64,
    INT32,
    INTERVAL,
    SHARE,
    STRING,
    STRINGS,
    intent,
    nullable,
    nullable_floats,
    schema,
)
from sage_dialog.schemas.self_play import TRAJECTORIES

# The policy of an external model is its name in the catalog.
ROLLOUTS = pa.unify_schemas([schema(policy=STRING), TRAJECTORIES])

REPLIES = schema(
    policy=STRING,
    situation_id=STRING,
    exchange=INT32,  # 1 = the reply to the situation itself
    text=STRING,  # what the user reads
    user_text=STRING,  # what the user wrote since the reply before
    blocks=BOOL,  # whether the policy writes blocks
    **intent("u_"),
    **intent("a_"),
    invalid_reason=nullable(STRING),  # why the blocks do not parse
)

POLICIES = schema(
    policy=STRING,
    kind=STRING,  # "base", "adapter", or "external" for a model behind a chat API
    blocks=BOOL,
    revision=STRING,  # of its own weights; of an external model its name on the servers
    base=STRING,
    base_revision=STRING,
    parent=nullable(STRING),
    parent_revision=nullable(STRING),
)

EMOTION_ACCURACY = schema(
    policy=STRING,
    exchange=INT32,  # 1 = the reply to the situation itself
    n=INT32,
    correct=INT32,
    accuracy=FLOAT64,
    **INTERVAL,
    chance=FLOAT64,
)

MAPPED_EMOTIONS = schema(
    policy=STRING,
    exchange=INT32,
    mapping=INT32,  # version of evaluation/replies/emotion_words.toml
    n=INT32,
    named=INT32,
    mapped=INT32,
    **nullable_floats("coverage", "coverage_low", "coverage_high"),  # null where no reply names an emotion
    correct=INT32,
    accuracy=FLOAT64,
    **INTERVAL,
)

UNMAPPED_EMOTIONS = schema(policy=STRING, emotion=STRING, n=INT32, count=INT32)

EMOTION_CONFUSION = schema(
    policy=STRING,
    label=STRING,
    predicted=STRING,  # a label, "(unmapped)" or "(none)"
    **SHARE,
)

EMOTION_TOP_K = schema(
    policy=STRING,
    searched_before=BOOL,  # an earlier iteration searched these situations
    k=INT32,
    n=INT32,
    candidates=FLOAT64,
    emotions=FLOAT64,
    accuracy=FLOAT64,
    **INTERVAL,
    chance=FLOAT64,
)

ACTION_DISTRIBUTION = schema(
    policy=STRING,
    field=STRING,  # "a_motivation" or "a_emotion"
    value=STRING,
    **SHARE,
)

REPLY_STATISTICS = schema(policy=STRING, statistic=STRING, **ESTIMATE)

ACTION_TRANSITIONS = schema(
    policy=STRING,
    field=STRING,  # "a_motivation" or "a_emotion"
    before=nullable(STRING),  # null: the reply is the first
    after=STRING,
    **SHARE,
    expected=nullable(FLOAT64),
)

DIVERSITY = schema(
    policy=STRING,
    of=STRING,  # "replies" or "actions"
    statistic=STRING,
    **ESTIMATE,
)

FAILURE_MODES = schema(
    policy=STRING,
    failure=STRING,
    rules=INT32,  # version of human_claims.toml, or announced_solutions.toml for "no_solution"
    **SHARE,
)

FAILING_REPLIES = schema(
    policy=STRING,
    failure=STRING,
    situation_id=STRING,
    exchange=INT32,
    why=STRING,
    text=STRING,  # what the user reads
)

FORM_VALIDITY = schema(
    policy=STRING,
    hold_form=BOOL,  # whether the text form of the blocks was held
    openings=INT32,  # version of everyday_openings.toml
    **SHARE,
)

BENCHMARK_SCORES = schema(
    task=STRING,
    part_of=nullable(STRING),  # the group of tasks; null for a task or group that is run by itself
    policy=STRING,
    metric=STRING,
    n=INT32,
    few_shot=INT32,  # worked examples before a question
    higher_is_better=BOOL,
    score=FLOAT64,
    standard_error=nullable(FLOAT64),
    chance=nullable(FLOAT64),  # the expected score of guessing; null where items are not multiple choice
    against=nullable(STRING),  # null, as all below, for the policy that others are compared with
    difference=nullable(FLOAT64),
    relative=nullable(FLOAT64),  # null where the other score is 0
    **nullable_floats("low", "high"),
    lost=nullable(INT32),  # items that only the other gets right; null where items are not right or wrong
    won=nullable(INT32),
    **nullable_floats("p_value", "p_adjusted"),  # adjusted over the tasks of the policy
)

STEERING_GRID = schema(
    policy=STRING,
    situation_id=nullable(STRING),  # null where the situation was typed in
    situation=STRING,
    field=nullable(STRING),  # null, as the next two, in a reply without steering
    labels=nullable(STRINGS),  # the requested ones: one; of "a_topic" one or more
    boost=nullable(FLOAT64),  # of each label; null where the value is fixed
    text=nullable(STRING),  # as sampled, blocks included; null where the prompt left no room
    utterance=nullable(STRING),  # null where the text is no chain
    invalid_reason=nullable(STRING),
    **intent("u_"),
    **intent("a_"),
    annotator=STRING,
    **intent("read_"),  # what the annotator reads in the utterance
    block_compliance=nullable(FLOAT64),  # share of the requested labels in the action block
    reply_compliance=nullable(FLOAT64),  # share that the annotator reads in the reply; null if it has no such label
)

EXTERNAL_SCORES = schema(
    scorer=STRING,
    policy=STRING,
    situation_id=STRING,
    statistic=STRING,
    exchange=INT32,
    value=FLOAT64,
)
