"""Syntax and matching of phrases."""

import pytest

from sage_dialog.roles.offline.lexicon import Phrases, content_words, read_lexicon, trigrams, words


def test_words_keep_apostrophes_and_hyphens_inside() -> None:
    assert words("She said: “Don’t!” - a well-known 2nd rule…") == [
        "she",
        "said",
        "don't",
        "a",
        "well-known",
        "nd",
        "rule",
    ]


def test_content_words_leave_out_function_words_and_number() -> None:
    assert content_words(words("My sisters and I were at the garden, weren't we? Gardens!")) == {"sister", "garden"}


def test_trigrams_of_a_short_text_are_none() -> None:
    assert trigrams(["a", "b"]) == set()
    assert trigrams(["a", "b", "c", "d"]) == {("a", "b", "c"), ("b", "c", "d")}


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("I was terrified", {"fear": 1.0}),
        ("terrified and terrifying", {"fear": 1.0}),  # a phrase counts once
        ("my stomach was all in knots", {"fear": 2.0}),
        ("my stomach was sort of kind of really in knots", {}),  # more than three words between
        ("I fret, I worry", {"fear": 1.0}),
        ("happy", {"joy": 1.0}),
        ("I am not happy", {}),
        ("I wasn't so happy", {}),
        ("not that it matters, but happy", {"joy": 1.0}),
        ("not over the moon", {"joy": 2.0}),  # only single words are negated
        ("unhappy", {}),
        ("", {}),
    ],
)
def test_phrases_found(text: str, weights: dict[str, float]) -> None:
    phrases = Phrases({"fear": "terrif*, worry/fret, stomach .. in knots", "joy": "happy,\nover the\nmoon, "})
    assert phrases.weights(words(text)) == weights


@pytest.mark.parametrize("phrase", [".. knots", "a*", "x/b*"])
def test_a_phrase_with_an_invalid_start_is_named(phrase: str) -> None:
    with pytest.raises(ValueError, match="list 'fear'"):
        Phrases({"fear": f"afraid, {phrase}"})


def phrases_of(*texts: str) -> set[str]:
    return {" ".join(phrase.split()) for text in texts for phrase in text.split(",")} - {""}


def test_the_judge_has_its_own_words() -> None:
    """Common English is shared; most phrases are not, so that the judge is no copy of the selector."""
    feelings = phrases_of(*(table["cues"] for table in read_lexicon("selector_feelings").values()))
    user_needs = phrases_of(*(table["cues"] for table in read_lexicon("judge_user_needs").values()))
    styles = phrases_of(*read_lexicon("selector_styles").values())
    moves = phrases_of(*read_lexicon("judge_moves")["moves"].values())
    assert len(feelings & user_needs) / len(user_needs) < 0.25
    assert len(styles & moves) / len(moves) < 0.35


def test_every_required_style_and_move_has_a_list() -> None:
    styles = set(read_lexicon("selector_styles"))
    for family, table in read_lexicon("selector_feelings").items():
        assert set(table["fitting"]) <= styles, family
        assert all(-1 <= fit <= 1 for fit in table["fitting"].values()) and max(table["fitting"].values()) >= 0.7
    moves = set(read_lexicon("judge_moves")["moves"])
    for plight, table in read_lexicon("judge_user_needs").items():
        assert set(table["welcome"]) | set(table["unwelcome"]) <= moves, plight
        assert not set(table["welcome"]) & set(table["unwelcome"]), plight
