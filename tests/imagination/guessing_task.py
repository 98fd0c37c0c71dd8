"""A task small enough to follow by hand."""

from __future__ import annotations

from typing import Any

GUESSING: dict[str, Any] = {
    "description": "A host asks what a guest drinks, then pours it.",
    "goal": "The host pours what the guest likes.",
    "agent": {"name": "host", "system_prompt": "Pour a drink."},
    "user": {"name": "guest", "system_prompt": "You are thirsty."},
    "criteria": ["The guest does not name the drink before the host asks."],
    "max_replies": 2,
    "shared": {"hour": {"noon": 1}},
    "hidden": {"drink": {"tea": 1, "milk": 3}},
    "progress": {"poured": "nothing"},
    "outcomes": [
        {"when": {"poured": "right"}, "reward": 2.0, "success": True},
        {"when": {"poured": "wrong"}, "reward": -1.0, "success": False},
    ],
    "persona": ["A guest who likes {drink} at {hour}."],
    "openings": ["Good {hour}, I am thirsty."],
    "unclear": "puzzled",
    "acts": {
        "ask": {
            "motivation": "ask drink",
            "weight": 1,
            "says": ["What do you drink at {hour}?"],
            "rules": [
                {"when": {"drink": "tea"}, "chance": 0.8, "reply": "likes tea"},
                {"when": {"drink": "milk"}, "chance": 0.8, "reply": "likes milk"},
                {"reply": "shy"},
            ],
        },
        "pour tea": {
            "motivation": "pour",
            "topics": ["tea"],
            "weight": 1,
            "says": ["Here is your tea."],
            "rules": [
                {"when": {"drink": "tea"}, "sets": {"poured": "right"}, "reply": "glad", "fits": True, "ends": True},
                {"sets": {"poured": "wrong"}, "reply": "shy", "ends": True},
            ],
        },
        "pour milk": {
            "motivation": "pour",
            "topics": ["milk"],
            "weight": 1,
            "says": ["Here is your milk."],
            "rules": [
                {"when": {"drink": "milk"}, "sets": {"poured": "right"}, "reply": "glad", "fits": True, "ends": True},
                {"sets": {"poured": "wrong"}, "reply": "shy", "ends": True},
            ],
        },
    },
    "replies": {
        "likes tea": {"motivation": "answering", "tells": {"drink": "tea"}, "says": ["I like tea."]},
        "likes milk": {"motivation": "answering", "tells": {"drink": "milk"}, "says": ["I like milk."]},
        "shy": {"motivation": "hesitating", "says": ["Oh well."]},
        "glad": {"motivation": "gratitude", "emotion": "joyful", "says": ["Thank you."]},
        "puzzled": {"motivation": "asking", "says": ["Pardon?"]},
    },
}
