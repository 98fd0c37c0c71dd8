"""The grid: requests to the engine and the annotator, and scores of compliance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from pydantic import ValidationError

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.datasets.schema import TableSchema
from sage_dialog.dialogue import Message
from sage_dialog.evaluation.replies.steering_eval import UNSTEERED, Opening, Row, Setting, play_grid, steering_eval
from sage_dialog.evaluation.statistics import clustered_share
from sage_dialog.inference.engine import FinishReason, Prompt, Sample
from sage_dialog.roles.offline.annotator import OfflineAnnotator
from sage_dialog.roles.protocols import LabelledUtterance, RejectedDialogue
from sage_dialog.sac import Chain, Intent, render
from sage_dialog.schemas import STEERING_GRID

SAMPLING = SamplingConfig.from_base()
HUMOR, COMFORT = Setting("a_motivation", ("humor",)), Setting("a_motivation", ("comfort",))


def reply(utterance: str, motivation: str | None = None, topics: tuple[str, ...] = ()) -> Sample:
    return Sample(render(Chain(Intent("sharing"), Intent(motivation, None, topics), utterance)), 9, FinishReason.STOP)


@dataclass
class Engine:
    """Engine that replies by situation and steering and records its requests."""

    answer: Callable[[str, Steering | None], Sample | None]
    requests: list[tuple[list[Prompt], Steering | None]] = field(default_factory=list)
    fingerprint_inputs: Mapping[str, object] = field(default_factory=dict)

    def sample(self, policy, prompts, sampling, samples=1, steering=None, on_text=None) -> list[list[Sample]]:
        assert samples == 1
        self.requests.append((prompts, steering))
        answers = [self.answer(prompt.messages[-1]["content"], steering) for prompt in prompts]
        return [[] if answer is None else [answer] for answer in answers]


@dataclass
class Annotator:
    """Annotator with fixed labels by reply, none for other replies; it rejects a reply whose label is None."""

    labels_by_reply: Mapping[str, Intent | None] = field(default_factory=dict)
    name: str = "test-annotator"
    annotated: list[Sequence[Message]] = field(default_factory=list)

    def annotate(self, dialogues):
        for dialogue in dialogues:
            self.annotated.append(dialogue)
            intent = self.labels_by_reply.get(dialogue[-1].text, Intent())
            yield (
                RejectedDialogue("no")
                if intent is None
                else tuple(LabelledUtterance(intent, message.text) for message in dialogue)
            )


def openings(*texts: str) -> list[Opening]:
    return [Opening(f"s{text}", text, Prompt(({"role": "user", "content": text},), (text,))) for text in texts]


def grid(answer, settings: Sequence[Setting], texts: str = "a", annotator: object = None) -> list[Row]:
    return play_grid(Engine(answer), "sage_9", openings(*texts), settings, SAMPLING, annotator or Annotator())


def test_every_situation_is_sampled_with_each_value_and_once_without_steering() -> None:
    engine = Engine(lambda text, steering: reply(f"{text}."))
    rows = play_grid(engine, "sage_9", openings("a", "b"), [UNSTEERED, HUMOR], SAMPLING, Annotator())
    assert [(row["situation_id"], row["field"], row["labels"]) for row in rows] == [
        ("sa", None, None),
        ("sa", "a_motivation", ["humor"]),
        ("sb", None, None),
        ("sb", "a_motivation", ["humor"]),
    ]
    assert [steering for _, steering in engine.requests] == [None, Steering(fixed={"a_motivation": "humor"})]
    assert engine.requests[0][0] == engine.requests[1][0]  # the same draws for every setting


def test_topics_are_steered_as_a_set_and_boosts_hold_for_each_label() -> None:
    topics = ("sport", "health")
    assert Setting("a_topic", topics).steering == Steering(fixed={"a_topic": topics})
    assert Setting("a_topic", topics, 4.0).steering == Steering(boosts={"a_topic": {"sport": 4.0, "health": 4.0}})
    assert Setting("a_emotion", ("sad",), -1.0).steering == Steering(boosts={"a_emotion": {"sad": -1.0}})
    with pytest.raises(ValidationError, match=r"'\{'"):
        _ = Setting("a_emotion", ("{",)).steering


def test_rates_by_hand() -> None:
    """Humor is in three of four blocks and annotated in two replies, comfort in all blocks; unsteered, d is comfort."""

    def answer(text: str, steering: Steering | None) -> Sample:
        if steering is None:
            return reply(f"plain {text}", "comfort" if text == "d" else "asking")
        motivation = str(steering.fixed["a_motivation"])
        return reply(f"{motivation} {text}", "asking" if (motivation, text) == ("humor", "a") else motivation)

    labels_by_reply = {f"humor {text}": Intent("humor") for text in "ab"} | {
        f"comfort {text}": Intent("comfort") for text in "d"
    }
    rows = grid(answer, [UNSTEERED, HUMOR, COMFORT], "abcd", Annotator({**labels_by_reply, "plain c": Intent("humor")}))
    humor, comfort, both = steering_eval(rows, 0.95)
    assert (humor.labels, comfort.labels, both.labels) == (("humor",), ("comfort",), ())
    assert humor.block.value == 0.75 and humor.block.n == 4
    assert (humor.block.low, humor.block.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson, 3 of 4
    assert (humor.reply.value, humor.reply.low) == pytest.approx((0.5, 0.1500), abs=1e-4)  # 2 of 4
    assert (humor.block_unsteered.value, humor.reply_unsteered.value) == (0.0, 0.25)
    assert (comfort.block.value, comfort.reply.value) == (1.0, 0.25)
    assert (comfort.block_unsteered.value, comfort.reply_unsteered.value) == (0.25, 0.0)
    assert both.block == clustered_share([1, 2, 2, 2], [2, 2, 2, 2], 0.95)
    assert both.reply == clustered_share([1, 1, 0, 1], [2, 2, 2, 2], 0.95)
    assert both.reply_unsteered.value == 1 / 8


def test_block_and_reply_compliance_are_scored_separately() -> None:
    rows = grid(
        lambda text, steering: reply("Haha!", "asking"), [UNSTEERED, HUMOR], "a", Annotator({"Haha!": Intent("humor")})
    )
    assert [(row.get("block_compliance"), row.get("reply_compliance")) for row in rows] == [(None, None), (0.0, 1.0)]


def test_of_a_set_of_topics_each_counts() -> None:
    setting = Setting("a_topic", ("sport", "health", "food"))
    annotator = Annotator({"Run!": Intent(None, None, ("health", "sport", "music"))})
    _, row = grid(lambda text, steering: reply("Run!", None, ("health", "wine")), [UNSTEERED, setting], "a", annotator)
    assert row["block_compliance"] == pytest.approx(1 / 3) and row["reply_compliance"] == pytest.approx(2 / 3)
    assert row["a_topics"] == ["health", "wine"] and row["read_topics"] == ["health", "sport", "music"]


def test_invalid_replies_have_no_compliance_and_are_not_annotated(caplog: pytest.LogCaptureFixture) -> None:
    broken = Sample("{u_motivation: sharing, oh", 5, FinishReason.LENGTH)
    cut = Sample(reply("Half a", "humor").text, 9, FinishReason.LENGTH)
    answers = {"a": broken, "b": None, "c": reply("  ", "humor"), "d": cut, "e": reply("What?", "humor")}
    annotator = Annotator({"Half a": Intent("humor"), "What?": None})
    rows = grid(lambda text, steering: answers[text], [HUMOR], "abcde", annotator)
    assert [row["block_compliance"] for row in rows] == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert [row["reply_compliance"] for row in rows] == [None, None, 0.0, 1.0, None]
    assert [row["invalid_reason"] and row["invalid_reason"].split(":")[0] for row in rows] == [
        "cut at the token limit",
        "no room in the model's context",
        "empty utterance",
        "cut at the token limit",
        None,
    ]
    assert [dialogue[-1].text for dialogue in annotator.annotated] == ["Half a", "What?"]
    assert [message.role for message in annotator.annotated[0]] == ["user", "assistant"] and annotator.annotated[0][
        0
    ].text == "d"
    assert "labels 1 of 2 replies not, the first: no" in caplog.text
    (score,) = steering_eval(rows, 0.95)
    assert (score.block.value, score.block.n) == (0.6, 5) and (score.reply.value, score.reply.n) == (0.5, 2)
    assert score.block_unsteered is None and score.reply_unsteered is None  # there is no reply without steering


def test_labels_unknown_to_the_annotator_are_not_scored() -> None:
    """The lists of the offline annotator have "humor" and not "sarcasm"."""
    text = "Plot twist, lol! The tomatoes, of all things."

    def answer(situation: str, steering: Steering | None) -> Sample:
        return reply(text, "sarcasm", ("garden",))

    settings = [UNSTEERED, HUMOR, Setting("a_motivation", ("sarcasm",)), Setting("a_topic", ("garden", "ninjas"))]
    rows = grid(answer, settings, "a", OfflineAnnotator())
    assert [row["reply_compliance"] for row in rows[1:]] == [1.0, None, None]
    assert [row["block_compliance"] for row in rows[1:]] == [0.0, 1.0, 0.5]
    humor, sarcasm, both, topics = steering_eval(rows, 0.95)
    assert (humor.reply.value, humor.reply_unsteered.value) == (1.0, 1.0)
    assert sarcasm.reply is None and sarcasm.reply_unsteered is None and topics.reply is None
    assert both.reply.n == 1 and both.block.n == 2


def test_the_labels_of_the_offline_annotator_are_those_it_gives() -> None:
    labels = OfflineAnnotator().labels
    ((_, read),) = OfflineAnnotator().annotate(
        [(Message("user", "Hm."), Message("assistant", "Hooray, the tomatoes!"))]
    )
    assert read.intent.motivation in labels["motivation"] and read.intent.emotion in labels["emotion"]
    assert read.intent.topics == ("garden",) and "garden" in labels["topic"]


def test_the_compliance_can_be_computed_from_the_table() -> None:
    answers = {"a": reply("Ha.", "humor"), "b": Sample("oh", 1, FinishReason.STOP), "c": None}
    rows = grid(
        lambda text, steering: answers[text], [UNSTEERED, HUMOR, COMFORT], "abc", Annotator({"Ha.": Intent("humor")})
    )
    table = from_rows(rows, STEERING_GRID)
    TableSchema("STEERING_GRID").validate(table)
    assert len(table) == 9
    assert steering_eval(to_rows(table), 0.9) == steering_eval(rows, 0.9)
