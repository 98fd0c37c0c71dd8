"""Tables of judges, votes and what follows from them."""

import pyarrow as pa

from sage_dialog.schemas.columns import ESTIMATE, FLOAT64, INT32, INTERVAL, STRING, nullable, nullable_floats, schema

JUDGE_VOTES = schema(
    situation_id=STRING,
    policy_a=STRING,
    policy_b=STRING,
    order=STRING,  # "ab": policy_a's dialogue comes first; "ba": second
    judge=STRING,
    vote=STRING,  # "a", "b" (the policy, not the position), "tie" or "unreadable"
    raw_response=nullable(STRING),
)

VOTE_REJECTS = pa.unify_schemas([JUDGE_VOTES, schema(reason=STRING)])  # votes of people

WIN_RATES = schema(
    judge=STRING,
    policy_a=STRING,
    policy_b=STRING,
    rule=STRING,  # which two answers count as a win: "agreement", "half" or "first_order"
    n=INT32,
    wins_a=INT32,
    ties=INT32,
    wins_b=INT32,
    both_say_tie=INT32,
    inconsistent=INT32,  # the answer changed with the order
    unreadable=INT32,  # situations with such an answer
    **nullable_floats("win_rate_b", "low", "high"),  # of the decided; null where none was
    p_value=FLOAT64,
    p_adjusted=FLOAT64,  # for all pairs of the judge; people are one
)

RANKING = schema(
    judge=STRING,
    group=INT32,  # of policies linked by comparisons
    policy=STRING,
    n=INT32,
    rank=INT32,
    best_rank=INT32,
    worst_rank=INT32,
    score=FLOAT64,  # log-odds, mean 0 in a group
    **INTERVAL,
)

JUDGE_CHECKS = schema(judge=STRING, statistic=STRING, **ESTIMATE, **nullable_floats("by_chance"))

JUDGE_AGREEMENT = schema(
    judge_a=STRING,
    judge_b=STRING,
    policy_a=nullable(STRING),  # null, as the next, for all pairs of policies that both judged
    policy_b=nullable(STRING),
    n=INT32,
    agreement=FLOAT64,
    **INTERVAL,
    **nullable_floats("kappa", "kappa_low", "kappa_high"),
    decided=INT32,  # by both
    **nullable_floats("same_winner", "same_low", "same_high", "same_by_lot"),  # of these
)

RATER_AGREEMENT = schema(
    policy_a=nullable(STRING),  # null, as the next, for all pairs of policies
    policy_b=nullable(STRING),
    raters=INT32,
    n=INT32,  # pairs of dialogues that at least two raters judged
    votes=INT32,
    **nullable_floats("alpha", "low", "high"),
)

LENGTH_CONTROL = schema(
    judge=STRING,
    policy_a=STRING,
    policy_b=STRING,
    n=INT32,  # decided situations; what follows the words is null where there is none
    words_a=FLOAT64,
    words_b=FLOAT64,
    **nullable_floats("b_says_more", "win_rate_b"),
    unequal=INT32,  # decided situations of unequal length; the next are of these
    **nullable_floats("longer_wins", "longer_low", "longer_high"),
    **nullable_floats("equal_length_rate_b", "low", "high"),
    **nullable_floats("odds_by_doubling", "odds_low", "odds_high"),  # the same for all pairs of a judge
)

SELF_PREFERENCE = schema(
    judge=STRING,
    policy=STRING,  # the closer one
    relation=STRING,  # "same model" or "same base"
    other_policy=STRING,
    n=INT32,
    share=FLOAT64,
    **nullable_floats("neutral_share", "difference", "low", "high"),  # null where no judge is neutral
)

SAMPLE_SIZES = schema(
    judge=STRING,
    policy_a=STRING,
    policy_b=STRING,
    pairs=INT32,  # tested together
    level=FLOAT64,
    decided=FLOAT64,
    true_share=FLOAT64,
    n=INT32,
    power=FLOAT64,
    wanted_power=FLOAT64,
    needed=nullable(INT32),  # null where nothing was decided
)

ITERATION_VERDICTS = schema(
    iteration=INT32,
    policy_a=STRING,  # played the iteration
    policy_b=STRING,  # came out of it
    judge=STRING,
    n=INT32,  # situations of the valid split
    wins=INT32,  # of policy_b
    ties=INT32,
    losses=INT32,
    **nullable_floats("win_rate", "low", "high"),  # of the decided; null where none was
    p_better=FLOAT64,  # of a share of one half or less
    p_no_better=FLOAT64,  # of a share of one half plus the margin or more
    margin=FLOAT64,
    level=FLOAT64,  # of the verdict "better"
    level_no_better=FLOAT64,
    power=FLOAT64,  # to find a policy better whose share is one half plus the margin
    needed=nullable(INT32),  # situations for the power of evaluation.power; null where none was decided
    verdict=STRING,  # "better", "no better" or "undecided"
)
