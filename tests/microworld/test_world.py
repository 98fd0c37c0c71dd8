"""The demo world: composed, new on every split, and readable back."""

from __future__ import annotations

import json
from collections import Counter

import pandas as pd
import pyarrow as pa
import pytest

from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import from_arrow, to_rows
from sage_dialog.corpora.empathetic import EMOTIONS
from sage_dialog.microworld import files, questions, reddit
from sage_dialog.microworld.base_text import documents
from sage_dialog.microworld.truth import truth_scores, truth_votes
from sage_dialog.microworld.world import load_world


@pytest.fixture(scope="module")
def world():
    return load_world()


def frame(rows):
    return from_arrow(pa.Table.from_pylist(rows))


def test_the_world_has_the_32_emotions_and_knows_what_suits_each(world):
    assert sorted(world.emotions) == sorted(EMOTIONS)
    for emotion in world.emotions:
        assert len(world.suitable(emotion)) == 2
        assert set(world.suitable(emotion)) <= set(world.motivations)


def test_one_cue_alone_does_not_decide_what_suits(world):
    """No motivation suits more than half of the emotions that share a cue: both cues must be read."""
    rows = list(world.parts["emotions"].values())
    columns = [[row[modifier] for row in rows] for modifier in world.parts["modifiers"]]
    for emotions in [list(row.values()) for row in rows] + columns:
        suited = Counter(name for emotion in emotions for name in world.suitable(emotion))
        assert max(suited.values()) <= len(emotions) / 2


def test_no_utterance_names_a_feeling(world):
    for number in range(300):
        rng = generator(1, "test", number)
        scene = world.scene(rng)
        utterances = [scene.text, world.follow_up(rng, scene, True, scene.things[1])]
        assert not set(" ".join(utterances).lower().split()) & set(world.emotions)


def test_the_motivation_of_a_reply_is_recovered(world):
    for number in range(400):
        rng = generator(2, "test", number)
        scene = world.scene(rng)
        motivation = world.motivations[number % len(world.motivations)]
        reply = world.reply(rng, scene, motivation, scene.things[0])
        assert world.motivation_of(reply) == motivation
        assert world.topics_in(reply) <= {scene.topic}
    assert world.motivation_of("There are several aspects of the garden that are relevant in this context.") is None


def test_held_out_situations_are_new_text_and_the_same_seed_gives_the_same_files(world):
    sizes = {"train": 300, "valid": 100, "test": 100}
    written, truth = files.empathetic_dialogues(world, sizes, seed=3)
    repeated, _ = files.empathetic_dialogues(world, sizes, seed=3)
    other, _ = files.empathetic_dialogues(world, sizes, seed=4)
    assert written == repeated
    assert written != other
    texts = {
        split: {line.split(",")[3] for line in written[f"{split}.csv"].decode().splitlines()[1:]} for split in sizes
    }
    assert [len(texts[split]) for split in sizes] == [300, 100, 100]
    assert not texts["test"] & (texts["train"] | texts["valid"])
    assert len({row["situation_id"] for row in truth}) == 500


def test_months_are_deterministic_and_have_broken_lines(world):
    written = reddit.months(world, 120, seed=5)
    assert written == reddit.months(world, 120, seed=5)
    assert sorted(written) == sorted(
        f"{kind}_{month}.{suffix}"
        for kind in ("RC", "RS")
        for month, suffix in zip(reddit.MONTHS, ("zst", "bz2", "zst"), strict=True)
    )


def test_documents_depend_on_their_number_alone(world):
    assert documents(world, 40, seed=6)[:20] == documents(world, 20, seed=6)


def test_multiple_choice_has_one_right_answer(world):
    """Derived from the words of the question."""
    parts = world.parts
    things = {thing: topic for topic, about in parts["topics"].items() for thing in about["things"]}

    def right(kind, question, choice):
        emotion = next((word for word in question.split() if word in world.emotions), world.emotion_in(question))
        found = {
            "topics": lambda: things[choice] in question,
            "feelings": lambda: choice == world.emotion_in(question),
            "advice": lambda: choice in world.suitable(emotion),
            "replies": lambda: choice == world.motivation_of(question),
            "offers": lambda: choice in world.suitable(world.emotion_in(question)),
        }
        return found[kind]()

    written = questions.multiple_choice(world, 60, seed=7)
    assert written == questions.multiple_choice(world, 60, seed=7)
    assert set(written) == {f"{kind}.jsonl" for kind in ("topics", "feelings", "advice", "replies", "offers")}
    for name, lines in written.items():
        rows = [json.loads(line) for line in lines.decode().splitlines()]
        assert len(rows) == 60
        for row in rows:
            kind = name.removesuffix(".jsonl")
            assert len(set(row["choices"])) == 4
            good = [place for place, one in enumerate(row["choices"]) if right(kind, row["question"], one)]
            assert good == [row["answer"]], (kind, row)
        assert set(Counter(row["answer"] for row in rows)) == {0, 1, 2, 3}


def _rollout(world, scene, motivations, plan=None):
    rng = generator(8, "rollout")
    rows = [{"situation_id": "s", "turn": 0, "role": "user", "text": scene.text, "a_motivation": None}]
    for number, motivation in enumerate(motivations):
        text = world.reply(rng, scene, motivation, scene.things[0])
        row = {
            "turn": 2 * number + 1,
            "role": "assistant",
            "text": text,
            "a_motivation": plan,
            "u_emotion": scene.emotion,
        }
        rows.append({"situation_id": "s"} | row)
    return frame([{"u_emotion": None} | row for row in rows])


def test_a_dialogue_without_any_reply_loses_and_is_not_left_out(world):
    row = {"scorer": "w", "policy": "talks", "statistic": "attuned", "exchange": 1}
    talks = [row | {"situation_id": name, "value": value} for name, value in (("s1", 1.0), ("s2", 1.0), ("s3", 0.0))]
    silent = [row | {"policy": "silent", "situation_id": "s1", "value": 1.0}]
    ballots = to_rows(truth_votes(frame([*talks, *silent]), [("silent", "talks"), ("talks", "mute")]))
    found = {(ballot["policy_b"], ballot["situation_id"]): ballot["vote"] for ballot in ballots}
    assert found == {
        **{("talks", "s1"): "tie", ("talks", "s2"): "b", ("talks", "s3"): "tie"},
        **{("mute", "s1"): "a", ("mute", "s2"): "a", ("mute", "s3"): "tie"},
    }


def test_every_statistic_of_a_reply_by_hand(world):
    """The user's feeling stays, changes, is missing, and returns."""
    rng = generator(10, "by hand")
    scene = world.scene(rng)
    suits = world.suitable(scene.emotion)[0]
    grates = next(name for name in world.motivations if name not in world.suitable(scene.emotion))
    other = next(drawn for drawn in iter(lambda: world.scene(rng), None) if suits not in world.suitable(drawn.emotion))
    thing = scene.things[0]
    fits = world.reply(rng, scene, suits, thing)
    strays = world.reply(rng, scene, grates, world.other_thing(rng, scene))
    turns = [
        (scene.text, fits, scene.emotion, suits),
        (world.feeling(other), fits, scene.emotion, suits),
        ("Yes, that it is.", strays, "hungry", suits),
        (world.feeling(scene), world.reply(rng, scene, suits, thing), None, None),
    ]
    rows = []
    for number, (message, reply, read, plan) in enumerate(turns):
        for offset, role, text in ((0, "user", message), (1, "assistant", reply)):
            rows.append({"situation_id": "s", "turn": 2 * number + offset, "role": role, "text": text})
            rows[-1] |= (
                {"u_emotion": read, "a_motivation": plan} if offset else {"u_emotion": None, "a_motivation": None}
            )
    truth = frame([{"situation_id": "s", "emotion": scene.emotion, "topic": scene.topic, "suitable": []}])
    found = {}
    for row in to_rows(truth_scores(world, truth, frame(rows[::-1]).assign(policy="sage_1"))):
        found.setdefault(row["statistic"], {})[row["exchange"]] = row["value"]
    assert found == {
        "suitable": {1: 1, 2: 0, 3: 0, 4: 1},
        "on topic": {1: 1, 2: 1, 3: 0, 4: 1},
        "fresh": {1: 1, 2: 0, 3: 1, 4: 1},
        "attuned": {1: 1, 2: 0, 3: 0, 4: 1},
        "emotion read": {1: 1, 2: 0, 3: 0},
        "plan suits own reading": {1: 1, 2: 1, 3: 0},
        "said as planned": {1: 1, 2: 1, 3: 0},
        "user keeps the feeling": {2: 0, 3: 0, 4: 1},
    }


def test_truth_scores_what_suits_and_votes_for_more_of_it(world):
    scene = world.scene(generator(9, "scene"))
    suitable = world.suitable(scene.emotion)
    wrong = next(name for name in world.motivations if name not in suitable)
    truth = frame([{"situation_id": "s", "emotion": scene.emotion, "topic": scene.topic, "suitable": list(suitable)}])
    rollouts = [
        _rollout(world, scene, [suitable[0], suitable[1]], plan=suitable[0]).assign(policy="good"),
        _rollout(world, scene, [suitable[0], wrong]).assign(policy="poor"),
    ]
    table = truth_scores(world, truth, pd.concat(rollouts))
    values = {(row["policy"], row["statistic"], row["exchange"]): row["value"] for row in to_rows(table)}
    assert values["good", "suitable", 2] == 1.0
    assert values["poor", "suitable", 2] == 0.0
    assert values["good", "said as planned", 1] == 1.0
    assert values["good", "said as planned", 2] == 0.0
    assert ("poor", "said as planned", 1) not in values
    ballots = to_rows(truth_votes(table, [("poor", "good")]))
    assert [(ballot["order"], ballot["vote"]) for ballot in ballots] == [("ab", "b"), ("ba", "b")]
