"""Typed parameters: one module a stage, with the names of `conf/*/parameters_<stage>.yml`.

A key that no model knows, a value of the wrong type or outside its range is refused before a run starts.
"""

from sage_dialog.config.base import Config
from sage_dialog.config.corpora import Corpora, Corpus, LabelMap, LabelRule
from sage_dialog.config.data_processing import DataProcessing, RedditRules, SameText
from sage_dialog.config.evaluation import Benchmarks, Evaluation, OutcomeRule
from sage_dialog.config.imagination import Imagination
from sage_dialog.config.llm import Caps, Llm, Price, Role
from sage_dialog.config.microworld import BaseModelConfig, Microworld, Split
from sage_dialog.config.negotiation import Negotiation
from sage_dialog.config.offline_rl import CriticConfig, OfflineRl, RlPlay
from sage_dialog.config.parameters import Parameters
from sage_dialog.config.reference import Reference
from sage_dialog.config.sac_augmentation import Blend, SacAugmentation, Source, SourceKind
from sage_dialog.config.self_play import BlockField, BoostScale, GameRules, SamplingConfig, SelfPlay, Steering
from sage_dialog.config.stop_rule import StopRule
from sage_dialog.config.tasks import Act, Outcome, Reply, Rule, Side, Task
from sage_dialog.config.training import FineTuning, Launcher, LoraSettings, Preference, Sft, Training
