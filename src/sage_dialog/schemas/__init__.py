"""The Arrow schema of every table. A row means one thing; the catalog enforces these on save and load."""

import pyarrow as pa

INTENT_COLUMNS = ("motivation", "emotion", "topics")


def _intent_fields(prefix: str) -> list[pa.Field]:
    return [
        pa.field(f"{prefix}motivation", pa.string()),
        pa.field(f"{prefix}emotion", pa.string()),
        pa.field(f"{prefix}topics", pa.list_(pa.string())),
    ]


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


MESSAGE = pa.struct([_required("role", pa.string()), _required("content", pa.string())])
MESSAGES = pa.list_(_required("element", MESSAGE))
TURN = pa.struct(
    [
        _required("comment_id", pa.string()),
        pa.field("author", pa.string()),  # hashed; null where unknown
        _required("text", pa.string()),
    ]
)

DIALOGUES = pa.schema(
    [
        _required("dialogue_id", pa.string()),
        _required("subreddit", pa.string()),
        _required("link_id", pa.string()),
        _required("month", pa.string()),
        _required("turns", pa.list_(TURN)),
        _required("n_turns", pa.int32()),
        _required("mean_words", pa.float64()),
        _required("min_sentiment", pa.float64()),
    ]
)

FILTER_REPORT = pa.schema(
    [
        _required("month", pa.string()),
        _required("step", pa.int32()),
        _required("rule", pa.string()),
        _required("unit", pa.string()),  # "line", "comment" or "path"
        _required("n_in", pa.int64()),
        _required("n_removed", pa.int64()),
    ]
)

REJECTED_LINES = pa.schema(
    [
        _required("month", pa.string()),
        _required("file", pa.string()),
        _required("line", pa.int64()),  # from 1
        _required("reason", pa.string()),
        _required("excerpt", pa.string()),
    ]
)

SITUATIONS = pa.schema(
    [
        _required("situation_id", pa.string()),
        _required("split", pa.string()),
        _required("emotion", pa.string()),
        _required("text", pa.string()),
    ]
)

ANNOTATIONS = pa.schema(
    [
        _required("dialogue_id", pa.string()),
        _required("turn", pa.int32()),
        _required("role", pa.string()),
        *_intent_fields(""),
        _required("text", pa.string()),
        _required("original_text", pa.string()),
        _required("kept_original", pa.bool_()),  # the annotator's wording said something else
        _required("annotator", pa.string()),
    ]
)

ANNOTATION_REJECTS = pa.schema(
    [
        _required("dialogue_id", pa.string()),
        _required("reason", pa.string()),
        pa.field("raw_response", pa.string()),
    ]
)

SFT_CONVERSATIONS = pa.schema(
    [
        _required("conversation_id", pa.string()),
        _required("source", pa.string()),
        _required("messages", MESSAGES),
    ]
)

MIX_REJECTS = pa.schema(
    [
        _required("source", pa.string()),
        _required("record", pa.string()),  # a dialogue's or situation's id, or a file and the place in it
        _required("reason", pa.string()),
    ]
)

CANDIDATES = pa.schema(
    [
        _required("situation_id", pa.string()),
        _required("turn", pa.int32()),
        _required("candidate", pa.int32()),
        _required("text", pa.string()),  # as sampled, with its blocks
        pa.field("utterance", pa.string()),
        *_intent_fields("u_"),
        *_intent_fields("a_"),
        _required("valid", pa.bool_()),
        pa.field("invalid_reason", pa.string()),
        _required("chosen", pa.bool_()),
    ]
)

TRAJECTORIES = pa.schema(
    [
        _required("situation_id", pa.string()),
        _required("turn", pa.int32()),
        _required("role", pa.string()),  # "user" or "assistant"
        _required("text", pa.string()),  # what the other side hears
        _required("content", pa.string()),  # what the speaker wrote, blocks included
        *_intent_fields("u_"),
        *_intent_fields("a_"),
        _required("outcome", pa.string()),  # how the dialogue ended, the same on all its rows
    ]
)

ROLLOUTS = pa.schema([_required("policy", pa.string()), *TRAJECTORIES])  # of an external model: its name in the catalog

DPO_PAIRS = pa.schema(
    [
        _required("situation_id", pa.string()),
        _required("turn", pa.int32()),
        _required("prompt", MESSAGES),
        _required("chosen", pa.string()),
        _required("rejected", pa.string()),
    ]
)

TRAINING_REJECTS = pa.schema(
    [
        _required("row", pa.string()),  # a conversation's id; of a pair its situation and turn
        _required("tokens", pa.int32()),
        _required("max_length", pa.int32()),
    ]
)

TRAINING_LOG = pa.schema(
    [
        _required("step", pa.int32()),  # updates so far
        _required("split", pa.string()),  # "train": the mean since the row before; "held out": all of it
        _required("epoch", pa.float64()),
        _required("tokens", pa.int64()),  # trained on so far, without padding
        _required("loss", pa.float64()),
        pa.field("learning_rate", pa.float64()),  # null where nothing is trained
        pa.field("grad_norm", pa.float64()),
        pa.field("token_accuracy", pa.float64()),
        pa.field("preference_accuracy", pa.float64()),  # these two of preference learning alone
        pa.field("preference_margin", pa.float64()),
    ]
)

JUDGE_VOTES = pa.schema(
    [
        _required("situation_id", pa.string()),
        _required("policy_a", pa.string()),
        _required("policy_b", pa.string()),
        _required("order", pa.string()),  # "ab": policy_a's dialogue was shown first; "ba": second
        _required("judge", pa.string()),
        _required("vote", pa.string()),  # "a", "b" (the policy, not the position), "tie" or "unreadable"
        pa.field("raw_response", pa.string()),
    ]
)

VOTE_REJECTS = pa.schema([*JUDGE_VOTES, _required("reason", pa.string())])  # of people

WIN_RATES = pa.schema(
    [
        _required("judge", pa.string()),
        _required("policy_a", pa.string()),
        _required("policy_b", pa.string()),
        _required("rule", pa.string()),  # which two answers are a win: "agreement", "half" or "first_order"
        _required("n", pa.int32()),
        _required("wins_a", pa.int32()),
        _required("ties", pa.int32()),
        _required("wins_b", pa.int32()),
        _required("both_say_tie", pa.int32()),
        _required("inconsistent", pa.int32()),  # the answer changed with the order
        _required("unreadable", pa.int32()),  # situations with such an answer
        pa.field("win_rate_b", pa.float64()),  # of the decided; null where none was
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        _required("p_value", pa.float64()),
        _required("p_adjusted", pa.float64()),  # for all pairs of the judge
    ]
)

RANKING = pa.schema(
    [
        _required("judge", pa.string()),
        _required("group", pa.int32()),  # policies that comparisons link
        _required("policy", pa.string()),
        _required("n", pa.int32()),
        _required("rank", pa.int32()),
        _required("best_rank", pa.int32()),
        _required("worst_rank", pa.int32()),
        _required("score", pa.float64()),  # log-odds, mean 0 in a group
        _required("low", pa.float64()),
        _required("high", pa.float64()),
    ]
)

JUDGE_CHECKS = pa.schema(
    [
        _required("judge", pa.string()),
        _required("statistic", pa.string()),
        _required("n", pa.int32()),
        _required("value", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
    ]
)

JUDGE_AGREEMENT = pa.schema(
    [
        _required("judge_a", pa.string()),
        _required("judge_b", pa.string()),
        _required("n", pa.int32()),
        _required("agreement", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
        pa.field("kappa", pa.float64()),
        pa.field("kappa_low", pa.float64()),
        pa.field("kappa_high", pa.float64()),
        _required("decided", pa.int32()),  # by both
        pa.field("same_winner", pa.float64()),  # of these
        pa.field("same_low", pa.float64()),
        pa.field("same_high", pa.float64()),
        pa.field("same_by_lot", pa.float64()),
    ]
)

LENGTH_CONTROL = pa.schema(
    [
        _required("judge", pa.string()),
        _required("policy_a", pa.string()),
        _required("policy_b", pa.string()),
        _required("n", pa.int32()),  # decided situations; what follows the words is null where there is none
        _required("words_a", pa.float64()),
        _required("words_b", pa.float64()),
        pa.field("b_says_more", pa.float64()),
        pa.field("win_rate_b", pa.float64()),
        pa.field("equal_length_rate_b", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("odds_by_doubling", pa.float64()),
        pa.field("odds_low", pa.float64()),
        pa.field("odds_high", pa.float64()),
    ]
)

SELF_PREFERENCE = pa.schema(
    [
        _required("judge", pa.string()),
        _required("policy", pa.string()),  # the closer one
        _required("relation", pa.string()),  # "same model" or "same base"
        _required("other_policy", pa.string()),
        _required("n", pa.int32()),
        _required("share", pa.float64()),
        pa.field("neutral_share", pa.float64()),  # null where no judge is neutral
        pa.field("difference", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)

SAMPLE_SIZES = pa.schema(
    [
        _required("judge", pa.string()),
        _required("pairs", pa.int32()),  # tested together
        _required("level", pa.float64()),
        _required("decided", pa.float64()),
        _required("true_share", pa.float64()),
        _required("n", pa.int32()),
        _required("power", pa.float64()),
        _required("wanted_power", pa.float64()),
        pa.field("needed", pa.int32()),  # null where nothing was decided
    ]
)

EMOTION_ACCURACY = pa.schema(
    [
        _required("policy", pa.string()),
        _required("exchange", pa.int32()),  # 1 = the reply to the situation itself
        _required("n", pa.int32()),
        _required("correct", pa.int32()),
        _required("accuracy", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
        _required("chance", pa.float64()),
    ]
)

MAPPED_EMOTIONS = pa.schema(
    [
        _required("policy", pa.string()),
        _required("exchange", pa.int32()),
        _required("mapping", pa.int32()),  # version of evaluation/emotion_words.toml
        _required("n", pa.int32()),
        _required("named", pa.int32()),
        _required("mapped", pa.int32()),
        pa.field("coverage", pa.float64()),  # null, as its interval, where no reply names an emotion
        pa.field("coverage_low", pa.float64()),
        pa.field("coverage_high", pa.float64()),
        _required("correct", pa.int32()),
        _required("accuracy", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
    ]
)

UNMAPPED_EMOTIONS = pa.schema(
    [
        _required("policy", pa.string()),
        _required("emotion", pa.string()),
        _required("n", pa.int32()),
        _required("count", pa.int32()),
    ]
)

EMOTION_CONFUSION = pa.schema(
    [
        _required("policy", pa.string()),
        _required("label", pa.string()),
        _required("predicted", pa.string()),  # a label, "(unmapped)" or "(none)"
        _required("n", pa.int32()),
        _required("count", pa.int32()),
        _required("share", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
    ]
)

EMOTION_TOP_K = pa.schema(
    [
        _required("policy", pa.string()),
        _required("searched_before", pa.bool_()),  # an earlier iteration searched these situations
        _required("k", pa.int32()),
        _required("n", pa.int32()),
        _required("candidates", pa.float64()),
        _required("emotions", pa.float64()),
        _required("accuracy", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
        _required("chance", pa.float64()),
    ]
)

ACTION_DISTRIBUTION = pa.schema(
    [
        _required("policy", pa.string()),
        _required("field", pa.string()),  # "a_motivation" or "a_emotion"
        _required("value", pa.string()),
        _required("n", pa.int32()),
        _required("count", pa.int32()),
        _required("share", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
    ]
)

REPLY_STATISTICS = pa.schema(
    [
        _required("policy", pa.string()),
        _required("statistic", pa.string()),
        _required("n", pa.int32()),
        _required("value", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
    ]
)

ACTION_TRANSITIONS = pa.schema(
    [
        _required("policy", pa.string()),
        _required("field", pa.string()),  # "a_motivation" or "a_emotion"
        pa.field("before", pa.string()),  # null: the reply is the first
        _required("after", pa.string()),
        _required("n", pa.int32()),
        _required("count", pa.int32()),
        _required("share", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
        pa.field("expected", pa.float64()),
    ]
)

DIVERSITY = pa.schema(
    [
        _required("policy", pa.string()),
        _required("of", pa.string()),  # "replies" or "actions"
        _required("statistic", pa.string()),
        _required("n", pa.int32()),
        _required("value", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
    ]
)

FAILURE_MODES = pa.schema(
    [
        _required("policy", pa.string()),
        _required("failure", pa.string()),
        _required("rules", pa.int32()),  # version of evaluation/human_claims.toml
        _required("n", pa.int32()),
        _required("count", pa.int32()),
        _required("share", pa.float64()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
    ]
)

FAILURE_EXAMPLES = pa.schema(
    [
        _required("policy", pa.string()),
        _required("failure", pa.string()),
        _required("situation_id", pa.string()),
        _required("exchange", pa.int32()),
        _required("why", pa.string()),
        _required("text", pa.string()),  # what the user hears
    ]
)

BENCHMARK_SCORES = pa.schema(
    [
        _required("task", pa.string()),
        pa.field("part_of", pa.string()),  # the group of tasks that was asked; null of what was itself asked
        _required("policy", pa.string()),
        _required("metric", pa.string()),
        _required("n", pa.int32()),
        _required("few_shot", pa.int32()),  # worked examples shown before a question
        _required("higher_is_better", pa.bool_()),
        _required("score", pa.float64()),
        pa.field("standard_error", pa.float64()),
        pa.field("against", pa.string()),  # null, as all below, of the policy that others are compared with
        pa.field("difference", pa.float64()),
        pa.field("relative", pa.float64()),  # null where the other score is 0
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("lost", pa.int32()),  # items that only the other gets right; null where items are not right or wrong
        pa.field("won", pa.int32()),
        pa.field("p_value", pa.float64()),
        pa.field("p_adjusted", pa.float64()),  # for what was asked of the policy
    ]
)

STEERING_GRID = pa.schema(
    [
        _required("policy", pa.string()),
        pa.field("situation_id", pa.string()),  # null where the situation was typed in
        _required("situation", pa.string()),
        pa.field("field", pa.string()),  # null, as the next two, in a reply without steering
        pa.field("asked", pa.list_(pa.string())),  # one label; of "a_topic" one or more
        pa.field("boost", pa.float64()),  # of each label; null where the value is fixed
        pa.field("text", pa.string()),  # as sampled, blocks included; null where the prompt left no room
        pa.field("utterance", pa.string()),  # null where the text is no chain
        pa.field("invalid_reason", pa.string()),
        *_intent_fields("u_"),
        *_intent_fields("a_"),
        _required("annotator", pa.string()),
        *_intent_fields("read_"),  # by the annotator, in the utterance
        pa.field("taken", pa.float64()),  # share of the asked labels that stand in the action block
        pa.field("carried", pa.float64()),  # that the annotator reads; null where it cannot tell
    ]
)

EXTERNAL_SCORES = pa.schema(
    [
        _required("scorer", pa.string()),
        _required("policy", pa.string()),
        _required("situation_id", pa.string()),
        _required("statistic", pa.string()),
        _required("exchange", pa.int32()),
        _required("value", pa.float64()),
    ]
)

POLICIES = pa.schema(
    [
        _required("policy", pa.string()),
        _required("kind", pa.string()),  # "base", "adapter", or "outside" behind a chat API
        _required("blocks", pa.bool_()),
        _required("revision", pa.string()),  # of its own weights; of an outside model its name on the servers
        _required("base", pa.string()),
        _required("base_revision", pa.string()),
        pa.field("parent", pa.string()),
        pa.field("parent_revision", pa.string()),
    ]
)

BASE_CORPUS = pa.schema([_required("document", pa.string())])  # JSON: {"text"} or {"messages"}

WORLD_TRUTH = pa.schema(
    [
        _required("situation_id", pa.string()),
        _required("split", pa.string()),
        _required("emotion", pa.string()),
        _required("topic", pa.string()),
        _required("suitable", pa.list_(pa.string())),  # motivations that suit the situation
    ]
)
