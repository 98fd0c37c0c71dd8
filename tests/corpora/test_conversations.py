"""ShareGPT and messages files: what is a conversation to learn from, and what is set aside and why."""

import json

import pytest

from sage_dialog.corpora.conversations import Conversation, Message, read_conversations

HUMAN = {"from": "human", "value": "Hi?"}
GPT = {"from": "gpt", "value": "Hello!"}
SYSTEM = {"from": "system", "value": "Be kind."}


@pytest.fixture
def read(tmp_path):
    def read_files(**files):
        """`name=records` writes a ShareGPT list, `name=text` a JSONL file."""
        for name, content in files.items():
            lines = isinstance(content, str)
            path = tmp_path / f"{name}.{'jsonl' if lines else 'json'}"
            path.write_text(content if lines else json.dumps(content))
        conversations, set_aside = read_conversations({path.name: path for path in tmp_path.iterdir()})
        return conversations, [(record.where, record.reason) for record in set_aside]

    return read_files


def test_sharegpt_and_messages_read_the_same(read):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Hello!"},
    ]
    conversations, set_aside = read(
        a=[{"id": "one", "conversations": [SYSTEM, HUMAN, GPT]}], b=json.dumps({"id": "two", "messages": messages})
    )
    said = (Message("system", "Be kind."), Message("user", "Hi?"), Message("assistant", "Hello!"))
    assert conversations == [Conversation("one", said), Conversation("two", said)]
    assert set_aside == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([], "take turns"),
        ([SYSTEM], "take turns"),
        ([HUMAN], "take turns"),
        ([GPT, HUMAN], "take turns"),
        ([HUMAN, GPT, HUMAN], "take turns"),
        ([HUMAN, HUMAN, GPT], "take turns"),
        ([HUMAN, GPT, GPT], "take turns"),
        ([HUMAN, SYSTEM, GPT], "a system message after the first"),
        ([SYSTEM, SYSTEM, HUMAN, GPT], "a system message after the first"),
        ([HUMAN, {"from": "tool", "value": "x"}], "a role that is none of"),
        ([HUMAN, {"from": ["gpt"], "value": "x"}], "a role that is none of"),
        ([HUMAN, {"value": "x"}], "a role that is none of"),
        ([HUMAN, {"from": "gpt"}], "without text"),
        ([HUMAN, {"from": "gpt", "value": " \n"}], "without text"),
        ([HUMAN, {"from": "gpt", "value": 7}], "without text"),
        ([HUMAN, "Hello!"], "no JSON object"),
        ([HUMAN, {"from": "gpt", "value": "cut \ud83d"}], "lone surrogate"),
        ("Hi", "neither a list"),
    ],
)
def test_what_is_no_conversation_to_learn_from_is_set_aside(read, said, reason):
    good = {"id": "good", "conversations": [HUMAN, GPT, HUMAN, GPT]}
    conversations, set_aside = read(a=[{"id": "bad", "conversations": said}, good])
    assert [conversation.id for conversation in conversations] == ["good"]
    ((where, why),) = set_aside
    assert where == "a.json[0]"
    assert reason in why


def test_a_broken_line_is_set_aside_by_its_number(read):
    line = json.dumps({"id": "x", "conversations": [HUMAN, GPT]})
    conversations, set_aside = read(a=f"{{\n\n{line}\nnull\n")
    assert [conversation.id for conversation in conversations] == ["x"]
    assert set_aside == [("a.jsonl:1", "not a JSON object"), ("a.jsonl:4", "not a JSON object")]


def test_ids_are_unique_and_made_where_there_is_none(read):
    said = [HUMAN, GPT]
    conversations, set_aside = read(
        a=[{"id": "x", "conversations": said}, {"conversations": said}, {"id": 7, "conversations": said}],
        b=[{"id": "x", "conversations": said}, {"id": ["y"], "conversations": said}],
    )
    assert [conversation.id for conversation in conversations] == ["x", "a.json[1]", "7"]
    assert set_aside == [
        ("b.json[0]", "an id that was there before"),
        ("b.json[1]", "an id that is neither text nor a number"),
    ]


def test_text_is_kept_as_written(read):
    value = " {topic: [x]}\n\u2028 \u00e9 \U0001f600 "
    conversations, _ = read(a=[{"id": "x", "conversations": [HUMAN, {"from": "gpt", "value": value}]}])
    assert conversations[0].messages[1].content == value


@pytest.mark.parametrize("content", [{"id": "x"}, "not a list"])
def test_a_json_file_that_is_no_list_is_refused_by_name(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a.json is not a JSON list"):
        read_conversations({"a.json": path})


def test_no_file_at_all_names_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\['a.txt'\]: expected .json or .jsonl"):
        read_conversations({"a.txt": tmp_path / "a.txt"})


def test_a_real_sharegpt_file(shared):
    path = shared("mt_bench") / "dummy_conversation.json"
    conversations, set_aside = read_conversations({path.name: path})
    assert (len(conversations), set_aside) == (500, [])
