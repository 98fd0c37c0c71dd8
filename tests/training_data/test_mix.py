"""The training mix: annotation, sources, sampling, and the same dialogues with and without blocks."""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.config import OmegaConfigLoader
from pydantic import ValidationError

from sage_dialog import schemas
from sage_dialog.config import SacAugmentation, Source, SourceKind
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.pipelines.sac_augmentation.nodes import mix_arm, mix_with_blocks
from sage_dialog.roles.protocols import LabelledUtterance, RejectedDialogue
from sage_dialog.sac import Chain, Intent, parse, render, strip_blocks
from sage_dialog.settings import CONFIG_LOADER_ARGS
from sage_dialog.training_data.annotation import label_dialogues
from sage_dialog.training_data.mix import mix_sizes, training_mix
from sage_dialog.training_data.sources import SourceReader

SYSTEM_PROMPTS = {"listener": "You listen.", "speaker": "You share.", "instructions": "You help."}
SAID = ("I lost my keys.", "Oh no! Where?", "At home: {under} the topic: sofa.")
INTENTS = (Intent("sharing", "sad", ("keys",)), Intent("comfort", "calm", ("keys",)), Intent("elaborating", "sad"))
PROJECT = Path(__file__).parents[2]


def annotation(dialogue: str, turn: int, role: str, text: str, intent: Intent) -> dict[str, Any]:
    return {
        "dialogue_id": dialogue,
        "turn": turn,
        "role": role,
        "motivation": intent.motivation,
        "emotion": intent.emotion,
        "topics": list(intent.topics) or None,
        "text": text,
        "original_text": text,
        "kept_original": False,
        "annotator": "by hand",
    }


def annotations(dialogues: int, *more: dict[str, Any]) -> DataFrame:
    rows = [
        annotation(f"d{number:02d}", turn, "assistant" if turn % 2 else "user", f"{number}: {text}", intent)
        for number in range(dialogues)
        for turn, (text, intent) in enumerate(zip(SAID, INTENTS, strict=True))
    ]
    return from_rows([*more, *rows[::-1]], schemas.ANNOTATIONS)  # unsorted on purpose


def record(number: int, *roles: str) -> dict[str, Any]:
    return {"id": f"i{number}", "messages": [{"role": role, "content": f"{role} {number}"} for role in roles]}


def played(situation: str, *replies: str, outcome: str = "turn limit") -> list[dict[str, Any]]:
    """Return trajectory rows: the situation, then replies of agent (with blocks) and user in turn."""
    rows = []
    for turn, content in enumerate((f"{situation}!", *replies)):
        role = "assistant" if turn % 2 else "user"
        rows.append(
            {
                "situation_id": situation,
                "turn": turn,
                "role": role,
                "text": strip_blocks(content),
                "content": content,
                "outcome": outcome,
            }
        )
    return rows


def reply(text: str) -> str:
    return render(Chain(INTENTS[0], INTENTS[1], text))


def columns(table: DataFrame) -> dict[str, Any]:
    return dict(table.dtypes)


def no_trajectories(name: str) -> DataFrame:
    raise AssertionError(f"{name} was opened, but no source names it")


class Mixed:
    """Both mixes of some sources, and their rejects."""

    def __init__(
        self,
        folder: Path,
        config: SacAugmentation,
        annotated: DataFrame,
        files: dict[str, Sequence[dict[str, Any]]],
        trajectories: Callable[[str], DataFrame] = no_trajectories,
        seed: int = 0,
    ) -> None:
        paths = {name: folder / name for name in files}
        for name, records in files.items():
            paths[name].write_text("\n".join(json.dumps(record) for record in records))
        given = (annotated, paths, trajectories, config, seed)
        rich, rejects = mix_with_blocks(*given)
        plain = mix_arm("plain")(*given)
        assert columns(rich) == columns(plain) == columns(from_rows([], schemas.SFT_CONVERSATIONS))
        assert columns(rejects) == columns(from_rows([], schemas.MIX_REJECTS))
        self.rich, self.plain = to_rows(rich), to_rows(plain)
        self.rejects = {(row["source"], row["record"]): row["reason"] for row in to_rows(rejects)}
        assert len(self.rejects) == len(rejects)

    @property
    def names(self) -> list[str]:
        return [row["conversation_id"] for row in self.rich]

    def messages(self, name: str) -> list[dict[str, str]]:
        return next(row["messages"] for row in self.rich if row["conversation_id"] == name)


@pytest.fixture
def mix(tmp_path: Path) -> Callable[..., Mixed]:
    """Return a function that mixes sources; a bare name is a source without a size."""

    def make(
        *sources: str | dict[str, Any],
        dialogues: int | DataFrame = 12,
        files: dict[str, Sequence[dict[str, Any]]] | None = None,
        system_prompts: dict[str, str] = SYSTEM_PROMPTS,
        blend: dict[str, Any] | None = None,
        **more: Any,
    ) -> Mixed:
        spec = [{"name": source} if isinstance(source, str) else source for source in sources]
        config = SacAugmentation.from_base(mix=spec, system_prompts=system_prompts, blend=blend)
        annotated = annotations(dialogues) if isinstance(dialogues, int) else dialogues
        return Mixed(tmp_path, config, annotated, files or {}, **more)

    return make


def test_the_configured_mix_is_reproducible_to_the_byte(tmp_path: Path) -> None:
    """Pin conversations, order and text: a change here is another experiment."""
    loader = OmegaConfigLoader(str(PROJECT / "conf"), env="base", **CONFIG_LOADER_ARGS)
    config = SacAugmentation.model_validate(loader["parameters"]["sac_augmentation"])
    records = [
        {
            "id": f"i{number}",
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": f"What is {number}?"},
                {"from": "gpt", "value": f"{number}, no more."},
            ],
        }
        for number in range(90)
    ]
    mixed = Mixed(tmp_path, config, annotations(1300), {"sharegpt.jsonl": records})
    assert mixed.names[:4] == ["listener:d650", "listener:d330", "instructions:i72", "listener:d921"]
    assert len(mixed.rich) == 1660
    digests = [hashlib.sha256(json.dumps(rows).encode()).hexdigest() for rows in (mixed.rich, mixed.plain)]
    assert digests == [
        "6d2324e8ecbca3b9564f85db23a870c7a7f89c6033e06ceddc98ea24c615636e",
        "db46934fd469862e4d3a51f3ac9865935b72f2dd5482da5fb9a6a5e857cbe7b0",
    ]


def test_listener_conversations_carry_the_users_labels_in_the_state_block(mix) -> None:
    ((system, shared, answered, went_on),) = (row["messages"] for row in mix("listener", dialogues=1).rich)
    assert system == {"role": "system", "content": "You listen."}
    assert shared == {"role": "user", "content": f"0: {SAID[0]}"}
    assert parse(answered["content"]) == Chain(INTENTS[0], INTENTS[1], f"0: {SAID[1]}")
    assert went_on == {"role": "user", "content": f"0: {SAID[2]}"}


def test_speaker_conversations_are_the_same_dialogues_with_roles_exchanged(mix) -> None:
    ((system, shared, answered, went_on),) = (row["messages"] for row in mix("speaker", dialogues=1).rich)
    assert system == {"role": "system", "content": "You share."}
    assert shared["role"] == went_on["role"] == "assistant"
    assert parse(shared["content"]) == Chain(Intent(), INTENTS[0], f"0: {SAID[0]}")
    assert answered == {"role": "user", "content": f"0: {SAID[1]}"}
    assert parse(went_on["content"]) == Chain(INTENTS[1], INTENTS[2], f"0: {SAID[2]}")


def test_the_plain_mix_is_the_same_conversations_in_the_same_order_without_blocks(mix) -> None:
    found = mix(
        {"name": "listener", "size": 5},
        {"name": "speaker", "size": 4},
        "instructions",
        {"name": "found", "kind": "trajectories", "of": "trajectories_1"},
        files={"a.jsonl": [record(number, "user", "assistant") for number in range(3)]},
        trajectories=lambda name: from_rows(played("s", reply("Oh!")), schemas.TRAJECTORIES),
        blend={"sources": ["listener"], "others": 2, "max_tokens": 700},  # tight enough to cut some
    )
    assert len(found.rich) == 13
    bare = [
        row | {"messages": [message | {"content": strip_blocks(message["content"])} for message in row["messages"]]}
        for row in found.rich
    ]
    assert bare == found.plain != found.rich


def test_conversations_are_sampled_and_ordered_by_seed_and_id(mix) -> None:
    sources = [{"name": "listener", "size": 5}, {"name": "speaker", "size": 5}]

    def names(seed: int, dialogues: int = 12) -> list[str]:
        return mix(*sources, seed=seed, dialogues=dialogues).names

    assert names(0) == names(0)
    assert len({tuple(names(seed)) for seed in range(4)}) == len({frozenset(names(seed)) for seed in range(4)}) == 4
    assert names(0) != sorted(names(0))
    listeners, speakers = ({name.split(":")[1] for name in names(0) if name.startswith(side)} for side in ("l", "s"))
    assert len(listeners) == len(speakers) == 5
    # One more dialogue changes the sample by its own draw only.
    assert len(set(names(0)) - set(names(0, dialogues=13))) <= 2


@settings(deadline=None)
@given(before=st.integers(0, 30), more=st.integers(0, 30), size=st.integers(0, 40), seed=st.integers(0, 99))
def test_new_dialogues_of_a_source_change_the_sample_by_themselves_only(
    before: int, more: int, size: int, seed: int
) -> None:
    config = SacAugmentation.from_base(mix=[{"name": "listener", "size": size}], system_prompts=SYSTEM_PROMPTS)

    def drawn(dialogues: int) -> set[str]:
        sources = SourceReader(annotations(dialogues), {}, no_trajectories)
        return set(training_mix(sources, config, seed, "plain")[0]["conversation_id"])

    first, then = drawn(before), drawn(before + more)
    assert len(then) == min(size, before + more)
    new = {f"listener:d{number:02d}" for number in range(before, before + more)}
    assert then - first <= new, "no old dialogue enters the sample"
    assert len(first - then) <= len(then & new), "an old dialogue leaves only for a new one"


def test_a_system_prompt_replaces_the_conversations_own(mix) -> None:
    files = {"a.jsonl": [record(0, "system", "user", "assistant"), record(1, "user", "assistant")]}
    found = mix("instructions", {"name": "listener", "system_prompt": "You are kind."}, files=files, dialogues=1)
    for number in (0, 1):
        system, user, assistant = found.messages(f"instructions:i{number}")
        assert system == {"role": "system", "content": "You help."}
        assert (user["content"], assistant["content"]) == (f"user {number}", f"assistant {number}")
    assert found.messages("listener:d00")[0] == {"role": "system", "content": "You are kind."}


def test_an_empty_system_prompt_keeps_the_conversations_own(mix) -> None:
    files = {"a.jsonl": [record(0, "system", "user", "assistant"), record(1, "user", "assistant")]}
    found = mix({"name": "instructions", "system_prompt": ""}, files=files)
    assert [message["content"] for message in found.messages("instructions:i0")] == [
        "system 0",
        "user 0",
        "assistant 0",
    ]
    assert [message["role"] for message in found.messages("instructions:i1")] == ["user", "assistant"]


def test_files_become_separate_sources(mix, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "chat-1.jsonl": [record(1, "user", "assistant")],
        "chat-2.jsonl": [record(2, "user", "assistant"), record(1, "user", "assistant")],
        "code.jsonl": [record(1, "user", "assistant")],
        "else.jsonl": [record(9, "user", "assistant")],
    }
    found = mix(
        {"name": "chat", "kind": "instructions", "of": "chat-*", "system_prompt": "Chat."},
        {"name": "code", "kind": "instructions", "of": "code.jsonl", "system_prompt": "Code."},
        files=files,
    )
    assert sorted(found.names) == ["chat:i1", "chat:i2", "code:i1"]
    assert {row["source"]: row["messages"][0]["content"] for row in found.rich} == {"chat": "Chat.", "code": "Code."}
    assert found.rejects == {("chat", "chat-2.jsonl:2"): "an id that was there before"}
    assert "else.jsonl belongs to no source of the mix" in caplog.messages


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            "sharegpt*",
            "source 'b' of the mix: no file matches sharegpt*; the files are chat.json, chat.jsonl, code.jsonl",
        ),
        ("*.jsonl", "source 'b' of the mix: chat.jsonl belongs to the source 'a' already"),
        ("chat.json", "chat.json is not a JSON list of conversations"),
    ],
)
def test_an_unreadable_source_is_named_with_its_files(mix, second: str, message: str) -> None:
    files = {name: [record(1, "user", "assistant")] for name in ("chat.json", "chat.jsonl", "code.jsonl")}
    kind = {"kind": "instructions"}
    with pytest.raises(ValueError) as refused:
        mix({"name": "a", "of": "chat.jsonl", **kind}, {"name": "b", "of": second, **kind}, files=files)
    assert str(refused.value).startswith("source 'b' of the mix: ") and message in str(refused.value)


def test_trajectories_are_read_from_the_agents_side_up_to_its_last_reply(mix) -> None:
    tables = {
        "trajectories_1": [*played("one", reply("Oh!"), "Yes."), *played("two", reply("Ah!"), "No.", reply("Why?"))],
        "trajectories_2:2026-01-31": played("one", reply("Tell me more.")),
    }
    opened = []

    def open_trajectories(name: str) -> DataFrame:
        opened.append(name)
        return from_rows(tables[name][::-1], schemas.TRAJECTORIES)

    first = {"name": "first", "kind": "trajectories", "of": "trajectories_1"}
    second = {"name": "trajectories", "of": "trajectories_2:2026-01-31", "system_prompt": "You listen well."}
    found = mix(first, second, trajectories=open_trajectories)
    assert set(opened) == set(tables)
    assert sorted(found.names) == ["first:one", "first:two", "trajectories:one"]
    assert [(message["role"], message["content"]) for message in found.messages("first:two")] == [
        ("system", "You listen."),
        ("user", "two!"),
        ("assistant", reply("Ah!")),
        ("user", "No."),
        ("assistant", reply("Why?")),
    ]
    assert [message["content"] for message in found.messages("first:one")][1:] == ["one!", reply("Oh!")]
    assert found.messages("trajectories:one")[0]["content"] == "You listen well."


def test_every_record_is_in_the_mix_or_in_the_rejects(mix) -> None:
    message, intent = "Hello.", Intent("greeting")
    odd = [
        annotation("alone", 0, "user", message, intent),
        *(annotation("twice", turn, role, message, intent) for turn, role in enumerate(("user", "user"))),
        *(annotation("blank", turn, speaker, " \n", intent) for turn, speaker in enumerate(("user", "assistant"))),
        *(annotation("bot", turn, role, message, intent) for turn, role in enumerate(("user", "bot"))),
        annotation("label", 0, "user", message, intent) | {"emotion": "a: b"},
        annotation("label", 1, "assistant", message, intent),
    ]
    trajectories = [
        *played("silent"),
        *played("good", reply("Oh!")),
        *played("torn", "{u_motivation: Oh!"),
        *played("bare", reply("Oh!"), "Yes.", "Oh!"),
    ]
    files = {
        "a.jsonl": [
            record(0, "assistant", "user", "assistant"),
            record(1, "user"),
            record(2, "user", "user", "assistant"),
            record(3, "user", "assistant", "assistant"),
            record(4, "user", "assistant", "user"),
            record(5, "user", "tool", "assistant"),
            record(6),
        ]
    }
    found = mix(
        *("listener", "speaker", "instructions", {"name": "trajectories", "of": "trajectories_3"}),
        dialogues=annotations(2, *odd),
        files=files,
        trajectories=lambda name: from_rows(trajectories, schemas.TRAJECTORIES),
    )
    label = "labels that the chain cannot hold: emotion 'a: b' holds ':', which the text form reserves"
    assert found.rejects == {
        ("listener", "alone"): "no message of the assistant",
        ("listener", "twice"): "no message of the assistant",
        ("listener", "blank"): "a message without text",
        ("listener", "bot"): "a role that is neither user nor assistant: bot",
        ("listener", "label"): label,
        ("speaker", "twice"): "two messages of the assistant in a row",
        ("speaker", "blank"): "a message without text",
        ("speaker", "bot"): "a role that is neither user nor assistant: bot",
        ("speaker", "label"): label,
        ("instructions", "a.jsonl:1"): "the assistant speaks first",
        ("instructions", "a.jsonl:2"): "no message of the assistant",
        ("instructions", "a.jsonl:3"): "two messages of the user in a row",
        ("instructions", "a.jsonl:4"): "two messages of the assistant in a row",
        ("instructions", "a.jsonl:6"): "a role that is none of human, gpt, user, assistant, system",
        ("instructions", "a.jsonl:7"): "no message of the assistant",
        ("trajectories", "silent"): "no message of the assistant",
        ("trajectories", "torn"): "a reply without readable blocks",
        ("trajectories", "bare"): "a reply without readable blocks",
    }
    kept = ["listener:d00", "listener:d01", "speaker:d00", "speaker:d01", "speaker:alone", "instructions:i4"]
    assert sorted(found.names) == sorted([*kept, "trajectories:good"])


def test_the_assistant_opens_where_assistant_may_open(mix) -> None:
    files = {"a.jsonl": [record(0, "assistant", "user", "assistant")]}
    found = mix({"name": "instructions", "assistant_may_open": True}, files=files)
    assert (found.names, found.rejects) == (["instructions:i0"], {})


def test_size_counts_valid_conversations(mix) -> None:
    files = {"a.jsonl": [record(number, "user", *["assistant"] * (number % 2)) for number in range(20)]}
    assert len(mix({"name": "instructions", "size": 8}, files=files).rich) == 8


def test_share_is_relative_to_the_whole_mix(mix, caplog: pytest.LogCaptureFixture) -> None:
    files = {"a.jsonl": [record(number, "user", "assistant") for number in range(40)]}

    def counts(*shares: float | None, **size: int) -> list[int]:
        sides = zip(("listener", "speaker"), shares, strict=False)
        sources = [{"name": name, "share": share, **(size if share is None else {})} for name, share in sides]
        found = mix(*sources, {"name": "instructions", "share": shares[-1]}, files=files)
        return [sum(row["source"] == name for row in found.rich) for name in ("listener", "speaker", "instructions")]

    assert counts(None, None, 0.25) == [12, 12, 8]
    assert counts(None, 0.2, 0.2, size=6) == [6, 2, 2]
    assert counts(0.25, 0.25, 0.5) == [12, 12, 24]
    assert not [message for message in caplog.messages if "its share" in message]
    assert counts(None, 0.5, 0.1) == [12, 12, 3]
    assert "speaker: its share of the mix is 15 conversations, but it has 12; all are used" in caplog.messages


@given(
    available=st.lists(st.integers(0, 2000), min_size=1, max_size=5),
    weights=st.lists(st.integers(1, 100), min_size=5, max_size=5),
    fixed=st.lists(st.one_of(st.none(), st.integers(0, 2000)), max_size=3),
)
def test_sizes_respect_shares_and_available_dialogues(
    available: list[int], weights: list[int], fixed: list[int | None]
) -> None:
    whole = sum(weights[: len(available)]) + (weights[-1] if fixed else 0)
    shares = [weight / whole for weight in weights[: len(available)]]
    mix = [Source(name=f"s{place}", kind="listener", share=share) for place, share in enumerate(shares)]
    mix += [Source(name=f"f{place}", kind="listener", size=size) for place, size in enumerate(fixed)]
    there = {f"s{place}": count for place, count in enumerate(available)} | {f"f{place}": 700 for place in range(3)}
    sizes = mix_sizes(mix, there)
    assert sizes.keys() == {source.name for source in mix}
    assert all(0 <= size <= there[name] for name, size in sizes.items())
    assert [sizes[f"f{place}"] for place in range(len(fixed))] == [700 if n is None else min(n, 700) for n in fixed]
    total = sum(sizes.values())
    if all(sizes[f"s{place}"] < available[place] for place in range(len(available))) or not fixed:
        for place, share in enumerate(shares):
            assert abs(sizes[f"s{place}"] - share * total) <= 0.5 + share * len(shares) / 2
    if not fixed:  # as large as the scarcest allows
        assert any(sizes[f"s{place}"] == count for place, count in enumerate(available))


@pytest.mark.parametrize(
    ("mix", "blend", "where", "message"),
    [
        (["listener", "listener"], None, "mix", "1: listener is there twice"),
        ([{"name": "a", "kind": "speaker"}, "speaker"], None, "mix", "1: speaker holds the same conversations as a"),
        ([{"name": "books"}], None, "mix.0.kind", "Field required"),
        ([{"name": "a:b", "kind": "speaker"}], None, "mix.0.name", "String should match pattern"),
        ([{"name": "speaker", "size": 3, "share": 0.5}], None, "mix.0.share", "size is given as well"),
        ([{"name": "speaker", "share": 0}], None, "mix.0.share", "greater than 0"),
        ([{"name": "speaker", "share": 0.9}], None, "mix", "every source has a share, and they do not come to 1"),
        ([{"name": "speaker", "share": 1}, "listener"], None, "mix", "1, which leaves nothing"),
        ([{"name": "speaker", "share": 0.7}, {"name": "listener", "share": 0.6}], None, "mix", "more than 1"),
        (
            [{"name": "speaker"}, {"name": "s2", "kind": "speaker", "of": "esconv/*"}],
            None,
            "mix",
            "1: s2 holds the same conversations as speaker",
        ),
        ([{"name": "trajectories"}], None, "mix.0.of", "not trajectories_K"),
        ([{"name": "trajectories", "of": "../trajectories_1"}], None, "mix.0.of", "not trajectories_K"),
        (["listener"], {"sources": ["listner"]}, "blend", "listner is no source of the mix, which has listener"),
        (["listener", "speaker"], {"sources": ["speaker"]}, "blend", "in speaker the assistant may speak first"),
        (["listener"], {"sources": []}, "blend.sources", "at least 1 item"),
    ],
)
def test_an_invalid_mix_is_rejected_with_its_location(
    mix: list[Any], blend: dict[str, Any] | None, where: str, message: str
) -> None:
    sources = [{"name": source} if isinstance(source, str) else source for source in mix]
    longer = blend and {"others": 1, "max_tokens": 500} | blend
    with pytest.raises(ValidationError) as refused:
        SacAugmentation.model_validate({"mix": sources, "system_prompts": SYSTEM_PROMPTS, "blend": longer})
    faults = {".".join(map(str, fault["loc"])): fault["msg"] for fault in refused.value.errors()}
    assert message in faults[where], faults


def test_the_documented_mix_is_valid() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs/training-mix.md").read_text(), re.DOTALL)
    mix, blend = (yaml.safe_load(textwrap.dedent(block)) for block in examples)
    config = SacAugmentation.model_validate(mix["sac_augmentation"] | blend | {"system_prompts": SYSTEM_PROMPTS})
    assert {source.kind for source in config.mix} == set(get_args(SourceKind))
    assert config.blend is not None


class FixedAnnotator:
    name = "by hand"

    def annotate(self, dialogues: Any) -> list[Any]:
        assert all(
            message.role == ("assistant" if place % 2 else "user")
            for each in dialogues
            for place, message in enumerate(each)
        )
        return [
            RejectedDialogue("too short", "no")
            if len(each) < 3
            else tuple(
                LabelledUtterance(intent, message.text.upper()) for message, intent in zip(each, INTENTS, strict=True)
            )
            for each in dialogues
        ]


@pytest.mark.parametrize("size", [0, 3, 150])
def test_every_dialogue_is_annotated_or_rejected_and_keeps_its_text(size: int) -> None:
    rows = [
        {
            "dialogue_id": f"d{number}",
            "subreddit": "s",
            "link_id": "t3_1",
            "month": "2015-01",
            "turns": [{"comment_id": f"c{turn}", "text": text} for turn, text in enumerate(SAID[: 3 - number % 2])],
            "n_turns": 3 - number % 2,
            "mean_words": 1.0,
            "min_sentiment": 0.5,
        }
        for number in range(size)
    ]
    labelled, rejected = label_dialogues(
        from_rows(rows, schemas.DIALOGUES), from_rows([], schemas.CORPUS_DIALOGUES), FixedAnnotator(), "dialogues"
    )
    assert columns(labelled) == columns(from_rows([], schemas.ANNOTATIONS))
    assert columns(rejected) == columns(from_rows([], schemas.ANNOTATION_REJECTS))
    assert to_rows(rejected) == [
        {"dialogue_id": f"d{number}", "reason": "too short", "raw_response": "no"} for number in range(1, size, 2)
    ]
    found = to_rows(labelled)
    assert [(row["dialogue_id"], row["turn"], row["original_text"], row["text"]) for row in found] == [
        (f"d{number}", turn, text, text.upper()) for number in range(0, size, 2) for turn, text in enumerate(SAID)
    ]
    assert all(row["motivation"] == INTENTS[row["turn"]].motivation for row in found)
