"""Parsing of input lines, and completion."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_dialog import schemas
from sage_dialog.config import Steering
from sage_dialog.core.tables import from_rows
from sage_dialog.sac import Chain, Intent
from sage_dialog.studio.chat.conversation import add_boost, clear_field, fix_value
from sage_dialog.studio.chat.terminal.commands import COMMANDS, Action, parse_line
from sage_dialog.studio.chat.terminal.completion import add_values, completions, known_values
from sage_dialog.studio.chat.terminal.display import format_steering


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("  I am sad. /undo ", ("say", "I am sad. /undo")),
        ("//shrug", ("say", "/shrug")),
        (" ", None),
        ("/boost a_motivation humor 4", ("boost", "a_motivation", "humor", 4.0)),
        ("/boost a_motivation  seeking  advice  -2.5 ", ("boost", "a_motivation", "seeking advice", -2.5)),
        ("/fix a_emotion playful", ("fix", "a_emotion", "playful")),
        ("/fix a_motivation seeking advice", ("fix", "a_motivation", "seeking advice")),
        ("/fix u_emotion null", ("fix", "u_emotion", None)),
        ("/fix u_topic garden,dogs", ("fix", "u_topic", ("garden", "dogs"))),
        ("/fix a_topic null", ("fix", "a_topic", ())),
        ("/topics music,  board games,", ("fix", "a_topic", ("music", "board games"))),
        ("/clear", ("clear", None)),
        ("/clear a_topic", ("clear", "a_topic")),
        ("/pick 12", ("pick", 12)),
        ("/blocks off", ("blocks", False)),
        ("/save my talk.jsonl", ("save", Path("my talk.jsonl"))),
        ("/load talk", ("load", Path("talk"))),
        ("/edit", ("edit", None)),
        ("/edit I lost\nmy keys.", ("edit", "I lost\nmy keys.")),
        ("/tokens 200", ("sampling", "max_new_tokens", 200)),
        ("/temperature .7", ("sampling", "temperature", 0.7)),
        ("/system You listen.\nYou ask.", ("system", "You listen.\nYou ask.")),
        ("/system\nYou listen.", ("system", "You listen.")),
        ("/system null", ("system", None)),
        ("/retry ", ("retry",)),
        ("/quit", ("quit",)),
    ],
)
def test_a_line_is_a_message_or_a_command(line: str, action: Action | None) -> None:
    assert parse_line(line) == action


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/rtry", "no command /rtry (did you mean /retry?); /help lists"),
        ("/Retry now", "no command /Retry"),
        ("/retry now", "/retry takes no arguments, not 'now'"),
        ("/boost a_motivation humor", "takes a field, a keyword and a weight"),
        ("/boost a_motivation humor much", "'much' is not a number"),
        ("/boost a_motivation humor nan", "'nan' is not a number"),
        ("/boost a_emotoin calm 2", "no field 'a_emotoin' (did you mean a_emotion?); the fields are u_motivation, "),
        ("/fix a_emotion", "takes a field and its value"),
        ("/topics", "as in /topics music, sport"),
        ("/clear everything", "no field 'everything'"),
        ("/pick two", "takes the number of a candidate"),
        ("/pick -1", "takes the number of a candidate"),
        ("/blocks", "takes on or off"),
        ("/save", "takes the name of a file"),
        ("/load", "as in /load talk.jsonl"),
        ("/tokens many", "takes a number of tokens"),
        ("/tokens " + "9" * 5000, "takes a number of tokens"),
        ("/temperature", "'' is not a number; /temperature takes one, as in /temperature 0.7"),
        ("/system", "takes a system prompt, or null for none"),
    ],
)
def test_an_invalid_command_is_refused_with_its_usage(line: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_line(line)
    assert reason in str(error.value)


def test_every_command_is_documented() -> None:
    text = (Path(__file__).parents[4] / "docs/chat.md").read_text().replace("\\|", "|")
    assert [
        name for name, command in COMMANDS.items() if f"`/{name} {command.usage}`".replace(" `", "`") not in text
    ] == []


def test_the_last_command_on_a_field_counts() -> None:
    steering = add_boost(Steering(), "a_motivation", "humor", 4)
    steering = add_boost(steering, "a_motivation", "comfort", -1)
    steering = fix_value(steering, "a_emotion", "calm")
    assert steering == Steering(boosts={"a_motivation": {"humor": 4, "comfort": -1}}, fixed={"a_emotion": "calm"})
    assert fix_value(steering, "a_motivation", "humor") == Steering(
        fixed={"a_emotion": "calm", "a_motivation": "humor"}
    )
    assert add_boost(steering, "a_emotion", "sad", 1).fixed == {}
    assert add_boost(steering, "a_emotion", "sad", 0) == steering
    fewer_boosts = add_boost(steering, "a_motivation", "humor", 0)
    assert fewer_boosts.boosts == {"a_motivation": {"comfort": -1}}
    assert add_boost(fewer_boosts, "a_motivation", "comfort", 0).boosts == {}
    assert clear_field(steering, "a_motivation") == Steering(fixed={"a_emotion": "calm"})
    assert not clear_field(steering, None)


def test_commands_keep_the_scale_of_boosts() -> None:
    steering = fix_value(add_boost(Steering(boost_scale="logits"), "a_motivation", "humor", 4), "a_emotion", "calm")
    assert steering.boost_scale == "logits" and format_steering(steering).plain.startswith(
        "boost a_motivation humor +4 (raw logits)"
    )
    assert clear_field(steering, "a_emotion").boost_scale == clear_field(steering, None).boost_scale == "logits"


def test_an_invalid_value_is_refused() -> None:
    with pytest.raises(ValueError, match="reserves"):
        add_boost(Steering(), "a_motivation", "[bold]", 4)
    with pytest.raises(ValueError, match="a_topic"):
        fix_value(Steering(), "a_topic", ("a", "b: c"))


KNOWN = {"a_motivation": ["humor", "hugging people", "comfort"], "a_topic": ["music", "movie", "sport"]}


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("/bo", ["/boost "]),
        ("/un", ["/undo"]),
        ("/", [f"/{name} " if command.usage else f"/{name}" for name, command in COMMANDS.items()]),
        ("/fix a_m", ["a_motivation "]),
        ("/clear u_", ["u_motivation", "u_emotion", "u_topic"]),
        ("/fix a_motivation hu", ["humor", "hugging people"]),
        ("/boost a_motivation hugging p", ["hugging people"]),
        ("/boost a_topic mo", ["movie"]),
        ("/topics sport, m", ["music", "movie"]),
        ("/fix a_topic sport,mu", ["music"]),
        ("/fix u_topic ", []),
        ("/blocks o", ["on", "off"]),
        ("/retry ", []),
        ("I bo", []),
    ],
)
def test_completions_continue_the_line(line: str, completed: list[str]) -> None:
    found = list(completions(line, KNOWN))
    assert [word for word, _ in found] == completed
    assert all(word.startswith(line[len(line) - replaced :]) for word, replaced in found)


def test_known_values_are_those_of_either_speaker_frequent_ones_first() -> None:
    labels = [
        ("user", "sharing", "sad", ["dog"]),
        ("assistant", "humor", None, ["dog", "garden"]),
        ("assistant", "comfort", "calm", None),
        ("assistant", "humor", None, ["garden"]),
    ]
    rows = [
        {"dialogue_id": "d", "turn": turn, "role": role, "motivation": motivation, "emotion": emotion}
        | {"topics": topics, "text": "x", "original_text": "x", "kept_original": False, "annotator": "a"}
        for turn, (role, motivation, emotion, topics) in enumerate(labels)
    ]
    known = known_values(from_rows(rows, schemas.ANNOTATIONS))
    assert known == {
        "u_motivation": ["sharing"],
        "u_emotion": ["sad"],
        "u_topic": ["dog"],
        "a_motivation": ["humor", "comfort"],
        "a_emotion": ["calm"],
        "a_topic": ["garden", "dog"],
    }
    add_values(known, Chain(Intent("sharing", None, ("cat", "dog")), Intent("awe", "calm", ("cat", "cat")), "Oh!"))
    assert known["u_topic"] == ["dog", "cat"] and known["a_motivation"] == ["humor", "comfort", "awe"]
    assert known["a_topic"] == ["garden", "dog", "cat"] and known["u_emotion"] == ["sad"]
