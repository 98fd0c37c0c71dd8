"""The whole parameter tree, and the rules that hold between stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from pydantic import ValidationError, ValidationInfo, model_validator
from pydantic_core import InitErrorDetails

from sage_dialog.config.base import Amount, Config, Count, invalid, suggestion
from sage_dialog.config.corpora import Corpora
from sage_dialog.config.data_processing import DataProcessing
from sage_dialog.config.evaluation import Evaluation
from sage_dialog.config.imagination import Imagination
from sage_dialog.config.llm import Llm
from sage_dialog.config.microworld import Microworld
from sage_dialog.config.negotiation import Negotiation
from sage_dialog.config.offline_rl import OfflineRl, RlPlay
from sage_dialog.config.reference import Reference
from sage_dialog.config.sac_augmentation import SacAugmentation
from sage_dialog.config.self_play import SelfPlay
from sage_dialog.config.stop_rule import StopRule
from sage_dialog.config.training import Launcher, Preference, Sft, Training
from sage_dialog.core.recipe import REINFORCED, policy_names

Fault = tuple[tuple[str | int, ...], str]
"""The path of a parameter, and what is wrong with it."""


UNAFFECTING = frozenset(
    {
        "scratch",
        "llm",
        "mix_versions",
        "data_processing.executor",
        "data_processing.workers",
        "data_processing.bucket_comments",
        "data_processing.max_reject_share",
        "data_processing.max_unread_share",
        "data_processing.require_submissions",
        "corpora.max_reject_share",
        "imagination.max_dropped_share",
        "imagination.max_reject_share",
        "rl_play.max_dropped_share",
    }
)
"""Parameters, with all below them, that change no output: where work is done and kept, what may be spent or lost."""


class Parameters(Config):
    """The whole parameter tree.

    Validation context: `external_models`, names that pairs may use beside those of policies. Without it names are not
    checked.
    """

    seed: Amount
    threads: Count | None
    iterations: Count
    scratch: str
    mix_versions: bool
    launcher: Launcher
    microworld: Microworld
    data_processing: DataProcessing
    corpora: Corpora
    sac_augmentation: SacAugmentation
    sft: Sft
    self_play: SelfPlay
    stop_rule: StopRule
    preference: Preference
    evaluation: Evaluation
    imagination: Imagination
    reference: Reference
    offline_rl: OfflineRl
    negotiation: Negotiation
    negotiation_rl: OfflineRl
    rl_play: RlPlay
    self_play_rl: OfflineRl
    llm: Llm

    @model_validator(mode="after")
    def _check_across_stages(self, info: ValidationInfo) -> Self:
        faults = [*self._blend_faults(), *self._quantization_faults(), *self._batch_faults()]
        if info.context is not None:
            faults += self._name_faults(**info.context)
        if faults:
            errors = [InitErrorDetails(type=invalid(why), loc=path, input=None) for path, why in faults]
            raise ValidationError.from_exception_data("Parameters", errors)
        return self

    @property
    def reinforced(self) -> bool:
        """Whether `sage_rl` is evaluated: whether `evaluation` names it."""
        named = [*(name for pair in self.evaluation.pairs for name in pair), *self.evaluation.benchmarks.policies]
        return REINFORCED in named

    def _trainings(self) -> dict[tuple[str, ...], Training]:
        return {
            ("sft", "training"): self.sft.training,
            ("self_play", "training"): self.self_play.training,
            ("preference",): self.preference,
            ("offline_rl", "training"): self.offline_rl.training,
            ("offline_rl", "refinement"): self.offline_rl.refinement,
            ("offline_rl", "preference"): self.offline_rl.preference,
            ("negotiation_rl", "training"): self.negotiation_rl.training,
            ("negotiation_rl", "refinement"): self.negotiation_rl.refinement,
            ("self_play_rl", "refinement"): self.self_play_rl.refinement,
        }

    def _blend_faults(self) -> Iterator[Fault]:
        """In a blended mix, held-out conversations also follow conversations that are trained on."""
        for stage, training in (("sft", self.sft.training), ("self_play", self.self_play.training)):
            if training.held_out and self.sac_augmentation.blend:
                yield (
                    (stage, "training", "held_out"),
                    f"a blended mix cannot hold out {training.held_out} of itself; set it to 0, or "
                    "sac_augmentation.blend to null",
                )

    def _quantization_faults(self) -> Iterator[Fault]:
        """Every policy continues the training of the first one, on the same weights."""
        for path, training in self._trainings().items():
            stage = path[0] if path[0] in ("offline_rl", "negotiation_rl") else "sft"
            lora = getattr(self, stage).lora
            if training.quantization and lora is None:
                why = f"{stage}.lora is null: all weights are trained, which {training.quantization} rules out"
                yield (*path, "quantization"), f"{why}; set this to null, or give {stage}.lora its parameters"
            elif training.quantization and lora and lora.target_parameters:
                why = f"{training.quantization} packs {stage}.lora.target_parameters in 4 bits"
                yield (*path, "quantization"), f"{why}; set this to null, or leave those empty"

    def _batch_faults(self) -> Iterator[Fault]:
        for path, training in self._trainings().items():
            try:
                self.launcher.rows_at_once(training.batch_size)
            except ValueError as error:
                yield (*path, "batch_size"), str(error)

    def _name_faults(self, external_models: Sequence[str] = ()) -> Iterator[Fault]:
        policies = policy_names(self.iterations, reinforced=True)
        if ambiguous := sorted(set(external_models) & set(policies)):
            why = f"{ambiguous[0]} names a policy and an external model of the catalog; rename it"
            yield ("evaluation", "pairs"), why
        if repeated := sorted(name for name in set(external_models) if list(external_models).count(name) > 1):
            why = f"{repeated[0]} names an external model and an external policy of the catalog; rename one"
            yield ("evaluation", "pairs"), why
        benchmarked = [(policy,) for policy in self.evaluation.benchmarks.policies]
        for path, entries, known in (
            (("evaluation", "pairs"), self.evaluation.pairs, (*policies, *external_models)),
            (("evaluation", "benchmarks", "policies"), benchmarked, policies),
        ):
            for place, names in enumerate(entries):
                for name in (name for name in names if name not in known):
                    why = f"no policy is called {name!r}{suggestion(name, known)} Known: {', '.join(known)}"
                    yield (*path, place), why
                if names in entries[:place]:
                    yield (*path, place), f"{' against '.join(names)} is listed twice"
