"""The screen of the chat, and its keys."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from sage_dialog.corpora.conversations import read_conversations
from sage_dialog.inference.engine import FinishReason, Sample
from sage_dialog.studio.chat.conversation import Conversation
from sage_dialog.studio.chat.terminal import display
from sage_dialog.studio.chat.terminal.terminal import Masked, ReadLine, piped_lines, prompt_lines

Talk = Callable[..., Conversation]
STATE = "{u_motivation: sharing, u_emotion: sad, u_topic: [home]}"
BLOCKS = f"{STATE} {{a_motivation: empathy, a_emotion: calm, a_topic: [home]}}"


def test_a_script_gets_replies_on_one_stream_and_notes_on_the_other(talk: Talk, screen) -> None:
    chat_screen = screen(talk())
    assert chat_screen.run("One.", "/nothing", "", "/blocks off", "/retry", "/undo", "/undo") == 2
    assert chat_screen.output.getvalue() == f"{BLOCKS}\nturn 0 draw 0 sample 0\nturn 0 draw 1 sample 0\n"
    assert chat_screen.notes.getvalue().splitlines() == [
        "There is no command /nothing; /help lists all commands.",
        "Removed: One.",
        "The conversation is empty.",
    ]


def test_control_characters_are_escaped_on_the_terminal(talk: Talk, screen) -> None:
    evil = "\x1b[2J[bold]x[/bold] \u202ereversed \u200f\u061c\u2028 \U000e0041\x9b31m\r:smile: \ud83d"
    chat_screen = screen(talk(lambda *_: evil, blocks=False))
    chat_screen.run(
        f"hi {evil}", "/retry", "/candidates", "2", "/undo", f"/fix a_emotion {evil}", f"/{evil}", f"/save {evil}"
    )
    chat_screen.run(f"/system {evil}", "/settings", f"/load {evil}")
    for text in (chat_screen.output.getvalue(), chat_screen.notes.getvalue()):
        assert not set(text) & {"\x1b", "\x9b", "\r", "\u202e", "\u200f", "\u061c", "\u2028", "\U000e0041", "\ud83d"}
        assert "[bold]x[/bold]" in text and "\\x1b[2J" in text and ":smile:" in text


def test_blocks_are_dimmed_while_they_are_written_and_separated_from_the_utterance() -> None:
    reply = f"{BLOCKS} So {{it}} is."
    for end in range(1, len(reply) + 1):
        text = display.format_reply(reply[:end], blocks=True, show_blocks=True)
        dimmed = text.plain[: min(end, len(BLOCKS))]
        assert [(text.plain[span.start : span.end].strip(), span.style) for span in text.spans] == [(dimmed, "dim")]
        utterance = reply[len(BLOCKS) + 1 : end]
        assert text.plain == (f"{BLOCKS}\n{utterance}" if utterance else reply[:end].strip())
        assert display.format_reply(reply[:end], blocks=True, show_blocks=False).plain == utterance


def test_invalid_blocks_are_shown_with_the_reason_even_if_blocks_are_hidden(talk: Talk, screen) -> None:
    chat_screen = screen(talk(lambda *_: "{u_motivation: sharing} Oh [no]."))
    chat_screen.run("/blocks off", "One.")
    assert chat_screen.output.getvalue() == "{u_motivation: sharing} Oh [no].\n"
    assert "(state block: expected" in chat_screen.notes.getvalue()


def test_a_reply_is_streamed_to_a_terminal(talk: Talk, screen, monkeypatch: pytest.MonkeyPatch) -> None:
    chat_screen = screen(talk(), is_terminal=True)
    updates = []
    monkeypatch.setattr("rich.live.Live.update", lambda self, renderable, **_: updates.append(str(renderable)))
    chat_screen.run("One.", "/blocks off", "/retry")
    assert updates == [BLOCKS[:20], f"{BLOCKS}\nturn 0 draw 0 sample 0", "turn 0 draw 1 sample 0"]
    assert f"\x1b[2m{BLOCKS}\x1b[0m\nturn 0 draw 0 sample 0\n" in chat_screen.output.getvalue()
    assert chat_screen.output.getvalue().count(BLOCKS) == 1


def test_the_streamed_part_of_a_failed_reply_stays_on_the_screen(talk: Talk, screen) -> None:
    conversation = talk()
    sample = conversation.engine.sample

    def cut(*arguments, on_text=None):
        on_text("So far")
        raise ValueError("the server is gone")

    conversation.engine.sample = lambda policy, prompts, sampling, number, steering, on_text: cut(on_text=on_text)
    chat_screen = screen(conversation, is_terminal=True)
    assert chat_screen.run("/blocks off", "One.") == 1
    assert chat_screen.output.getvalue().endswith("So far\n") and "the server is gone" in chat_screen.notes.getvalue()
    conversation.engine.sample = sample
    chat_screen.run("One.")
    assert [exchange.user for exchange in conversation.turns] == ["One."]


def test_candidates_are_listed_with_their_actions(talk: Talk, screen) -> None:
    replies = [f"{BLOCKS} Good.", f"{STATE} Bad.", Sample(f"{BLOCKS} Cut", 50, FinishReason.LENGTH), f"{BLOCKS} Fair."]
    chat_screen = screen(talk(lambda prompt, j: replies[j]))
    chat_screen.run("One.", "/candidates", "4", "/candidates", "5")
    listed = chat_screen.output.getvalue()
    assert (
        "1  empathy · calm · home  Good." in listed
        and "3  empathy · calm · home  Cut (cut at the token limit)" in listed
    )
    assert "(action block" in listed
    assert f"{BLOCKS}\nFair.\n" in listed
    assert "There is no candidate 5; candidates are 1 to 4." in chat_screen.notes.getvalue()


def test_a_number_after_candidates_picks_one(talk: Talk, screen) -> None:
    conversation = talk()
    assert screen(conversation).run("One.", "/candidates", "40", "4", "4") == 1
    assert [exchange.user for exchange in conversation.turns] == ["One.", "4"]
    assert conversation.turns[0].reply.message.text == "turn 0 draw 1 sample 3"
    screen(conversation).run("/new", "One.", "/candidates", "/steering", "3")
    assert [exchange.user for exchange in conversation.turns] == ["One.", "3"]


def test_steering_is_shown_and_unknown_values_are_noted(talk: Talk, screen) -> None:
    chat_screen = screen(talk(), {"a_motivation": ["humor"]})
    chat_screen.run("/steering", "/boost a_motivation humor 4", "/boost a_motivation Humor 2", "/topics music, sport")
    chat_screen.run("/fix u_emotion null", "/steering", "/clear a_motivation", "/clear")
    assert chat_screen.output.getvalue().splitlines() == [
        "Nothing is steered.",
        "boost a_motivation humor +4",
        "boost a_motivation Humor +2",
        "fix   a_topic music, sport",
        "fix   u_emotion null",
    ]
    notes = chat_screen.notes.getvalue().splitlines()
    assert notes.count("No annotated dialogue has a_motivation: Humor. Tab shows the known values.") == 1
    assert not any(line.startswith("No annotated dialogue has a_topic") for line in notes)
    assert notes[-1] == "Nothing is steered."


def test_a_policy_that_cannot_be_steered_has_a_reason_and_continues(talk: Talk, screen) -> None:
    chat_screen = screen(talk(lambda *_: "Oh.", blocks=False, steering_error="policy 'sage_7' writes no blocks"))
    assert chat_screen.run("/boost a_motivation humor 4", "One.") == 1
    assert (
        chat_screen.notes.getvalue() == "policy 'sage_7' writes no blocks\n"
        and chat_screen.output.getvalue() == "Oh.\n"
    )


def test_help_names_every_command(talk: Talk, screen) -> None:
    chat_screen = screen(talk())
    chat_screen.run("/help", "/quit", "One.")
    assert (
        "/boost FIELD KEYWORD WEIGHT" in chat_screen.output.getvalue()
        and "/blocks on|off" in chat_screen.output.getvalue()
    )
    assert "turn 0" not in chat_screen.output.getvalue()


def test_the_training_mix_reads_a_saved_conversation(talk: Talk, screen, tmp_path: Path) -> None:
    conversation = talk(lambda *_: f"{BLOCKS} So\nit is…")
    chat_screen = screen(conversation)
    file = tmp_path / "talk.jsonl"
    refused = chat_screen.run(
        f"/save {file}", "One.", f"/save {file.with_suffix('')}", "/fix a_emotion calm", "Two.", f"/save {file}"
    )
    assert refused == 1 and "The conversation is empty." in chat_screen.notes.getvalue()
    conversations, rejects = read_conversations({"talk.jsonl": file})
    assert rejects == [] and len(conversations) == 1
    messages = [{"role": message.role, "content": message.content} for message in conversations[0].messages]
    assert messages == list(conversation.messages()) and messages[2]["content"] == f"{BLOCKS} So\nit is…"
    chat = json.loads(file.read_text())["chat"]
    assert (chat["policy"], chat["seed"]) == ("sage_7", 3)
    assert [turn["settings"]["steering"]["fixed"] for turn in chat["turns"]] == [{}, {"a_emotion": "calm"}]


def test_other_files_are_not_overwritten(talk: Talk, screen, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text("mine\n")
    chat_screen = screen(talk(lambda *_: "{u_", blocks=True))
    assert chat_screen.run("One.", f"/save {file}", f"/save {tmp_path}/talk.txt", f"/save {file}/x.jsonl") == 3
    assert file.read_text() == "mine\n"
    for reason in ("exists and is not from this session", "does not end in .jsonl", "cannot be written"):
        assert reason in chat_screen.notes.getvalue()
    chat_screen.run(f"/save {tmp_path}/other")
    assert "Invalid replies in it, which a policy would learn: 1" in chat_screen.notes.getvalue()


def test_lines_of_a_script_in_invalid_utf_8_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one \xff\ntwo"), encoding="ascii"))
    read = piped_lines()
    assert [read(""), read("")] == ["one \ufffd\n", "two"]
    with pytest.raises(EOFError):
        read("")


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


ENTER, TAB, CTRL_C, CTRL_D, UP = "\r", "\t", "\x03", "\x04", "\x1b[A"
ESCAPE, BACKSPACE, PASTE, END_OF_PASTE = "\x1b", "\x7f", "\x1b[200~", "\x1b[201~"


def send_keys(keys: PipeInput, read_line: ReadLine, *lines: str) -> ReadLine:
    """Send the keys of one prompt at a time, since history loads after the prompt starts."""
    remaining = iter(lines)

    def read(prompt: str, default: str = "", status: str = "") -> str:
        keys.send_text(next(remaining))
        return read_line(prompt, default, status)

    return read


def test_keys_complete_recall_and_leave(talk: Talk, screen, keys: PipeInput, tmp_path: Path) -> None:
    known = {"a_motivation": ["humor", "comfort"]}
    history = tmp_path / "scratch/chat_history"
    first = screen(talk(), known)
    lines = [f"/bo{TAB}a_mo{TAB}hu{TAB} 4{ENTER}", f"not sent{CTRL_C}", f"One.{ENTER}", CTRL_D]
    assert first.terminal.run(send_keys(keys, prompt_lines(history, known), *lines), interactive=True) == 0
    assert first.notes.getvalue() == "boost a_motivation humor +4\n"
    assert first.output.getvalue().endswith("turn 0 draw 0 sample 0\n")

    conversation = talk()
    lines = [f"{UP}{ENTER}", f"{UP}{UP}{ENTER}", CTRL_D]
    screen(conversation).terminal.run(send_keys(keys, prompt_lines(history, {}), *lines), interactive=True)
    assert [exchange.user for exchange in conversation.turns] == ["One."]
    assert conversation.settings.steering.boosts == {"a_motivation": {"humor": 4.0}}


def test_bytes_that_are_no_utf_8_are_left_out(talk: Talk, screen, keys: PipeInput, tmp_path: Path) -> None:
    conversation = talk()
    keys.send_bytes(b"ca\xfff\xc3\xa9\r\x04")
    screen(conversation).terminal.run(prompt_lines(tmp_path / "history", {}), interactive=True)
    assert conversation.last.user == "café"
    assert "+café" in (tmp_path / "history").read_text("utf-8")


def test_escape_sequences_that_are_typed_do_nothing(talk: Talk, screen, keys: PipeInput, tmp_path: Path) -> None:
    conversation = talk(lambda *_: "Hm.", blocks=False)
    keys.send_text(f"so \x1b[31mred\x1b[0m it is\x1b[2J\x1b]0;title\x07{ENTER}{CTRL_D}")
    screen(conversation).terminal.run(prompt_lines(tmp_path / "history", {}), interactive=True)
    assert conversation.last.user.startswith("so red it is")


def test_the_typed_line_shows_hidden_characters_as_signs_and_keeps_them(
    talk: Talk, screen, keys: PipeInput, tmp_path: Path
) -> None:
    shown = Masked().apply_transformation(SimpleNamespace(fragments=[("bold", "a\u202eb\x1b"), ("", "\u200fc")]))
    assert shown.fragments == [("bold", "a\ufffdb\ufffd"), ("", "\ufffdc")]
    conversation = talk(lambda *_: "Hm.", blocks=False)
    keys.send_text(f"{PASTE}a\u202eb{END_OF_PASTE}{ENTER}{CTRL_D}")
    screen(conversation).terminal.run(prompt_lines(tmp_path / "history", {}), interactive=True)
    assert conversation.last.user == "a\u202eb"


def test_tab_completes_the_names_of_files(
    talk: Talk, screen, keys: PipeInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my talks").mkdir()
    monkeypatch.chdir(tmp_path)
    lines = [f"One.{ENTER}", f"/sa{TAB}my{TAB}/one{ENTER}", CTRL_D]
    screen(talk()).terminal.run(send_keys(keys, prompt_lines(tmp_path / "history", {}), *lines), interactive=True)
    assert (tmp_path / "my talks/one.jsonl").exists()


def test_ctrl_c_before_the_first_word_leaves_the_conversation_as_it_was(
    talk: Talk, screen, keys: PipeInput, tmp_path: Path
) -> None:
    stopped = []

    def script(prompt, j):
        if prompt.messages[-1]["content"] == "Two." and not stopped:
            stopped.append(prompt)
            raise KeyboardInterrupt
        return f"turn {prompt.item[1]}"

    conversation = talk(script, blocks=False)
    chat_screen = screen(conversation, is_terminal=True)
    keys.send_text(f"One.{ENTER}Two.{ENTER}Three.{ENTER}{CTRL_D}")
    assert chat_screen.terminal.run(prompt_lines(tmp_path / "history", {}), interactive=True) == 0
    assert [exchange.user for exchange in conversation.turns] == ["One.", "Three."]
    assert "Stopped before anything was said; nothing is kept" in chat_screen.notes.getvalue()


def test_ctrl_c_keeps_the_reply_so_far(talk: Talk, screen, keys: PipeInput, tmp_path: Path) -> None:
    conversation = talk(lambda *_: "I am here, and I have time.", blocks=False)
    sample = conversation.engine.sample

    def interrupted(*arguments):
        *_, on_text = arguments
        on_text("I am")
        raise KeyboardInterrupt

    conversation.engine.sample = interrupted
    chat_screen = screen(conversation, is_terminal=True)
    keys.send_text(f"One.{ENTER}{CTRL_D}")
    assert chat_screen.terminal.run(prompt_lines(tmp_path / "history", {}), interactive=True) == 0
    assert "Stopped; the reply so far is kept. /retry draws another" in chat_screen.notes.getvalue()
    conversation.engine.sample = sample
    chat_screen.run("Two.")
    assert [message["content"] for message in conversation.messages()][1:4] == ["One.", "I am", "Two."]


def test_a_message_has_several_lines(talk: Talk, screen, keys: PipeInput, tmp_path: Path) -> None:
    conversation = talk(lambda *_: "Hm.", blocks=False)
    screen(conversation).run("One\\\n", "and a half.\n", "Two.", "Three \\")
    typed = [f"Four{ESCAPE}{ENTER}and more.{ENTER}", f"{PASTE}Five\r\nand all.{END_OF_PASTE}{ENTER}", CTRL_D]
    screen(conversation).terminal.run(send_keys(keys, prompt_lines(tmp_path / "history", {}), *typed), interactive=True)
    said = [turn.user for turn in conversation.turns]
    assert said == ["One\nand a half.", "Two.", "Three", "Four\nand more.", "Five\nand all."]


def test_the_last_message_is_edited_where_it_was_typed(talk: Talk, screen, keys: PipeInput, tmp_path: Path) -> None:
    conversation = talk(lambda prompt, _: prompt.messages[-1]["content"].upper(), blocks=False)
    lines = [f"I am sda{ENTER}", f"/edit{ENTER}", f"{BACKSPACE * 2}ad{ENTER}", CTRL_D]
    screen(conversation).terminal.run(send_keys(keys, prompt_lines(tmp_path / "history", {}), *lines), interactive=True)
    assert conversation.messages()[1:] == (
        {"role": "user", "content": "I am sad"},
        {"role": "assistant", "content": "I AM SAD"},
    )
    chat_screen = screen(conversation)
    assert chat_screen.run("/edit", "I am glad", "/edit Hm", "/new", "/edit x") == 1
    assert chat_screen.output.getvalue() == "I AM GLAD\nHM\n"


def test_the_settings_are_shown_and_changed(talk: Talk, screen) -> None:
    conversation = talk()
    chat_screen = screen(conversation)
    conversation.engine.window = 1000
    lines = ["/temperature 0.7", "/tokens 20", "/system You ask.", "/settings", "/tokens 2000", "/temperature 0"]
    assert chat_screen.run(*lines) == 2
    assert "sampling       seed 3, temperature 0.7, top-k 100, up to 20 tokens a reply" in chat_screen.output.getvalue()
    assert "system prompt  You ask." in chat_screen.output.getvalue()
    assert "context        998 of 1,000 tokens left" in chat_screen.output.getvalue()
    notes = chat_screen.notes.getvalue()
    assert "context holds 1,000 tokens, so a reply cannot have 2,000" in notes and "temperature: Input should" in notes


def test_a_conversation_goes_on_as_if_it_had_not_been_left(talk: Talk, screen, tmp_path: Path) -> None:
    conversation = talk()
    before = ["One.", "/retry", "/fix a_emotion calm", "/temperature 0.5", "Two.", f"/save {tmp_path}/talk"]
    after = ["/retry", "Three.", "/candidates", "/undo", "/settings"]
    left = screen(conversation)
    left.run(*before)
    shown = len(left.output.getvalue())
    left.run(*after)
    again = talk()
    came_back = screen(again)
    assert came_back.run(f"/load {tmp_path}/talk", *after) == 0
    transcript, _, rest = came_back.output.getvalue().partition(f"{BLOCKS}\nturn 1 draw 0 sample 0\n")
    assert transcript == f"› One.\n{BLOCKS}\nturn 0 draw 1 sample 0\n› Two.\n"
    assert rest == left.output.getvalue()[shown:] != ""
    assert again.turns == conversation.turns and again.settings == conversation.settings


def test_a_conversation_of_another_policy_is_loaded_as_text(talk: Talk, screen, tmp_path: Path) -> None:
    screen(talk()).run("One.", "/fix a_emotion calm", f"/save {tmp_path}/talk.jsonl")
    conversation = talk(lambda *_: "Hm.", blocks=False, steering_error="it writes no blocks")
    conversation.policy = "sage_1_plain"
    chat_screen = screen(conversation)
    assert chat_screen.run(f"/load {tmp_path}/talk", "Two.") == 0
    assert conversation.messages()[2]["content"] == "turn 0 draw 0 sample 0"
    for note in ("written by sage_7; sage_1_plain goes on", "sage_1_plain writes no state and action blocks"):
        assert note in chat_screen.notes.getvalue()


def test_a_file_that_is_no_conversation_is_not_loaded(talk: Talk, screen, tmp_path: Path) -> None:
    conversation = talk()
    turn = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    files = {
        "two": [{"messages": turn}, {"messages": turn}],
        "open": [{"messages": [*turn, turn[0]]}],
        "other": ["not a conversation"],
        "plain": [{"messages": [{"role": "system", "content": "Be brief."}, *turn], "chat": {"policy": "x"}}],
    }
    for name, records in files.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "folder.d").mkdir()
    chat_screen = screen(conversation)
    chat_screen.run("One.")
    names = ["two", "open", "other", "nothing", "two.txt"]
    assert chat_screen.run(*(f"/load {tmp_path}/{name}" for name in names), f"/load {tmp_path}/folder.d") == 6
    for reason in (
        "holds 2 conversations",
        "has no reply",
        "other.jsonl:1 is no conversation: not a JSON object",
        "nothing.jsonl is not there",
        "two.txt is not there",
        "is not a file",
    ):
        assert reason in chat_screen.notes.getvalue()
    assert [turn.user for turn in conversation.turns] == ["One."]
    assert chat_screen.run(f"/load {tmp_path}/plain") == 0
    assert "are of another version of the chat" in chat_screen.notes.getvalue()
    assert (conversation.settings.system_prompt, conversation.last.user) == ("Be brief.", "Hi.")


def test_ctrl_c_ends_a_script(talk: Talk, screen) -> None:
    def script(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen(talk(script)).run("One.", "Two.")


def test_the_greeting_has_the_policy_and_its_steering(talk: Talk, screen) -> None:
    chat_screen = screen(talk())
    chat_screen.run("/fix a_emotion calm")
    chat_screen.terminal.greet()
    assert "sage_7, seed 3, temperature 1, top-k 100, up to 50 tokens a reply.\n/help" in chat_screen.notes.getvalue()
    assert chat_screen.notes.getvalue().endswith("fix   a_emotion calm\n")


def test_the_greeting_shows_first_messages(talk: Talk, screen) -> None:
    chat_screen = screen(talk())
    chat_screen.terminal.greet(["My dog\x1b[31m died."])
    assert r"as a first message: My dog\x1b[31m died." in chat_screen.notes.getvalue()
