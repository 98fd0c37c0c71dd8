"""The Arrow schema of every table, one module a stage. The catalog enforces them on save and load."""

# ruff: noqa: F401  # names of the stages, for all who use them

from sage_dialog.schemas.columns import INTENT_COLUMNS, MESSAGES
from sage_dialog.schemas.data_processing import DIALOGUES, FILTER_REPORT, REJECTED_LINES, SITUATIONS, TURN
from sage_dialog.schemas.evaluation import (
    ACTION_DISTRIBUTION,
    ACTION_TRANSITIONS,
    BENCHMARK_SCORES,
    DIVERSITY,
    EMOTION_ACCURACY,
    EMOTION_CONFUSION,
    EMOTION_TOP_K,
    EXTERNAL_SCORES,
    FAILURE_EXAMPLES,
    FAILURE_MODES,
    MAPPED_EMOTIONS,
    POLICIES,
    REPLIES,
    REPLY_STATISTICS,
    ROLLOUTS,
    STEERING_GRID,
    UNMAPPED_EMOTIONS,
)
from sage_dialog.schemas.judging import (
    JUDGE_AGREEMENT,
    JUDGE_CHECKS,
    JUDGE_VOTES,
    LENGTH_CONTROL,
    RANKING,
    SAMPLE_SIZES,
    SELF_PREFERENCE,
    VOTE_REJECTS,
    WIN_RATES,
)
from sage_dialog.schemas.microworld import BASE_CORPUS, WORLD_TRUTH
from sage_dialog.schemas.sac_augmentation import ANNOTATION_REJECTS, ANNOTATIONS, MIX_REJECTS, SFT_CONVERSATIONS
from sage_dialog.schemas.self_play import CANDIDATES, TRAJECTORIES
from sage_dialog.schemas.training import DPO_PAIRS, TRAINING_LOG, TRAINING_REJECTS
