"""The messages that agent and user see, and the part of a reply that is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.sac import Chain, Intent, parse, render
from sage_dialog.selfplay.reply_rules import is_farewell, up_to_first_question

SITUATION = "I lost my keys."


def two_exchanges(policy, prompt, j):
    """Script in which agent and user number their turns."""
    turn = prompt.item[-1] if policy == "agent" else prompt.item[-2]
    state = Intent("sharing", "annoyed", ("keys",)) if policy == "agent" else Intent("asking", "caring")
    return render(Chain(state, Intent("comfort", "calm", ("home",)), f"{policy} says {turn}."))


def test_the_agent_sees_plain_user_turns_and_its_own_blocks(play, game, engine) -> None:
    scripted = engine(two_exchanges)
    play(scripted, game(max_turns=4), [("s", SITUATION)])
    assert scripted.prompts("agent")[1] == (
        {"role": "system", "content": "You listen."},
        {"role": "user", "content": SITUATION},
        {
            "role": "assistant",
            "content": "{u_motivation: sharing, u_emotion: annoyed, u_topic: [keys]} "
            "{a_motivation: comfort, a_emotion: calm, a_topic: [home]} agent says 1.",
        },
        {"role": "user", "content": "user says 2."},
    )


def test_the_user_sees_exchanged_roles_its_own_blocks_and_none_of_the_agents(play, game, engine) -> None:
    scripted = engine(two_exchanges)
    play(scripted, game(max_turns=5), [("s", SITUATION)])
    assert scripted.prompts("user")[1] == (
        {"role": "system", "content": "You share."},
        {
            "role": "assistant",  # the opening's action is the state that the agent predicted
            "content": "{u_motivation: null, u_emotion: null, u_topic: []} "
            "{a_motivation: sharing, a_emotion: annoyed, a_topic: [keys]} I lost my keys.",
        },
        {"role": "user", "content": "agent says 1."},
        {
            "role": "assistant",
            "content": "{u_motivation: asking, u_emotion: caring, u_topic: []} "
            "{a_motivation: comfort, a_emotion: calm, a_topic: [home]} user says 2.",
        },
        {"role": "user", "content": "agent says 3."},
    )


@pytest.mark.parametrize("first_reply", ["Plain words.", "{u_motivation: broken"])
def test_the_action_of_an_opening_without_a_predicted_state_is_sharing(
    play, game, engine, say, first_reply: str
) -> None:
    scripted = engine(lambda policy, prompt, j: first_reply if policy == "agent" else say("Yes."))
    play(scripted, game(max_turns=3, agent_blocks=not first_reply.startswith("Plain")), [("s", SITUATION)])
    opening = parse(scripted.prompts("user")[0][1]["content"])
    assert opening == Chain(Intent(), Intent("sharing"), SITUATION)


def test_a_user_without_blocks_opens_with_the_bare_situation(play, game, engine) -> None:
    scripted = engine(lambda policy, prompt, j: f"{policy} speaks.")
    play(scripted, game(max_turns=5, agent_blocks=False, user_blocks=False), [("s", SITUATION)])
    assert [message["content"] for message in scripted.prompts("user")[1]] == [
        "You share.",
        SITUATION,
        "agent speaks.",
        "user speaks.",
        "agent speaks.",
    ]


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("I'm sad. Why did she leave?", "I'm sad. Why did she leave?"),
        ("I'm sad. Why did she leave? I loved her. Do you know?", "I'm sad. Why did she leave?"),
        ("Why me?! It is unfair.", "Why me?!"),
        ("He left!? And now...", "He left!?"),
        ("Why?... I loved her. Do you know?", "Why?..."),
        ("Why?… I loved her.", "Why?…"),
        ("Why? (laughs) It is odd.", "Why?"),
        ("I'm sad (can you tell?). Why did she leave? I know.", "I'm sad (can you tell?). Why did she leave?"),
        (
            "I'm sad (can you tell?) and tired. Why did she leave?",
            "I'm sad (can you tell?) and tired. Why did she leave?",
        ),
        ("(Can you tell?) I'm sad.", "(Can you tell?)"),
        ("Who?--I do not know. Do you?", "Who?"),
        ('She asked "why?" and left.', 'She asked "why?" and left.'),
        ('She asked "why?" What do I say? I am lost.', 'She asked "why?" What do I say?'),
        ("She asked “why?” What do I say? I am lost.", "She asked “why?” What do I say?"),
        ("See https://a.com/why? for it.", "See https://a.com/why? for it."),
        ("Nothing to ask here. Nothing at all.", "Nothing to ask here. Nothing at all."),
        ("See a.com/?q=1 for it. Is it true? Yes.", "See a.com/?q=1 for it. Is it true?"),
        ("Really?\nI did not know.", "Really?"),
        ("How are you?😊 I am fine.", "How are you?"),
        ("How are you?😊 fine", "How are you?"),
        ("Is it 5?No way. I go.", "Is it 5?"),
        ("See a.com/why?Because it is odd.", "See a.com/why?Because it is odd."),
        ("Do you think so?) yes", "Do you think so?)"),
        ("I'm fine :) (can you tell?) and tired.", "I'm fine :) (can you tell?) and tired."),
        ("My boss' dog, is it?' no", "My boss' dog, is it?'"),
        ("He asked me *why?* and I had no answer.", "He asked me *why?* and I had no answer."),
        ("Is it 5?* no", "Is it 5?*"),
        ("我很难过。为什么？我不知道。", "我很难过。为什么？"),
        ("Really？ I did not know.", "Really？"),
        ("我很难过（你知道吗？），也很累。为什么？是的。", "我很难过（你知道吗？），也很累。为什么？"),
    ],
)
def test_a_reply_ends_after_its_first_question_and_keeps_it(reply: str, kept: str) -> None:
    assert up_to_first_question(reply) == kept


STATEMENT = st.sampled_from(
    [
        "I'm sad.",
        "He left...",
        "Well… ok.",
        "It is (so to speak) over!",
        "See https://a.com/?q=1 .",
        "no end",
        ":(",
        "1?2",
        "a.com/x?Y=2",
        "https://a.com/b?No",
        "www.a.com?q=😊",
    ]
) | st.sampled_from(
    ["She asked 'why?' and left.", "She asked “why?” and left.", "“Go,” he said.", "(am I?) and so on."]
)
QUESTION = st.sampled_from(
    ["Why?", "Is it?!", "Did he!?", "So what?...", "Am I wrong?…", "Did she say “no”?", "(Is it me?)", "Really??"]
)


@given(st.lists(STATEMENT, max_size=4), QUESTION, st.lists(STATEMENT | QUESTION, max_size=4), st.sampled_from(" \n"))
def test_the_first_question_is_kept_and_the_text_after_it_removed(before, question, after, space: str) -> None:
    kept = space.join([*before, question])
    after = [text[0].upper() + text[1:] for text in after[:1]] + after[1:]  # a new sentence
    assert up_to_first_question(space.join([*before, question, *after])) == kept


@given(st.lists(STATEMENT, max_size=3), QUESTION, st.sampled_from(["😊 yes", "👍🏽", "–", "No way", "I do."]))
def test_text_directly_after_a_question_is_removed(before, question, rest: str) -> None:
    kept = " ".join([*before, question])
    assert up_to_first_question(kept + rest) == kept


@given(st.text(alphabet="aB ?？!.…\"'”)]）—\n", max_size=30))
def test_the_kept_text_is_a_prefix_with_a_question_if_shortened(text: str) -> None:
    kept = up_to_first_question(text)
    assert text.startswith(kept)
    assert kept == text or "?" in kept or "？" in kept
    assert up_to_first_question(kept) == kept


def test_a_trimmed_reply_is_trimmed_for_its_speaker_too(play, game, engine, say) -> None:
    scripted = engine(lambda policy, prompt, j: say("Oh. Why? Tell me." if policy == "user" else "I see."))
    (dialogue,) = play(scripted, game(max_turns=5), [("s", SITUATION)])
    assert dialogue.messages[2].text == "Oh. Why?"
    assert dialogue.messages[2].content == say("Oh. Why?")
    assert scripted.prompts("user")[1][3]["content"] == say("Oh. Why?")
    (untrimmed,) = play(scripted, game(max_turns=3, one_question=False), [("s", SITUATION)])
    assert untrimmed.messages[2].text == "Oh. Why? Tell me."


@pytest.mark.parametrize(
    "text",
    [
        "Thanks for listening. Goodbye!",
        "Take care.",
        "Take care of yourself!",
        "Thanks - good-bye.",
        "I have to go now, talk to you later",
        "Gotta go bye",
        "Thank you, have a good night!",
        "Thank you so much for listening, have a lovely evening.",
        "Thanks for everything and have a nice day.",
        "Thanks have a great weekend",
        "Have a great day! 😊",
        "You have a good evening too.",
        "I hope you have a great weekend!",
        "Thanks, bye!",
        "Thanks for what you said, goodbye!",
        "Ok, I'll see you later then.",
        "See you soon!",
        "I hope to talk to you soon.",
        "I'll talk to you tomorrow.",
        "I should sleep now, good night.",
        "Good night to you!",
        "Thanks, goodnight!",
        "Goodnight.",
        "Farewell, my friend.",
        "Catch you later!",
        "I'll see you tomorrow.",
    ],
)
def test_leave_taking_in_the_last_sentence_is_a_farewell(text: str) -> None:
    assert is_farewell(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "She never said goodbye. It hurts.",
        "Should I say goodbye?",
        "I stood by the lake.",
        "It was so hard to say goodbye.",
        "She just texted bye and left.",
        "She never said a proper goodbye.",
        "I could not even say good-bye.",
        "He is a stand-bye.",
        "Then she said, goodbye.",
        "Bye, he said and left.",
        "No goodbye, nothing.",
        "I could not say it, goodbye to her is too hard.",
        "We had our last good night of sleep in June.",
        "In the end it was a good night.",
        "I had another good night.",
        "It is a lot. I take care of my mother now.",
        "I always take care.",
        "My doctor said take care.",
        "I didn't have a good day.",
        "I did not have a great weekend.",
        "My wife and I always have a great weekend.",
        "I finally have a nice evening planned.",
        "You have a nice evening planned, and I am alone.",
        "Thanks but I didn't have a good day.",
        "Well, I have a nice weekend ahead.",
        "No one told me to have a good day.",
        "They say have a nice day.",
        "I wish I could talk to you later.",
        "I hope I see you soon, mom.",
        "See you soon, mom.",
        "Good night, Grandma.",
        "I need to see you soon.",
        "He told me, see you later.",
        "I thought I'd see you later.",
        "I will see you tomorrow at the funeral.",
        "See you later if I can.",
        "Farewell parties are the worst.",
        "It was a farewell.",
        "I could not catch you later.",
        "Goodnight kisses were our thing.",
        "Bye for now (will you be here tomorrow?)",
        "再见 bye？",
    ],
)
def test_mentions_of_leaving_are_no_farewell(text: str) -> None:
    assert not is_farewell(text)


def test_line_breaks_braces_and_the_word_topic_are_kept(play, game, engine, say) -> None:
    text = "First line.\nSecond {line}, topic: [x] {a_motivation: y}."
    scripted = engine(lambda policy, prompt, j: say(text))
    (dialogue,) = play(scripted, game(max_turns=4), [("s", "topic: {me}\nand you")])
    assert [message.text for message in dialogue.messages] == ["topic: {me}\nand you", text, text, text]
    assert scripted.prompts("agent")[1][-1]["content"] == text
    assert scripted.prompts("user")[0][-1]["content"] == text
