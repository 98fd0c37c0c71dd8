"""The studio's chat over HTTP: turns, branches, candidates, settings, files, and errors for people."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from studio_app import Client, numbered_reply, reply_with_blocks, said

from sage_dialog.config import Steering
from sage_dialog.corpora.conversations import read_conversations
from sage_dialog.inference.engine import Prompt
from sage_dialog.studio.chat.conversation import Conversation
from sage_dialog.studio.chat.files import load_conversation

Start = Callable[..., Client]
FORM = {
    "policy0": "sage_7",
    "temperature": "0.7",
    "top_k": "5",
    "repetition_penalty": "1",
    "max_new_tokens": "40",
    "hold_form": "on",
    "system_prompt": "You joke.",
}


def test_a_reply_has_its_plan_as_fields(studio: Start) -> None:
    client = studio()
    page = client.get(client.begin()).text
    assert said(page) == ["I moved.", "sage_7 turn 0 draw 0 sample 0"]
    fields = dict(re.findall(r'<bdi data-field="([a-z_]+)">([^<]*)</bdi>', page))
    assert (fields["u_emotion"], fields["a_motivation"], fields["a_topic"]) == ("sad", "empathy", "home, rain")
    assert '<option value="humor">' in page


def test_the_first_page_offers_messages_to_begin_with(studio: Start) -> None:
    assert "data-example" not in studio().get("/chat").text
    page = studio(examples=['My "dog" died.\x1b[31m']).get("/chat").text
    assert (
        'data-example="My &#34;dog&#34; died.\x1b[31m"' in page and ">My &#34;dog&#34; died.\\x1b[31m</button>" in page
    )


def test_the_stream_brings_fields_and_words_from_the_beginning(studio: Start) -> None:
    client = studio()
    stream = client.get(f"{client.begin()}/stream/0")
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = re.findall(r"event: (\w+)\ndata: (.*)\n\n", stream.text)
    reply = json.loads(events[0][1])
    assert [name for name, _ in events] == ["reply", "done"]
    assert (reply["at"], reply["text"]) == (0, "sage_7 turn 0 draw 0 sample 0")
    assert reply["fields"]["u_motivation"] == "sharing"


def test_turns_can_be_drawn_again_edited_and_gone_back_to(studio: Start) -> None:
    client = studio()
    talk = client.begin()
    client.step(talk, "say", text="It rains.")
    assert said(client.step(talk, "again", turn=1))[2:] == ["It rains.", "sage_7 turn 1 draw 1 sample 0"]
    assert said(client.step(talk, "show", turn=1))[3] == "sage_7 turn 1 draw 0 sample 0"
    # The draw after the first of two is the third, not the second again.
    assert said(client.step(talk, "again", turn=1))[3] == "sage_7 turn 1 draw 2 sample 0"
    edited = client.step(talk, "edit", turn=0, text="I stayed.")
    assert said(edited) == ["I stayed.", "sage_7 turn 0 draw 0 sample 0"] and "2 of 2" in edited
    assert said(client.step(talk, "show", turn=0))[3] == "sage_7 turn 1 draw 2 sample 0"  # the latest that followed
    assert said(client.step(talk, "end", turn=0)) == ["I moved.", "sage_7 turn 0 draw 0 sample 0"]
    assert said(client.step(talk, "say", text="It rains."))[3] == "sage_7 turn 1 draw 3 sample 0"


def test_a_conversation_is_the_terminal_s(studio: Start) -> None:
    """The same lines draw the same replies as in the chat of the terminal."""
    client = studio()
    talk = client.begin()
    client.step(talk, "say", text="It rains.")
    client.step(talk, "again", turn=1)
    engine = client.studio.policies.get("sage_7").open_engine()
    web = [(prompt.messages, prompt.item) for _, prompt, _ in engine.requests]
    engine.requests.clear()
    settings = client.studio.policies.get("sage_7").settings
    terminal = Conversation(engine, "sage_7", True, settings)
    terminal.say("I moved.")
    terminal.say("It rains.")
    terminal.retry()
    assert web == [(prompt.messages, prompt.item) for _, prompt, _ in engine.requests]


def test_a_candidate_replaces_the_reply_and_both_remain(studio: Start) -> None:
    client = studio()
    talk = client.begin()
    drawn = client.step(talk, "candidates")
    assert drawn.count("Go on with this one") == 4 and "sage_7 turn 0 draw 1 sample 3" in drawn
    picked = client.step(talk, "pick", candidate=3)
    assert said(picked)[1] == "sage_7 turn 0 draw 1 sample 2" and "2 of 2" in picked
    assert "Go on with this one" not in picked
    assert client.post(f"{talk}/pick", candidate=3).status_code == 422
    assert said(client.step(talk, "again", turn=1))[1] == "sage_7 turn 0 draw 2 sample 0"


def test_settings_hold_from_the_next_reply_on(studio: Start) -> None:
    client = studio()
    talk = client.begin()
    boosted = FORM | {
        "boost-a_motivation": ["humor", ""],
        "weight-a_motivation": ["4", "4"],
        "fix-a_topic": "cats, tea",
    }
    note = client.post(f"{talk}/settings", **boosted).text
    assert "boost a_motivation humor +4" in note and "fix   a_topic cats, tea" in note
    client.step(talk, "say", text="It rains.", **boosted)
    requests = client.studio.policies.get("sage_7").open_engine().requests
    assert [steering for _, _, steering in requests] == [
        Steering(),
        Steering(boosts={"a_motivation": {"humor": 4.0}}, fixed={"a_topic": ("cats", "tea")}),
    ]
    assert requests[-1][1].messages[0]["content"] == "You joke."
    for wrong, reason in (
        ({"fix-a_motivation": "humor"}, "boosted and fixed"),
        ({"temperature": "0"}, "greater than 0"),
        ({"top_k": "many"}, "not a number"),
    ):
        assert reason in client.post(f"{talk}/settings", **boosted | wrong).text
        refused = client.post(f"{talk}/say", text="Hm.", **boosted | wrong)
        assert refused.status_code == 422 and reason in refused.text
    assert len(requests) == 2


def test_a_change_of_the_policy_keeps_the_conversation(studio: Start) -> None:
    client = studio()
    talk = client.begin()
    client.step(talk, "say", text="It rains.", **FORM | {"policy0": "plain", "fix-a_emotion": "calm"})
    policy, prompt, steering = client.studio.policies.get("plain").open_engine().requests[-1]
    assert policy == "plain" and not steering  # it writes no blocks, and sees none
    assert prompt.messages[2]["content"] == "sage_7 turn 0 draw 0 sample 0"


def test_presets_keep_settings_for_other_conversations(studio: Start, tmp_path: Path) -> None:
    client = studio()
    first, second = client.begin(), client.begin("It rains.")
    client.post(f"{first}/preset/save", **FORM | {"fix-a_emotion": "<b>calm</b>", "preset_name": " <i> "})
    panel = client.post(f"{second}/preset/use", preset="<i>").text
    assert 'value="&lt;b&gt;calm&lt;/b&gt;"' in panel and 'value="0.7"' in panel
    assert '<option value="&lt;i&gt;">' in studio().get(second).text  # another start
    assert 'value="0.7"' not in client.post(f"{second}/preset/use", preset="").text
    client.post(f"{second}/preset/delete", preset="<i>")
    assert "&lt;i&gt;" not in client.get(second).text
    assert client.post(f"{second}/preset/save", **FORM, preset_name=" ").status_code == 422


def test_a_conversation_is_saved_and_goes_on_at_another_start(studio: Start) -> None:
    client = studio()
    talk = client.begin("<script>alert(1)</script>")
    client.step(talk, "again", turn=0)
    before = client.get(f"{talk}/view").text
    again = studio()
    assert "&lt;script&gt;alert(1)" in again.get("/chat").text
    after = again.get(f"{talk}/view").text
    context = r'<p class="soft context">.*?</p>'  # only counted with a reply
    assert after == re.sub(context, "", before) != before and "2 of 2" in after
    assert said(again.step(talk, "again", turn=0))[1] == "sage_7 turn 0 draw 2 sample 0"
    again.post(f"{talk}/delete")
    assert again.get(talk).status_code == 404 and studio().get(talk).status_code == 404


def test_the_message_of_a_killed_studio_is_there_to_be_sent_again(studio: Start) -> None:
    def die(policy: str, prompt: Prompt, sample: int) -> str:
        raise ValueError("out of memory")

    client = studio(die)
    talk = client.post("/chat/new", policy="sage_7", text="I moved.").headers["hx-redirect"]
    client.wait(talk)
    failed = client.get(f"{talk}/view").text
    assert "out of memory" in failed and ">I moved.</textarea>" in failed
    again = studio()
    assert "was stopped before" in again.get(f"{talk}/view").text
    assert said(again.step(talk, "say", text="I moved."))[0] == "I moved."
    assert "was stopped before" not in studio().get(f"{talk}/view").text


@pytest.mark.parametrize("step", [("again", {}), ("edit", {"text": "I stayed."})])
@pytest.mark.parametrize("restarted", [False, True])
def test_an_unfinished_reply_is_sent_again_in_its_place(
    studio: Start, step: tuple[str, dict[str, str]], restarted: bool
) -> None:
    """Another reply that failed, or that a kill has interrupted, replaces the turn, and its draw is the missing one."""
    fails = [False]

    def fail(policy: str, prompt: Prompt, sample: int) -> str:
        if fails[0]:
            raise ValueError("out of memory")
        return numbered_reply(policy, prompt, sample)

    name, fields = step
    client = studio(fail)
    talk = client.begin()
    client.step(talk, "say", text="It rains.")
    fails[0] = True
    failed = client.step(talk, name, turn=0, **fields)
    text = fields.get("text", "I moved.")
    assert len(said(failed)) == 4 and f">{text}</textarea>" in failed and "no other reply" in failed
    fails[0] = False
    if restarted:
        client = studio(fail)
        assert "was stopped before" in client.get(f"{talk}/view").text
    sent = client.step(talk, "resend", text=text)
    draw = 1 if name == "again" else 0
    assert said(sent) == [text, f"sage_7 turn 0 draw {draw} sample 0"] and "2 of 2" in sent
    assert client.post(f"{talk}/resend", text=text).status_code == 422
    assert len(said(client.step(talk, "show", turn=0))) == 4  # the replaced turn, with what followed


def test_two_studios_on_one_folder_keep_each_other_s_turns(studio: Start) -> None:
    """A turn that another studio saved while a reply was drawn here is a branch; a later one is read."""
    go_on = threading.Event()

    def wait(policy: str, prompt: Prompt, sample: int) -> str:
        if prompt.messages[-1]["content"] == "Slowly.":
            assert go_on.wait(60)
        return numbered_reply(policy, prompt, sample)

    first, second = studio(wait), studio()
    talk = first.begin()
    assert said(second.get(f"{talk}/view").text)[0] == "I moved."
    first.post(f"{talk}/say", text="Slowly.")
    assert said(second.step(talk, "say", text="Quickly."))[2] == "Quickly."
    assert said(second.step(talk, "say", text="More."))[4] == "More."
    go_on.set()
    first.wait(talk)
    for client in (first, second):
        view = client.get(f"{talk}/view").text
        assert said(view)[2:] == ["Slowly.", "sage_7 turn 1 draw 0 sample 0"] and "2 of 2" in view
        assert "was stopped before" not in view
    assert said(second.step(talk, "show", turn=1))[2:5:2] == ["Quickly.", "More."]
    assert said(first.get(f"{talk}/view").text)[2:5:2] == ["Quickly.", "More."]
    first.post(f"{talk}/delete")
    assert second.get(talk).status_code == 404


def test_a_conversation_that_is_deleted_while_a_reply_is_drawn_does_not_return(studio: Start) -> None:
    go_on = threading.Event()

    def wait(policy: str, prompt: Prompt, sample: int) -> str:
        assert go_on.wait(60)
        return numbered_reply(policy, prompt, sample)

    client = studio(wait)
    talk = client.post("/chat/new", policy="sage_7", text="I moved.").headers["hx-redirect"]
    client.post(f"{talk}/delete")
    go_on.set()
    client.studio.thread.call(lambda: None)
    assert client.get("/chat").status_code == 200 and client.get(talk).status_code == 404
    assert studio().get(talk).status_code == 404


def test_an_unfinished_reply_is_discarded(studio: Start) -> None:
    client = studio()
    talk = client.begin()
    client.studio.policies.get("sage_7").open_engine().reply = None  # fails
    assert "The reply failed" in client.step(talk, "again", turn=0)
    kept = client.post(f"{talk}/discard").text
    assert "The reply failed" not in kept and len(said(kept)) == 2
    assert "was stopped before" not in studio().get(f"{talk}/view").text


def test_a_saved_file_is_a_training_mix_s_and_loads_in_the_terminal(studio: Start, tmp_path: Path) -> None:
    client = studio()
    talk = client.begin()
    client.step(talk, "say", text="It rains.")
    response = client.get(f"{talk}/conversation-0.jsonl")
    assert re.fullmatch(r'attachment; filename="sage_7-\w+\.jsonl"', response.headers["content-disposition"])
    (tmp_path / "talk.jsonl").write_bytes(response.content)
    dialogues, rejects = read_conversations({"talk.jsonl": tmp_path / "talk.jsonl"})
    assert len(dialogues) == 1 and not rejects
    policy = client.studio.policies.get("sage_7")
    conversation = Conversation(policy.open_engine(), "sage_7", True, policy.settings)
    assert load_conversation(conversation, tmp_path / "talk.jsonl", 3) == []
    assert [turn.user for turn in conversation.turns] == ["I moved.", "It rains."]
    assert client.get(f"{talk}/conversation-1.jsonl").status_code == 409


def test_a_saved_page_stands_alone(studio: Start) -> None:
    client = studio(lambda *_: reply_with_blocks("<script>alert(1)</script> \u202eevil"))
    page = client.get(f"{client.begin()}/conversation.html").text
    assert (
        "<script" not in page and "src=" not in page and "href=" not in page and "http" not in page.split("<body>")[1]
    )
    assert "&lt;script&gt;" in page and "\u202e" not in page and r"\u202eevil" in page
    assert re.search(r"style-src 'sha256-[A-Za-z0-9+/]+=*'", page)


@pytest.mark.parametrize(
    ("step", "fields", "status"),
    [
        ("say", {"text": "  "}, 422),
        ("say", {"text": "x" * 100_001}, 413),
        ("again", {"turn": "7"}, 422),
        ("again", {"turn": "-1"}, 422),
        ("edit", {"turn": "0", "text": ""}, 422),
        ("show", {"turn": "x"}, 422),
        ("end", {}, 422),
        ("say", {"text": "Hm.", **FORM, "policy0": "none"}, 422),
        ("say", {f"x{n}": "1" for n in range(600)}, 413),
    ],
)
def test_an_invalid_request_changes_nothing(studio: Start, step: str, fields: dict[str, str], status: int) -> None:
    client = studio()
    talk = client.begin()
    before = client.get(f"{talk}/view").text
    response = client.post(f"{talk}/{step}", **fields)
    assert response.status_code == status and response.text
    assert client.get(f"{talk}/view").text == before


def test_conversations_that_do_not_exist_are_not_found(studio: Start) -> None:
    client = studio()
    for path in ("/chat/0123456789ab", "/chat/..%2f..%2fetc", "/chat/x/view", "/nothing", "/static/../server.py"):
        assert client.get(path).status_code == 404
    assert client.post("/chat/new", policy="sage_9", text="Hm.").status_code == 422
    assert client.post("/chat/new", text="Hm.").status_code == 422
    assert client.post("/chat/new", policy="sage_7", beside="sage_7", text="Hm.").status_code == 422


def test_two_policies_get_the_same_messages_and_a_vote_is_saved(studio: Start, tmp_path: Path) -> None:
    client = studio()
    talk = client.begin(beside="sage_8", blind="on")
    hidden = client.get(talk).text
    assert "sage_7 turn" in hidden  # what the scripted policies say
    body = re.sub(r"sage_\d turn[^<]*", "", hidden.split('id="talk"')[1].split('class="compose"')[0])
    assert "sage_" not in body and "data-field" not in body and ">A is better<" in body
    assert client.get(f"{talk}/conversation-0.jsonl").status_code == 409
    assert client.post(f"{talk}/again", turn=0).status_code == 409
    client.step(talk, "say", text="It rains.")
    assert client.post(f"{talk}/vote", vote="best", rater="anna").status_code == 422
    assert client.post(f"{talk}/vote", vote="first", rater="Anna B").status_code == 422
    voted = client.step(talk, "vote", vote="first", comment=" warmer ", rater="anna")
    assert "the vote is saved" in voted and "data-field" in voted
    assert client.post(f"{talk}/vote", vote="first").status_code == 422  # once for these dialogues
    (line,) = (tmp_path / "votes/anna.jsonl").read_text().splitlines()
    vote = json.loads(line)
    assert (vote["vote"], vote["comment"]) == ("first", "warmer") and {vote["first"], vote["second"]} == {
        "sage_7",
        "sage_8",
    }
    kept = json.loads((tmp_path / f"votes/chats/{vote['first_digest']}.jsonl").read_text())
    assert kept["chat"]["policy"] == vote["first"] and len(kept["messages"]) == 5
    assert ">A is better<" not in client.step(talk, "say", text="Again.")
    client.step(talk, "vote", vote="tie")
    assert len((tmp_path / "votes/anna.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("again", ["say", "resend"])
@pytest.mark.parametrize(("policy", "beside"), [("sage_7", "sage_8"), ("sage_8", "sage_7")])
def test_two_policies_go_on_together_after_one_failed(studio: Start, policy: str, beside: str, again: str) -> None:
    """A message that only one of them answered is sent again to both, and there is no vote before."""
    full = [True]

    def fail_once(policy: str, prompt: Prompt, sample: int) -> str:
        if policy == "sage_8" and prompt.item[1] == 1 and full[0]:
            raise ValueError("out of memory")
        return numbered_reply(policy, prompt, sample)

    client = studio(fail_once)
    talk = client.begin(policy=policy, beside=beside)
    failed = client.step(talk, "say", text="It rains.")
    assert "out of memory" in failed and "is better" not in failed
    assert client.post(f"{talk}/vote", vote="first", rater="anna").status_code == 422
    assert ">It rains.</textarea>" in studio().get(f"{talk}/view").text  # another start
    full[0] = False
    html = client.step(talk, again, text="It snows.")
    assert [text for text in said(html) if not text.startswith("sage_")] == ["I moved.", "It snows."] * 2
    assert "sage_7 is better" in html and "</textarea>" not in html.split('class="card vote"')[0]


def test_steering_that_the_policy_refuses_is_an_error_of_the_reply(studio: Start) -> None:
    client = studio(numbered_reply, steering_error="it cannot write that")
    talk = client.begin()
    failed = client.step(talk, "say", text="It rains.", **FORM | {"fix-a_emotion": "calm"})
    assert "it cannot write that" in failed and len(said(failed)) == 2
    assert said(client.step(talk, "say", text="It rains.", **FORM))[2] == "It rains."
