"""ShareGPT and messages files: which records become training conversations, and why others are rejected."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from sage_dialog.corpora.conversations import read_conversations
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.dialogue import Dialogue, Message

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
        conversations, rejects = read_conversations({path.name: path for path in tmp_path.iterdir()})
        return conversations, [(record.where, record.reason) for record in rejects]

    return read_files


def test_sharegpt_and_messages_read_the_same(read):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Hello!"},
    ]
    conversations, rejects = read(
        a=[{"id": "one", "conversations": [SYSTEM, HUMAN, GPT]}], b=json.dumps({"id": "two", "messages": messages})
    )
    messages = (Message("system", "Be kind."), Message("user", "Hi?"), Message("assistant", "Hello!"))
    assert conversations == [Dialogue("one", messages), Dialogue("two", messages)]
    assert rejects == []


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no message of the assistant"),
        ([SYSTEM], "no message of the assistant"),
        ([HUMAN], "no message of the assistant"),
        ([HUMAN, HUMAN], "no message of the assistant"),
        ([GPT, HUMAN], "the assistant speaks first"),
        ([SYSTEM, GPT], "the assistant speaks first"),
        ([HUMAN, HUMAN, GPT], "two messages of the user in a row"),
        ([HUMAN, GPT, GPT], "two messages of the assistant in a row"),
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
def test_an_invalid_conversation_is_rejected(read, messages, reason):
    good = {"id": "good", "conversations": [HUMAN, GPT, HUMAN, GPT]}
    conversations, rejects = read(a=[{"id": "bad", "conversations": messages}, good])
    assert [conversation.id for conversation in conversations] == ["good"]
    ((where, why),) = rejects
    assert where == "a.json[0]"
    assert reason in why


def test_a_last_message_of_the_user_is_kept(read):
    conversations, rejects = read(a=[{"id": "x", "conversations": [HUMAN, GPT, HUMAN]}])
    assert [message.role for message in conversations[0].messages] == ["user", "assistant", "user"]
    assert rejects == []


def test_the_assistant_speaks_first_only_where_it_may(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"conversations": [GPT, HUMAN, GPT]}, {"conversations": [HUMAN]}]))
    conversations, rejects = read_conversations({"a.json": path}, assistant_may_open=True)
    assert [conversation.id for conversation in conversations] == ["a.json[0]"]
    assert [record.reason for record in rejects] == ["no message of the assistant"]


def test_parquet_of_either_shape_reads_as_json_does(tmp_path):
    """Records as data sets are published: more columns than ours, more fields than ours, nulls."""
    sharegpt = [
        {"id": f"s{number}", "conversations": [SYSTEM, HUMAN, GPT | {"weight": None}], "score": 0.5}
        for number in range(2500)  # more than are read at a time
    ]
    sharegpt[7]["conversations"] = [GPT]
    sharegpt[2400]["conversations"] = None
    messages = [
        {"id": number, "messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": text}]}
        for number, text in enumerate(("Hello!", None))
    ]
    for name, rows in (("a.parquet", sharegpt), ("b.parquet", messages), ("c.parquet", [{"messages": []}])):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    conversations, rejects = read_conversations({path.name: path for path in tmp_path.iterdir()})
    assert [conversation.id for conversation in conversations] == [
        *(f"s{number}" for number in range(2500) if number not in (7, 2400)),
        "0",
    ]
    messages = (Message("system", "Be kind."), Message("user", "Hi?"), Message("assistant", "Hello!"))
    assert (conversations[0].messages, conversations[-1].messages) == (messages, messages[1:])
    assert [(record.where, record.reason) for record in rejects] == [
        ("a.parquet[7]", "the assistant speaks first"),
        ("a.parquet[2400]", "neither a list of conversations nor of messages"),
        ("b.parquet[1]", "a message without text"),
        ("c.parquet[0]", "no message of the assistant"),
    ]


def test_a_parquet_file_that_holds_something_else_is_refused_by_name(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["Hi?"], "answer": ["Hello!"]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet has neither a column .* it has prompt, answer"):
        read_conversations({"a.parquet": path})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"a\.parquet is no readable Parquet file"):
        read_conversations({"a.parquet": path})


def test_compressed_files_are_read_and_a_truncated_one_is_rejected(tmp_path):
    lines = b"".join(
        json.dumps({"id": f"x{number}", "conversations": [HUMAN, GPT]}).encode() + b"\n" for number in "12"
    )
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "b.json.zst").write_bytes(zstandard.compress(b'[{"messages": []}]'))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.replace(b"x", b"y"))[:-4])
    conversations, rejects = read_conversations({path.name: path for path in tmp_path.iterdir()})
    assert [conversation.id for conversation in conversations] == ["x1", "x2", "y1", "y2"]
    assert [record.where for record in rejects] == ["b.json.zst[0]", "c.jsonl.gz"]
    assert "breaks off" in rejects[1].reason


def test_other_files_are_ignored_and_named(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "x", "conversations": [HUMAN, GPT]}))
    conversations, _ = read_conversations({"a.jsonl": path, "notes.txt": tmp_path / "notes.txt"})
    assert [conversation.id for conversation in conversations] == ["x"]
    assert caplog.messages == [f"{tmp_path}/notes.txt does not end in .json, .jsonl or .parquet; ignored"]


def test_a_broken_line_is_rejected_by_its_number(read):
    line = json.dumps({"id": "x", "conversations": [HUMAN, GPT]})
    conversations, rejects = read(a=f"{{\n\n{line}\nnull\n")
    assert [conversation.id for conversation in conversations] == ["x"]
    assert rejects == [("a.jsonl:1", "not a JSON object"), ("a.jsonl:4", "not a JSON object")]


def test_ids_are_unique_and_made_where_there_is_none(read):
    messages = [HUMAN, GPT]
    conversations, rejects = read(
        a=[{"id": "x", "conversations": messages}, {"conversations": messages}, {"id": 7, "conversations": messages}],
        b=[{"id": "x", "conversations": messages}, {"id": ["y"], "conversations": messages}],
    )
    assert [conversation.id for conversation in conversations] == ["x", "a.json[1]", "7"]
    assert rejects == [
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
    with pytest.raises(InputDataError, match=r"\['a.txt'\]: expected .json, .jsonl or .parquet"):
        read_conversations({"a.txt": tmp_path / "a.txt"})


def test_a_real_sharegpt_file(shared):
    path = shared("mt_bench") / "dummy_conversation.json"
    conversations, rejects = read_conversations({path.name: path})
    assert (len(conversations), rejects) == (500, [])
