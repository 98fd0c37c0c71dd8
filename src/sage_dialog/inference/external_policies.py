"""Policies from outside the project: adapters and whole models that write state and action blocks, played as policies.

A policy whose blocks have another text form than ours is translated where it is sampled: it reads its own form, and all
else of the project sees ours.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.hub_models import ADAPTER_CONFIG, is_on_hub
from sage_dialog.core.policies import CARD, Policy, PolicyCard
from sage_dialog.inference.engine import Engine, OnText, OpenEngine, PolicyEngine, Prompt, Sample
from sage_dialog.sac import BlockForm, Chain, parse, render

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExternalPolicy:
    """A policy from outside the project.

    Attributes:
        adapter: the folder of an adapter; None for a whole model.
        base: the base of the adapter, or the whole model; None for an adapter on the project's base, `sage_0`.
        blocks: whether it writes state and action blocks.
        form: the text form of its blocks; None for ours.
        system_prompt: None takes the agent's, an empty one sends none.
    """

    name: str
    adapter: Path | None
    base: Policy | None
    blocks: bool
    form: BlockForm | None = None
    system_prompt: str | None = None

    def resolve(self, project_base: Policy) -> tuple[Policy, Policy]:
        """Return the base of the policy, and the policy. Weights are not read.

        Raises:
            ValueError: if the adapter's card, of a policy that this project exported, names another base.
        """
        base = self.base or project_base
        if self.adapter is None:
            policy = Policy(base.path, replace(base.card, name=self.name, blocks=self.blocks))
            return policy, policy
        card = PolicyCard(self.name, "adapter", self.blocks, base.card.base, base.card.base_revision)
        self._check_base(self.adapter, base.card)
        return base, Policy(self.adapter, card)

    def _check_base(self, adapter: Path, base: PolicyCard) -> None:
        if (adapter / CARD).is_file():
            revision = Policy.open(adapter).card.base_revision
            if revision != base.base_revision:
                raise ValueError(
                    f"the external policy {self.name} at {adapter} is an adapter on base revision {revision}, but "
                    f"{base.base} is {base.base_revision}; name its own base"
                )
        named = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8")).get("base_model_name_or_path")
        if is_on_hub(base) and named and named != base.base:
            logger.warning(
                "%s was trained on %s by its %s, and is played on %s", self.name, named, ADAPTER_CONFIG, base.base
            )

    def open(
        self, engine: OpenEngine, project_base: Policy, others: Sequence[Policy], seed: int, threads: int | None
    ) -> tuple[ExternalPolicyEngine, Policy]:
        """Return an engine for the policy and others of the project, and the policy.

        An adapter on the project's base shares its engine, and so its memory.
        """
        base, policy = self.resolve(project_base)
        if _shares_base(policy, base, project_base, others):
            own = rest = engine(project_base, [policy, *others], seed, threads)
        else:
            own = engine(base, [] if policy is base else [policy], seed, threads)
            rest = engine(project_base, others, seed, threads) if others else own
        return ExternalPolicyEngine(policy.name, self.form, own, rest), policy


def _shares_base(policy: Policy, base: Policy, project_base: Policy, others: Sequence[Policy]) -> bool:
    alike = {one.has_full_weights for one in (policy, *others) if one.card.kind == "adapter"}
    return policy is not base and base.card.base_revision == project_base.card.base_revision and len(alike) == 1


class ExternalPolicyEngine:
    """An `Engine` for a policy from outside, and for policies of the project such as the simulated user.

    Args:
        form: the text form of the policy's blocks; None for ours.
        own: samples from the policy.
        others: samples from all others.
    """

    def __init__(self, policy: str, form: BlockForm | None, own: PolicyEngine, others: Engine) -> None:
        self._policy, self._form, self._own, self._others = policy, form, own, others

    @property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        form = None if self._form is None else self._form.template
        return {
            "external": self._policy,
            "block_form": form,
            "own": dict(self._own.fingerprint_inputs),
            "others": dict(self._others.fingerprint_inputs),
        }

    @property
    def window(self) -> int:
        """Number of tokens of prompt and reply together, of the policy."""
        return self._own.window

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt to the policy, as `PolicyEngine.prompt_tokens` does."""
        return self._own.prompt_tokens(self._translated(prompt))

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: OnText | None = None,
    ) -> list[list[Sample]]:
        """Sample as `Engine.sample` does. A reply in another form is translated, and so not streamed piece by piece."""
        if policy != self._policy:
            return self._others.sample(policy, prompts, sampling, samples, steering, on_text)
        if self._form is None:
            return self._own.sample(policy, prompts, sampling, samples, steering, on_text)
        if steering:
            raise ValueError(
                f"{policy} cannot be steered: its blocks have a form of their own (`block_form`), and steering follows "
                "that of this project; leave the steering empty"
            )
        free = sampling.model_copy(update={"hold_form": False})  # the form that is held is ours
        sampled = self._own.sample(policy, list(map(self._translated, prompts)), free, samples)
        translated = [[self._to_ours(sample) for sample in row] for row in sampled]
        if on_text is not None and translated and translated[0]:
            on_text(translated[0][0].text)
        return translated

    def _translated(self, prompt: Prompt) -> Prompt:
        return replace(prompt, messages=tuple(map(self._to_theirs, prompt.messages)))

    def _to_theirs(self, message: dict[str, str]) -> dict[str, str]:
        """Return a message of the policy with its blocks as it wrote them."""
        chain = parse(message["content"]) if message["role"] == "assistant" else None
        if self._form is None or not isinstance(chain, Chain):
            return message
        return {**message, "content": self._form.render(chain)}

    def _to_ours(self, sample: Sample) -> Sample:
        """Return a sample with its blocks in our form; unchanged where they are not of the policy's form."""
        chain = None if self._form is None else self._form.parse(sample.text)
        return replace(sample, text=render(chain)) if isinstance(chain, Chain) else sample
