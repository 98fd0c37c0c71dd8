"""A critic of dialogues: value heads on a policy's hidden states, trained by implicit Q-learning.

V(s) is read at the end of the state block: from the policy's hidden states at the block's last token, and their mean
over its tokens. Q(s, a) is read at the end of the action block, from the same of both blocks. The policy stays as it
is. With rewards r, discount γ and expectile τ (Kostrikov, Nair and Levine 2021,
arXiv:2110.06169)::

    L_V = E |τ - 1(u < 0)| u²,  u = min(Q₁', Q₂')(s, a) - V(s)
    L_Q = E Σᵢ (r + γ V(s') - Qᵢ(s, a))²

Q' are target networks, V(s') is 0 after the last reply. A conservative term may be added (Kumar et al. 2020,
arXiv:2006.04779), with alternative actions aⱼ that the policy drew in the same state::

    L_C = E Σᵢ log Σⱼ exp Qᵢ(s, aⱼ) - Qᵢ(s, a)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from sage_dialog.config import CriticConfig
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.seeds import derived_seed
from sage_dialog.inference.chat_format import ChatFormat, load_tokenizer
from sage_dialog.offline_rl.encoding import Decisions, Span, reply_decision

HEADS, SETTINGS = "heads.safetensors", "critic.json"

BATCH_TOKENS = 16_384
"""Tokens of a forward pass, padding included."""


@dataclass(frozen=True)
class Transitions:
    """Decisions of dialogues, one row each.

    Attributes:
        states, actions: features, rows × width; those of actions hold those of their states.
        rewards: after the action.
        following: the row of the next decision of the dialogue; -1 after the last.
        alternatives: features of other actions in the same state, rows × alternatives × width; None without.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor
    alternatives: Tensor | None = None


class Heads(nn.Module):
    """V and twin Q on features, which are standardised first."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.value, self.q1, self.q2 = (_head(size, hidden, dropout) for size in (width, 2 * width, 2 * width))
        for name, size in (("state", width), ("action", 2 * width)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def v(self, states: Tensor) -> Tensor:
        return self.value((states - self.state_mean) / self.state_scale)[..., 0]

    def q(self, actions: Tensor) -> Tensor:
        """Return both Q, with a first dimension of 2."""
        scaled = (actions - self.action_mean) / self.action_scale
        return torch.stack([self.q1(scaled)[..., 0], self.q2(scaled)[..., 0]])


def train_heads(data: Transitions, config: CriticConfig, seed: int) -> tuple[Heads, list[dict[str, float]]]:
    """Return heads trained on transitions, and the mean losses of each tenth of the steps."""
    torch.manual_seed(derived_seed(seed, "critic heads") % 2**63)
    heads = Heads(data.states.shape[1], config.hidden, config.dropout)
    for name, features in (("state", data.states), ("action", data.actions)):
        getattr(heads, f"{name}_mean").copy_(features.mean(0))
        getattr(heads, f"{name}_scale").copy_(features.std(0, correction=0).clamp(min=1e-3))
    target = copy.deepcopy(heads).eval()
    optimiser = torch.optim.AdamW(heads.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    order = torch.Generator().manual_seed(derived_seed(seed, "critic batches") % 2**63)
    log: list[dict[str, float]] = []
    sums = torch.zeros(2)
    every = max(1, config.steps // 10)
    last = data.following < 0
    for step in range(1, config.steps + 1):
        rows = torch.randint(len(data.rewards), (min(config.batch_size, len(data.rewards)),), generator=order)
        states, actions = data.states[rows], data.actions[rows]
        heads.eval()
        with torch.no_grad():
            expected = target.q(actions).min(0).values
            next_value = heads.v(data.states[data.following[rows].clamp(min=0)]).masked_fill(last[rows], 0.0)
            returned = data.rewards[rows] + config.discount * next_value
        heads.train()
        value_loss = expectile_loss(expected - heads.v(states), config.expectile)
        q = heads.q(actions)
        q_loss = (q - returned).square().mean(1).sum()
        loss = value_loss + q_loss
        if data.alternatives is not None and config.conservative:
            others = heads.q(data.alternatives[rows])
            gap = torch.logsumexp(torch.cat([q[..., None], others], -1), -1) - q
            loss = loss + config.conservative * gap.mean(1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for old, new in zip(target.parameters(), heads.parameters(), strict=True):
                old.lerp_(new, config.target_rate)
        sums += torch.stack([value_loss.detach(), q_loss.detach()])
        if step % every == 0:
            value_mean, q_mean = (sums / every).tolist()
            log.append({"step": step, "value_loss": value_mean, "action_value_loss": q_mean})
            sums.zero_()
    return heads.eval(), log


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Return the mean of the squares, weighted by `expectile` where positive and by 1 - `expectile` elsewhere."""
    weight = torch.where(difference > 0, expectile, 1 - expectile)
    return (weight * difference.square()).mean()


class FeatureReader:
    """Reads a policy's hidden states at decisions.

    Args:
        layers: number of the top layers whose states are concatenated; at most all of them, 0 reads none.
        log_probabilities: append those of a block's tokens, as their sum and their minimum.
    """

    def __init__(
        self, base: Policy, policy: Policy, layers: int, log_probabilities: bool, threads: int | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = AutoModelForCausalLM.from_pretrained(
            base.path,
            dtype=torch.float32,
            use_safetensors=True,
            **({"experts_implementation": "eager"} if device.type == "cpu" else {}),
        )
        self._model = PeftModel.from_pretrained(model, str(policy.path)).merge_and_unload().eval().to(device)
        self.chat = ChatFormat(load_tokenizer(base.path))
        self._layers, self._log_probabilities, self._device = layers, log_probabilities, device

    @property
    def width(self) -> int:
        """Number of features of an action."""
        width = int(self._layers * self._model.config.get_text_config().hidden_size)
        return 2 * (2 * width + 2 * self._log_probabilities)

    def read(self, sequences: Sequence[Decisions]) -> tuple[Tensor, Tensor]:
        """Return the features of states and of actions, a row for each decision in order.

        Sequences are read in batches of similar length; right padding changes nothing before it.
        """
        order = sorted(range(len(sequences)), key=lambda place: len(sequences[place].tokens))
        found: dict[int, Tensor] = {}
        batch: list[int] = []
        for place in [*order, None]:
            longest = 0 if place is None else len(sequences[place].tokens)
            if batch and (place is None or longest * (len(batch) + 1) > BATCH_TOKENS):
                found |= dict(zip(batch, self._forward([sequences[each] for each in batch]), strict=True))
                batch = []
            if place is not None:
                batch.append(place)
        actions = torch.cat([found[place] for place in range(len(sequences))])
        return actions[:, : actions.shape[1] // 2].contiguous(), actions

    @torch.inference_mode()
    def _forward(self, sequences: Sequence[Decisions]) -> list[Tensor]:
        """Return for each sequence the features of its actions, decisions × width."""
        ids = pad_sequence([torch.tensor(each.tokens) for each in sequences], batch_first=True).to(self._device)
        mask = pad_sequence([torch.ones(len(each.tokens), dtype=torch.int64) for each in sequences], batch_first=True)
        outputs = self._model(
            input_ids=ids,
            attention_mask=mask.to(self._device),
            output_hidden_states=True,
            use_cache=False,
            logits_to_keep=1,
        )
        layers = outputs.hidden_states
        top = layers[-1].float()
        states = torch.cat([top[..., :0], *layers[max(0, len(layers) - self._layers) :]], -1).float()
        return [
            torch.stack(
                [
                    torch.cat([self._features(states[row], top[row], ids[row], span) for span in pair])
                    for pair in each.spans
                ]
            )
            for row, each in enumerate(sequences)
        ]

    def _features(self, states: Tensor, top: Tensor, ids: Tensor, span: Span) -> Tensor:
        inside = slice(span.first, span.last + 1)
        features = [states[span.last], states[inside].mean(0)]
        if self._log_probabilities:
            logits = self._model.get_output_embeddings()(top[span.first - 1 : span.last]).log_softmax(-1)
            found = logits.gather(1, ids[inside, None])[:, 0]
            features.append(torch.stack([found.sum(), found.min()]))
        return torch.cat(features).cpu()


class Critic:
    """Returns V and Q of replies.

    Args:
        reader: of the policy on whose states the heads were trained.
    """

    def __init__(self, reader: FeatureReader, heads: Heads, blocks: bool) -> None:
        self._reader, self._heads, self._blocks = reader, heads, blocks

    def __call__(self, replies: Sequence[tuple[Sequence[dict[str, str]], str]]) -> list[tuple[float, float]]:
        """Return V and the lower Q of each reply after its messages."""
        if not replies:
            return []
        sequences = [reply_decision(self._reader.chat, view, text, self._blocks) for view, text in replies]
        values, action_values = self.evaluate(*self._reader.read(sequences))
        return list(zip(values.tolist(), action_values.tolist(), strict=True))

    @torch.no_grad()
    def evaluate(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads.v(states), self._heads.q(actions).min(0).values


def save_critic(heads: Heads, config: CriticConfig, policy: Policy, out: Path) -> Policy:
    """Write heads beside a card that names the policy whose states they read."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(heads.state_dict(), str(out / HEADS))
    width = heads.value[0].in_features
    settings = {
        **{"layers": config.layers, "log_probabilities": config.log_probabilities},
        **{"hidden": config.hidden, "width": width, "policy": policy.revision()},
    }
    (out / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    card = PolicyCard(
        name=out.name,
        kind="adapter",
        blocks=policy.card.blocks,
        base=policy.card.base,
        base_revision=policy.card.base_revision,
        parent=policy.name,
        parent_revision=policy.revision(),
    )
    return Policy.write_card(out, card)


def load_critic(base: Policy, policy: Policy, critic: Policy, threads: int | None = None) -> Critic:
    """Return a saved critic with the policy whose states it reads.

    Raises:
        ValueError: if it was trained on another policy.
    """
    settings = json.loads((critic.path / SETTINGS).read_text())
    if settings["policy"] != policy.revision():
        raise ValueError(
            f"the critic at {critic.path} reads the states of another {policy.name} than the one at {policy.path}; "
            "train it again: kedro run --pipelines offline_rl"
        )
    heads = Heads(settings["width"], settings["hidden"])
    heads.load_state_dict(load_file(critic.path / HEADS))
    reader = FeatureReader(base, policy, settings["layers"], settings["log_probabilities"], threads)
    return Critic(reader, heads.eval(), policy.card.blocks)


def _head(width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)),
    )
