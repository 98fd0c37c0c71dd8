"""The fast checks of a text agree with NLTK and a plain implementation."""

import itertools
import json

import pyarrow as pa
import pytest
import reddit_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import TweetTokenizer

from sage_dialog.core.sentiment import compound, packaged_lexicon
from sage_dialog.corpora.compression import read_lines
from sage_dialog.corpora.reddit.columns import TextColumn
from sage_dialog.corpora.reddit.text import (
    COMMON_WORDS,
    find_brackets,
    find_links,
    find_questions,
    has_common_words,
    has_long_token,
    max_tokens,
    normalise,
    repeats_token,
    tweet_tokens,
)

# What text is made of, and what the tokenizer and VADER have rules for.
PIECES = (
    *("the", "The", "very", "very very", "so", "so. so", "it's", "'of'", "a", "I", "don't", "dogs'", "B2B", "a_b"),
    *("b/c", "w/o", "w/", "w/you", "j/k", "b\\/c", "and/w/o", "\\", "/", "#tag", "#", "&#35;tag", "x#y", "http"),
    *("HTTP:", "#http", "http://a.com", "google.com", "www.a.org/b", "me@b.com", "555-123-4567", "555 123 4567"),
    *("1,000.5", "10:30", ":)", ":-(", ":D", ":Dog", "D:", "=P", "8)", "XD", "<3", "?", "?!", "??", "!!!!!", "...."),
    *(". . .", ",", "'", ":", ".", "(", "]", "&#40;", "&rpar;", "&amp;#40;", "&quest;", "&amp", "&gt;", "\u2019"),
    *("\u2018x\u2019", "\u00e9", "\ufb01", " ", "  ", "\n", "\t", "\x1c", "\x1f", "\x85", "\xa0", "\u2003", "\u2028"),
    *("\u200b", "\x00", "\ufeff", "\U0001f600", "a" * 10, "a" * 31, "ha" * 20, "\u0130", "\u212a", "\u00df"),
    *("\u0421\u043f", "not", "never", "isn't", "kind", "of", "but", "BUT", "least", "at least", "without doubt"),
    *("kind of good", "GOOD", "good", "bad", "awful", "the bomb", "hand", "cut the mustard", "kiss of death"),
    *("bad ass", "badass", "extremely", "hardly", "love", "LOVE", "hate", "great", "no"),
)
LEXICON = sorted(packaged_lexicon())
texts = st.lists(
    st.one_of(st.sampled_from(PIECES), st.sampled_from(PIECES), st.sampled_from(LEXICON), st.text(max_size=3)),
    max_size=12,
).flatmap(lambda parts: st.sampled_from([" ", " ", ""]).map(lambda between: between.join(parts)))

tokenizer, vader = TweetTokenizer(), reddit_oracle.analyzer()


def check_body(body):
    text = reddit_oracle.normalised(body)
    assert normalise(body) == text
    # Between two others, since columns are searched as one stretch of bytes.
    column = TextColumn(pa.array(["(http #", "&?", body, "", "[http"]).slice(1, 4))
    linked = any("http" in word.lower() for word in body.replace("\\", "").split() if word[0] != "#")
    assert find_links(column).tolist() == [False, linked, False, True]
    assert find_brackets(column).tolist() == [False, any(bracket in text for bracket in "()[]"), False, True]
    assert find_questions(column).tolist() == [True, text.endswith("?"), False, False]
    at_least, at_most = column.word_bounds()
    assert at_least[1] <= len(body.split()) <= at_most[1]
    assert list(column.first_bytes()) == [(text.encode() or b"\0")[0] for text in ("&?", body, "", "[http")]


def check_tokens(text):
    tokens = " ".join(tokenizer.tokenize(text)).split()
    assert list(tweet_tokens(text)) == tokens
    assert max_tokens(text) >= len(tokens)
    for limit in (1, 2, 3, 5, 30):
        assert has_long_token(text, limit, lambda: tokens) == any(len(token) > limit for token in tokens)
        assert repeats_token(text, limit, lambda: tokens) == (reddit_oracle.longest_run(tokens) > limit)


def check_text(text):
    check_tokens(text)
    for wanted in (0, 1, 2, 5):
        assert has_common_words(text, wanted) == (reddit_oracle.common_words(text) >= wanted)
    assert compound()(text) == vader.polarity_scores(text)["compound"]
    joined = " ".join(tokenizer.tokenize(text))
    assert compound()(joined) == vader.polarity_scores(joined)["compound"]


@settings(max_examples=400, deadline=None)
@given(texts)
def test_checks_of_a_body_agree_with_its_text(body):
    check_body(body)


@settings(max_examples=400, deadline=None)
@given(texts.map(reddit_oracle.normalised).filter(bool))
def test_checks_of_a_text_agree_with_its_tokens_and_nltk(text):
    check_text(text)


@pytest.mark.parametrize("between", [" ", ". ", " so "])
def test_checks_of_repeated_short_words_agree_with_their_tokens(between):
    """Of letters and marks that smileys, numbers and dots are made of, too."""
    for length in (1, 2, 3):
        for signs in itertools.product("adDop8:.,'?!", repeat=length):
            check_tokens(between.join(["".join(signs)] * 3))


def test_word_bounds_of_plain_text_are_narrow():
    column = TextColumn(pa.array(["", "one ", "two words", "and three words", ""]).slice(1))
    at_least, at_most = column.word_bounds()
    assert at_least.tolist() == [1, 2, 2, 0]  # "and" does not count, since no space is before it
    assert at_most.tolist() == [2, 2, 3, 1]
    assert [len(bound) for bound in TextColumn(pa.array([], pa.string())).word_bounds()] == [0, 0]


@given(st.lists(st.text("t3_abz09\u00e9", max_size=12), min_size=1))
def test_a_hash_depends_on_the_last_eight_bytes_without_the_prefix(names):
    names = ["t3_abc", *names]
    found = TextColumn(pa.array(names).slice(1)).hash(ignored_prefix=b"t3_").tolist()
    ends = [name.removeprefix("t3_").encode()[-8:] for name in names[1:]]
    assert found == [int.from_bytes(end, "little") * 0x9E3779B97F4A7C15 % 2**64 >> 32 for end in ends]


def test_the_common_words_are_the_same():
    assert set(COMMON_WORDS) == reddit_oracle.COMMON_WORDS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RC_2005-12.zst", "RC_2006-01.bz2"])
def test_checks_of_real_comments_agree(shared, name):
    for line in list(read_lines(shared("reddit_2005_2006") / name))[::2]:
        body = json.loads(line)["body"]
        check_body(body)
        if text := normalise(body):
            check_text(text)
