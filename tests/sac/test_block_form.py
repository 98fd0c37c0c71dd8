"""Other text forms of the blocks: `parse` reads what `render` writes in a form, and accepts nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.sac import BlockForm, Chain, Intent, Unparsed, parse, render

FIGURES = (
    "(u_motivation: <u_motivation>, u_emotion: <u_emotion>) [x_motivation: <a_motivation>, x_emotion: <a_emotion>] "
)
PLAY = (
    "{user_motivation: <u_motivation>, user_emotion: <u_emotion>, user_topic: [<u_topic>]} "
    "{assistant_motivation: <a_motivation>, assistant_emotion: <a_emotion>, assistant_topic: [<a_topic>]} "
)
PIPES = "#think# <u_emotion> | <a_topic> | <a_motivation> || "
labels = st.text(st.sampled_from("abé )('-"), min_size=1).map(str.strip).filter(bool)
intents = st.builds(Intent, st.none() | labels, st.none() | labels, st.lists(labels, max_size=3).map(tuple))
chains = st.builds(Chain, intents, intents, st.text(st.sampled_from("ab ]})(|[\n"), max_size=12))


@pytest.mark.parametrize("template", [FIGURES, PLAY, PIPES])
@given(chain=chains)
def test_what_is_rendered_is_read_back_where_no_label_holds_the_text_after_it(template: str, chain: Chain) -> None:
    form = BlockForm(template)
    state = Intent(
        chain.state.motivation if "<u_motivation>" in template else None,
        chain.state.emotion if "<u_emotion>" in template else None,
        chain.state.topics if "<u_topic>" in template else (),
    )
    action = Intent(
        chain.action.motivation if "<a_motivation>" in template else None,
        chain.action.emotion if "<a_emotion>" in template else None,
        chain.action.topics if "<a_topic>" in template else (),
    )
    kept = replace(chain, state=state, action=action)
    text = form.render(kept)
    read = form.parse(text)
    if ") [" in "".join(filter(None, (state.emotion, state.motivation))):
        return  # such a label cannot be written in the form of the figures
    assert read == kept
    assert form.render(read) == text  # the policy reads its own earlier replies letter by letter
    ours = parse(render(read))
    assert isinstance(ours, Chain) and form.render(ours) == text


@pytest.mark.parametrize(
    "text",
    [
        "Haha! (u_motivation: a, u_emotion: b) [x_motivation: c, x_emotion: d] Hi",
        "(u_motivation: a, u_emotion: b) [x_motivation: c, x_emotion: d]Hi",
        "(u_motivation: , u_emotion: b) [x_motivation: c, x_emotion: d] Hi",
        "(u_motivation: a,b, u_emotion: b) [x_motivation: c, x_emotion: d] Hi",
        "(u_motivation:  a, u_emotion: b) [x_motivation: c, x_emotion: d] Hi",
        render(Chain(Intent("a", "b"), Intent("c", "d"), "Hi")),
    ],
)
def test_any_other_text_is_not_a_chain(text: str) -> None:
    read = BlockForm(FIGURES).parse(text)
    assert isinstance(read, Unparsed) and read.text == text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("(<u_mood>) [<a_emotion>] ", r"<u_mood> is not a field of the blocks; the fields are u_motivation, "),
        ("(<u_emotion>) [<u_emotion>] ", "<u_emotion> is there twice"),
        ("(<u_emotion>) ", "it has no field of the action"),
        ("(<a_motivation><a_emotion>) ", "after <a_motivation> there is no text that ends its label"),
        ("(<a_motivation>", "after <a_motivation> there is no text"),
        ("<a_motivation>) ", "before <a_motivation> there is no text by which blocks are recognized"),
        ("no fields", "it has no field of the action"),
    ],
)
def test_a_template_that_is_no_form_is_refused(template: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BlockForm(template)
