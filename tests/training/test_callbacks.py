"""The outputs of a training besides the policy: its log, its rejects, evaluation on held-out examples."""

from __future__ import annotations

import logging
import math

import pandas as pd
import pytest

from sage_dialog import schemas
from sage_dialog.config import FineTuning, LoraSettings, Preference
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.inference.chat_format import load_tokenizer
from sage_dialog.training import dpo, sft
from sage_dialog.training.callbacks import training_log
from sage_dialog.training.dpo import preference_tune
from sage_dialog.training.sft import dialogue_group, fine_tune
from sage_dialog.training.trainer import train_eval_split

CONFIG = FineTuning.from_base(learning_rate=1e-2, batch_size=2, epochs=2.0, max_length=200)
LORA = LoraSettings.from_base(r=4, alpha=8)


def trained(base, conversations, scratch, **config):
    tuning = CONFIG.model_copy(update=config)
    return fine_tune("sage_t", base, None, conversations, tuning, LORA, 0, scratch, blocks=True, threads=1)


def pairs(*turns: tuple[str, int], chosen: str = "You can do this.") -> DataFrame:
    prompt = [{"role": "user", "content": "My boss took the roses."}]
    rows = [
        {"situation_id": situation, "turn": turn, "prompt": prompt, "chosen": chosen, "rejected": f"Lol {n}."}
        for n, (situation, turn) in enumerate(turns)
    ]
    return from_rows(rows, schemas.DPO_PAIRS)


def test_the_table_has_every_step_and_the_log_message_the_totals(base, conversations, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "sage_dialog")
    log = trained(base, conversations, tmp_path).log
    assert dict(log.dtypes) == dict(from_rows([], schemas.TRAINING_LOG).dtypes)
    rows = to_rows(log)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in rows] == pytest.approx([n / 3 for n in range(1, 7)])
    assert rows[0]["loss"] == pytest.approx(math.log(600), abs=0.5) and rows[-1]["loss"] < rows[0]["loss"]
    assert rows[1]["learning_rate"] > rows[-1]["learning_rate"] >= 0
    assert rows[0]["grad_norm"] > 0 and rows[0]["token_accuracy"] < 0.5
    assert rows[2]["tokens"] * 2 == rows[5]["tokens"], "two epochs of the same rows"
    assert {row["split"] for row in rows} == {"train"} and rows[0]["preference_accuracy"] is None
    assert f"sage_t: 6 of 6 steps, {rows[-1]['tokens']} tokens in " in caplog.text and "peak memory" in caplog.text


def test_tokens_are_counted_without_padding(base, conversations, tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    rows = to_rows(conversations)
    rows[0]["messages"][1]["content"] *= 3
    lengths = [len(tokenizer.apply_chat_template(row["messages"])["input_ids"]) for row in rows]
    table = from_rows(rows, schemas.SFT_CONVERSATIONS)
    assert trained(base, table, tmp_path, epochs=1.0).log["tokens"].iloc[-1] == sum(lengths)


def test_the_last_step_is_in_the_log_of_a_long_training_too() -> None:
    entry = {"epoch": 1.0, "num_input_tokens_seen": 9, "loss": 1.0, "learning_rate": 0.0}
    history = [{**entry, "step": 2}, {"eval_loss": 2.0, "epoch": 1.0, "step": 2, "num_input_tokens_seen": 9}]
    log = training_log([*history, {"train_runtime": 3.0, "train_loss": 1.0, "epoch": 1.0, "step": 2}])
    assert [(row["split"], row["loss"]) for row in to_rows(log)] == [("train", 1.0), ("held out", 2.0)]


def test_the_balance_of_the_experts_is_stated_apart_from_the_loss(base, conversations, tmp_path) -> None:
    """The base has two experts and picks both, so that its imbalance is near 2."""

    def first(coefficient: float | None):
        log = trained(base, conversations, tmp_path / str(coefficient), router_aux_loss_coef=coefficient).log
        return to_rows(log)[0]

    own, none, heavy = first(None), first(0.0), first(0.5)
    assert none["router_aux_loss"] is None and own["router_aux_loss"] == pytest.approx(heavy["router_aux_loss"])
    assert heavy["loss"] - none["loss"] == pytest.approx(0.5 * heavy["router_aux_loss"], abs=1e-3)
    assert own["loss"] - none["loss"] == pytest.approx(0.001 * own["router_aux_loss"], abs=1e-3), "of its config"


def test_preference_tuning_evaluates_on_held_out_situations(base, conversations, tmp_path, monkeypatch) -> None:
    start = trained(base, conversations, tmp_path / "start").policy
    given = pairs(*((f"s{n}", turn) for n in range(5) for turn in (1, 3)))
    config = Preference.from_base(learning_rate=1e-2, batch_size=2, epochs=3.0, held_out=0.2)
    sides: list[list[str]] = []

    def split(*args):
        splits = train_eval_split(*args)
        sides.extend([load_tokenizer(base.path).decode(reply) for reply in side["rejected_ids"]] for side in splits)
        return splits

    monkeypatch.setattr(dpo, "train_eval_split", split)
    log = to_rows(preference_tune("sage_dpo", base, start, given, config, 0, tmp_path, threads=1).log)
    measured = [row for row in log if row["split"] == "held out"]
    assert measured[-1]["step"] == log[-1]["step"] == 12, "four situations of five, two pairs each, two a step"
    assert measured[-1]["preference_margin"] > measured[0]["preference_margin"]
    assert measured[-1]["preference_accuracy"] == 1.0 and measured[-1]["learning_rate"] is None
    assert log[0]["preference_margin"] == pytest.approx(0), "the reference is the starting policy"
    first, second = (int(text.split()[1].partition(".")[0]) for text in sides[1])
    assert len(sides[0]) == 8 and second == first + 1 and first % 2 == 0, "both pairs of a situation"


def test_fine_tuning_evaluates_on_held_out_conversations(base, conversations, tmp_path) -> None:
    log = to_rows(trained(base, conversations, tmp_path, held_out=1 / 3, epochs=6.0).log)
    measured = [row["loss"] for row in log if row["split"] == "held out"]
    assert log[-1]["step"] == 12, "four conversations of six, two a step"
    assert measured[-1] < measured[0] < log[0]["loss"]


def test_both_sides_of_a_dialogue_and_a_whole_thread_are_held_out_together(
    base, conversations, tmp_path, monkeypatch
) -> None:
    """No held-out text is trained on."""
    from transformers import AutoTokenizer

    rows = []
    for number, row in enumerate(to_rows(conversations)):
        messages, thread = row["messages"], f"1000{number}q"
        plain = {"conversation_id": f"instructions:a.json[{number}]", "source": "instructions"}
        rows.append({**plain, "messages": [{"role": "user", "content": f"{number}{number}?"}, messages[2]]})
        for source in ("listener", "speaker"):
            for comment in ("2000aa", "2000bb"):
                known = {"conversation_id": f"{source}:{thread}/{comment}", "source": source}
                rows.append({**known, "messages": messages})
    seen: dict[str, list[str]] = {}
    tokenizer = AutoTokenizer.from_pretrained(base.path)

    def split(*args):
        splits = train_eval_split(*args)
        seen["train"], seen["held out"] = ([tokenizer.decode(ids) for ids in side["input_ids"]] for side in splits)
        return splits

    monkeypatch.setattr(sft, "train_eval_split", split)
    trained(base, from_rows(rows, schemas.SFT_CONVERSATIONS), tmp_path, held_out=0.5, max_steps=1)
    assert set(seen["train"]).isdisjoint(seen["held out"])
    assert len(seen["train"] + seen["held out"]) == 30 and any("boss" in text for text in seen["held out"])


def test_dialogue_group_is_the_dialogue_or_the_reddit_thread() -> None:
    same = {
        dialogue_group(f"{source}:1007pw/{comment}", source)
        for source in ("listener", "other")
        for comment in ("1007q3", "1007q9")
    }
    assert same == {"1007pw"}
    ids = ["a/b.json[0]", "chat/1", "hit:0_conv:1", "hit:1_conv:1"]
    assert [dialogue_group(f"mine:{name}", "mine") for name in ids] == ids
    assert dialogue_group("hit:0_conv:1", "trajectories") == "hit:0_conv:1"


@pytest.mark.parametrize(("loss_type", "loss"), [("hinge", 1.0), ("ipo", 25.0), ("apo_zero", 1.0)])
def test_loss_type_selects_the_loss(base, conversations, tmp_path, loss_type, loss) -> None:
    """Policy and reference agree before the first step: the margin is 0, and IPO's target 1 / (2 beta)."""
    start = trained(base, conversations, tmp_path / "start", max_steps=1).policy
    config = Preference.from_base(learning_rate=1e-2, batch_size=1, loss_type=loss_type, sft_weight=0.0)
    log = preference_tune("sage_dpo", base, start, pairs(("s", 1)), config, 0, tmp_path, threads=1).log
    assert log["loss"].to_list() == pytest.approx([loss], abs=0.003)


def test_groups_are_held_out_as_a_whole() -> None:
    rows = [{"row": f"{group}{n}", "group": group} for group in "abcdefghij" for n in range(3)]
    examples = pd.DataFrame(rows)
    train, held_out = train_eval_split("sage_t", examples, 0.3, 0)
    assert len(held_out) == 9 and set(train["group"]).isdisjoint(held_out["group"])
    assert sorted([*train["row"], *held_out["row"]]) == [row["row"] for row in rows]
    repeated = train_eval_split("another name", examples, 0.3, 0)
    assert train.equals(repeated[0]) and held_out.equals(repeated[1])
    single = examples.assign(group=examples["row"])
    others = {tuple(train_eval_split("sage_t", single, 0.3, seed)[1]["row"]) for seed in range(5)}
    assert len(others) == 5
    train, held_out = train_eval_split("sage_t", single, 0.0, 0)
    assert train.equals(single) and len(held_out) == 0
    for share, empty in ((0.01, "evaluate on"), (0.99, "train on")):
        with pytest.raises(ValueError, match=f"held_out {share} of 10 leaves nothing to {empty}"):
            train_eval_split("sage_t", examples, share, 0)


def test_long_pairs_are_rejected_and_several_pairs_of_a_turn_are_kept(base, conversations, tmp_path) -> None:
    start = trained(base, conversations, tmp_path / "start").policy
    given = to_rows(pairs(("s", 1), ("s", 1), ("s", 3)))
    given[1]["rejected"] *= 99
    table = from_rows(given, schemas.DPO_PAIRS)
    config = Preference.from_base(learning_rate=1e-2, batch_size=1, max_length=200)
    made = preference_tune("sage_dpo", base, start, table, config, 0, tmp_path, threads=1)
    assert list(made.training_rejects["row"]) == ["s 1 2"]
    assert list(made.log["step"]) == [1, 2]


def test_a_pair_of_equal_replies_is_an_error(base, conversations, tmp_path) -> None:
    start = trained(base, conversations, tmp_path / "start").policy
    with pytest.raises(ValueError, match="chosen and rejected of s 3 are equal"):
        given = pairs(("s", 1), ("s", 3), chosen="Lol 1.")
        preference_tune(
            "sage_dpo", base, start, given, Preference.from_base(learning_rate=1e-2, batch_size=1), 0, tmp_path
        )


@pytest.mark.slow
def test_group_by_length_makes_batches_of_similar_length(base, conversations, tmp_path, monkeypatch) -> None:
    import trl

    rows = [
        {**row, "conversation_id": f"{row['conversation_id']} {n}"} for n in range(8) for row in to_rows(conversations)
    ]
    for n, row in enumerate(rows):
        row["messages"] = [*row["messages"][:-1], {"role": "assistant", "content": "Keep going." * (1 + n % 8)}]
    table = from_rows(rows, schemas.SFT_CONVERSATIONS)
    seen: list[int] = []
    batches: list[int] = []
    genuine = trl.SFTTrainer.training_step

    def watched(trainer, model, inputs, *more):
        seen.append(int((inputs["attention_mask"] == 0).sum()))
        batches.append(int(inputs["input_ids"].sum()))
        return genuine(trainer, model, inputs, *more)

    monkeypatch.setattr(trl.SFTTrainer, "training_step", watched)
    policies, padding = [], []
    for place, group in (("a", False), ("b", True), ("c", True)):
        policies.append(trained(base, table, tmp_path / place, group_by_length=group, epochs=2.0).policy)
        padding.append(sum(seen))
        seen.clear()
    assert padding[1] * 2 < padding[0]
    assert batches[-24:] != batches[-48:-24], "another epoch, other batches"
    assert policies[1].revision() == policies[2].revision() != policies[0].revision()
