"""The critic: what it reads, and its values against those of an exact computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from tiny_base import tiny_base
from transformers import AutoModelForCausalLM

from sage_dialog.config import CriticConfig
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.inference.chat_format import ChatFormat, load_tokenizer
from sage_dialog.offline_rl.critic import FeatureReader, Transitions, expectile_loss, load_critic, train_heads
from sage_dialog.offline_rl.encoding import conversation_decisions, reply_decision
from sage_dialog.offline_rl.learning import train_critic
from sage_dialog.schemas import GOAL_DIALOGUES

CONFIG = CriticConfig(
    layers=1, log_probabilities=False, hidden=16, dropout=0.0, steps=300, batch_size=256, learning_rate=1e-2,
    weight_decay=0.0, discount=0.9, expectile=0.5, target_rate=0.05, conservative=0.0, alternatives=2, td_weight=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Policy]:
    return tiny_base(tmp_path_factory.mktemp("goal_base"))


def two_step_world(rows: int = 2000) -> tuple[Transitions, torch.Tensor, torch.Tensor]:
    """Dialogues of two replies: in either state two actions, the first leads to reward with p = 0.8, the second 0.2.

    The first action is a coin's; the second reply follows a coin too. Reward comes at the end, from the second reply
    alone, doubled where the first action was 1. Features are one-hot.
    """
    rng = np.random.default_rng(0)
    states, actions, rewards, following, which = [], [], [], [], []
    for dialogue in range(rows):
        first, second = rng.integers(2, size=2)
        won = float(rng.random() < (0.8 if second == 0 else 0.2)) * (2.0 if first == 1 else 1.0)
        states += [[1.0, 0.0, 0.0], [0.0, 1.0, float(first)]]
        actions += [[first, 1 - first, 0, 0, 0, 0], [0, 0, second, 1 - second, first, 1]]
        rewards += [0.0, won]
        following += [2 * dialogue + 1, -1]
        which += [first, 2 + 2 * first + second]
    data = Transitions(
        torch.tensor(states), torch.tensor(actions).float(), torch.tensor(rewards), torch.tensor(following)
    )
    return data, torch.tensor(which), torch.tensor(rewards)


@pytest.mark.parametrize("seed", [0, 1])
def test_values_are_those_of_the_exact_computation(seed: int) -> None:
    data, which, _ = two_step_world()
    heads, log = train_heads(data, CONFIG, seed)
    with torch.no_grad():
        q, v = heads.q(data.actions).min(0).values, heads.v(data.states)
    last = {2: 0.8, 3: 0.2, 4: 1.6, 5: 0.4}
    for action, expected in {**last, 0: 0.9 * 0.5, 1: 0.9 * 1.0}.items():
        assert q[which == action].mean().item() == pytest.approx(expected, abs=0.08), action
    assert v[0].item() == pytest.approx((0.45 + 0.9) / 2, abs=0.08)
    assert log[-1]["action_value_loss"] < log[0]["action_value_loss"]


def test_a_high_expectile_values_a_state_by_its_best_action() -> None:
    data, which, _ = two_step_world()
    heads, _ = train_heads(data, CONFIG.model_copy(update={"expectile": 0.95}), 0)
    with torch.no_grad():
        q = heads.q(data.actions).min(0).values
    # near the optimum: 0.9 × 0.8 and 0.9 × 1.6, not the mean over the data
    assert q[which == 1].mean() > 1.2 and 0.55 < q[which == 0].mean() < 0.85


def test_the_conservative_term_lowers_actions_outside_the_data() -> None:
    data, _, _ = two_step_world(400)
    other = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 5.0]).expand(len(data.rewards), 1, 6)
    data = Transitions(data.states, data.actions, data.rewards, data.following, other)
    values = []
    for weight in (0.0, 1.0):
        heads, _ = train_heads(data, CONFIG.model_copy(update={"steps": 200, "conservative": weight}), 0)
        with torch.no_grad():
            values.append(heads.q(other[:1, 0]).max().item())
    assert values[1] < values[0] - 0.5


def test_the_expectile_is_that_of_the_sample() -> None:
    """An independent way: the minimiser of the loss, found by search, balances the weighted distances."""
    sample = torch.tensor([0.0, 1.0, 1.0, 5.0])
    grid = torch.linspace(0, 5, 5001)
    best = grid[torch.stack([expectile_loss(sample - value, 0.8) for value in grid]).argmin()]
    above, below = (sample - best).clamp(min=0).sum(), (best - sample).clamp(min=0).sum()
    assert 0.8 * above.item() == pytest.approx(0.2 * below.item(), rel=0.01)


def test_blocks_are_located_in_the_tokens(policy: tuple[Policy, Policy], dialogues: DataFrame) -> None:
    tokenizer = load_tokenizer(policy[0].path)
    chat = ChatFormat(tokenizer)
    row = max(to_rows(dialogues), key=lambda row: row["replies"])
    (found,) = conversation_decisions(chat, row["messages"], blocks=True)
    replies = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    assert len(found.spans) == len(replies) > 1
    for (state, action), said in zip(found.spans, replies, strict=True):
        texts = [tokenizer.decode(found.tokens[span.first : span.last + 1]).strip() for span in (state, action)]
        assert said.startswith(" ".join(texts)) and texts[0].startswith("{u_") and texts[1].startswith("{a_")
        assert texts[0].endswith("]}") and texts[1].endswith("]}")


def test_without_blocks_the_reply_is_the_action(policy: tuple[Policy, Policy]) -> None:
    tokenizer = load_tokenizer(policy[0].path)
    prompt = [{"role": "user", "content": "Hello."}]
    found = reply_decision(ChatFormat(tokenizer), prompt, "Quiet, please.", blocks=False)
    state, action = found.spans[0]
    assert state.first == state.last == action.first - 1
    assert "Quiet, please." in tokenizer.decode(found.tokens[action.first : action.last + 1])


def test_features_of_a_reply_do_not_depend_on_what_follows_or_on_the_batch(
    policy: tuple[Policy, Policy], dialogues: DataFrame
) -> None:
    reader = FeatureReader(*policy, layers=2, log_probabilities=True, threads=1)
    rows = to_rows(dialogues)[:6]
    sequences = [each for row in rows for each in conversation_decisions(reader.chat, row["messages"], True)]
    states, actions = reader.read(sequences)
    place = 0
    for row in rows:
        for number, message in enumerate(row["messages"]):
            if message["role"] == "assistant":
                alone = reader.read([reply_decision(reader.chat, row["messages"][:number], message["content"], True)])
                torch.testing.assert_close(alone[0][0], states[place], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(alone[1][0], actions[place], atol=1e-5, rtol=1e-4)
                place += 1
    assert place == len(states) and actions.shape[1] == reader.width


def test_log_probabilities_are_those_of_the_policy(policy: tuple[Policy, Policy], dialogues: DataFrame) -> None:
    base, adapter = policy
    reader = FeatureReader(base, adapter, layers=1, log_probabilities=True, threads=1)
    (found,) = conversation_decisions(reader.chat, to_rows(dialogues)[0]["messages"], True)
    states, actions = reader.read([found])
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), str(adapter.path))
    with torch.no_grad():
        predicted = model(input_ids=torch.tensor([found.tokens])).logits[0].log_softmax(-1)
    for row, (state, action) in enumerate(found.spans):
        for features, span in ((states[row], state), (actions[row], action)):
            tokens = [predicted[place - 1, found.tokens[place]] for place in range(span.first, span.last + 1)]
            expected = torch.stack([torch.stack(tokens).sum(), torch.stack(tokens).min()])
            torch.testing.assert_close(features[-2:], expected, atol=1e-3, rtol=1e-3)


def test_a_critic_is_saved_read_again_and_tied_to_its_policy(
    policy: tuple[Policy, Policy], dialogues: DataFrame, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"steps": 30, "layers": 2, "dropout": 0.3, "log_probabilities": True})
    base, adapter = policy
    log, advantages, critic = train_critic(base, adapter, dialogues, config, 0, tmp_path / "critic", threads=1)
    again = train_critic(base, adapter, dialogues, config, 0, tmp_path / "again", threads=1)
    assert critic.revision() == again[2].revision() and advantages.equals(again[1]) and len(log) == 10
    assert set(advantages["split"]) == {"train", "valid"}
    row = to_rows(dialogues)[0]
    reply = next(place for place, message in enumerate(row["messages"]) if message["role"] == "assistant")
    ((value, action_value),) = load_critic(base, adapter, critic, 1)(
        [(row["messages"][:reply], row["messages"][reply]["content"])]
    )
    first = to_rows(advantages[(advantages["dialogue_id"] == row["dialogue_id"]) & (advantages["reply"] == 1)])[0]
    assert (value, action_value) == pytest.approx((first["value"], first["action_value"]), abs=1e-4)
    other = tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="reads the states of another"):
        load_critic(*other, critic, 1)


def test_the_critic_does_not_see_held_out_dialogues(
    policy: tuple[Policy, Policy], dialogues: DataFrame, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"steps": 30})
    changed = dialogues.assign(reward=dialogues["reward"].where(dialogues["split"] == "train", 9.0))
    one, other = (
        train_critic(*policy, table, config, 0, tmp_path / str(number), threads=1)[2]
        for number, table in enumerate((dialogues, changed))
    )
    assert one.revision() == other.revision()


def test_each_reply_can_have_a_reward_and_its_target_a_share_in_the_advantage(
    policy: tuple[Policy, Policy], dialogues: DataFrame, tmp_path: Path
) -> None:
    rows = to_rows(dialogues.head(12))
    for row in rows:
        row["reply_rewards"] = [0.1 * place for place in range(1, row["replies"] + 1)]
    table = from_rows(rows, GOAL_DIALOGUES)
    config = CONFIG.model_copy(update={"steps": 20, "discount": 0.5, "td_weight": 0.25})
    _, found, _ = train_critic(*policy, table, config, 0, tmp_path / "critic", threads=1)
    assert found.groupby("dialogue_id").size().max() > 2
    for _, replies in found.groupby("dialogue_id", sort=False):
        played = to_rows(replies)
        for place, row in enumerate(played):
            later = played[place + 1 :]
            assert row["realised"] == pytest.approx(
                sum(0.5**step * 0.1 * (place + 1 + step) for step in range(len(later) + 1))
            )
            target = 0.1 * (place + 1) + 0.5 * (later[0]["value"] if later else 0.0)
            expected = 0.75 * row["action_value"] + 0.25 * target - row["value"]
            assert row["advantage"] == pytest.approx(expected, abs=1e-6)


def test_a_critic_can_read_log_probabilities_alone(
    policy: tuple[Policy, Policy], dialogues: DataFrame, tmp_path: Path
) -> None:
    alone = FeatureReader(*policy, 0, True, 1)
    both = FeatureReader(*policy, 1, True, 1)
    sequences = conversation_decisions(alone.chat, to_rows(dialogues)[0]["messages"], True)
    states, actions = alone.read(sequences)
    _, full = both.read(sequences)
    assert alone.width == actions.shape[1] == 4 and states.shape[1] == 2
    torch.testing.assert_close(actions[:, :2], full[:, full.shape[1] // 2 - 2 : full.shape[1] // 2])
    torch.testing.assert_close(actions[:, 2:], full[:, -2:])
    config = CONFIG.model_copy(update={"steps": 20, "layers": 0, "log_probabilities": True})
    _, found, critic = train_critic(*policy, dialogues, config, 0, tmp_path / "critic", threads=1)
    row = to_rows(dialogues)[0]
    reply = next(place for place, message in enumerate(row["messages"]) if message["role"] == "assistant")
    ((value, _),) = load_critic(*policy, critic, 1)([(row["messages"][:reply], row["messages"][reply]["content"])])
    assert value == pytest.approx(found["value"].iloc[0], abs=1e-4)
    with pytest.raises(ValidationError, match="hidden states"):
        CriticConfig.model_validate(config.model_dump() | {"log_probabilities": False})
