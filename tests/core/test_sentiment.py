"""Scores are NLTK's, with an installed and with a packaged lexicon."""

import sys
import zipfile

import pytest

from sage_dialog.core import sentiment


@pytest.fixture
def no_nltk_data(monkeypatch, tmp_path):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    sentiment.compound.cache_clear()
    yield tmp_path
    sentiment.compound.cache_clear()


def test_the_built_lexicon_equals_nltks_own(shared, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(shared("vader") / "nltk_data")])
    genuine = sentiment.installed_lexicon()
    assert genuine is not None
    assert sentiment.packaged_lexicon() == genuine
    assert len(genuine) == 7_502


def test_scores_with_the_built_lexicon_equal_nltks_own(shared, monkeypatch, no_nltk_data):
    import nltk
    from nltk.sentiment.vader import SentimentIntensityAnalyzer

    texts = [
        "I love this! :p",
        "My heart is flawed, but you are badass.",
        "NOT good at all, kind of sad :P",
        "the bus leaves at nine",
        "",
    ]
    assert sentiment.installed_lexicon() is None
    built = [sentiment.compound()(text) for text in texts]
    monkeypatch.setattr(nltk.data, "path", [str(shared("vader") / "nltk_data")])
    genuine = SentimentIntensityAnalyzer()
    assert built == [genuine.polarity_scores(text)["compound"] for text in texts]


def test_an_installed_lexicon_is_used(no_nltk_data):
    (no_nltk_data / "sentiment").mkdir()
    with zipfile.ZipFile(no_nltk_data / "sentiment" / "vader_lexicon.zip", "w") as archive:
        archive.writestr("vader_lexicon/vader_lexicon.txt", "sesquipedalian\t3.0\t0.5\t[3]\nbus\t-2.0\t0.5\t[-2]")
    assert sentiment.installed_lexicon() == {"sesquipedalian": 3.0, "bus": -2.0}
    assert sentiment.compound()("A sesquipedalian word") > 0.4
    assert sentiment.compound()("love") == 0.0


def test_the_entries_in_which_the_lexicons_differ_are_nltks(no_nltk_data):
    score = sentiment.compound()
    assert score("heart") == score("hearts") == score("flawed") == 0.0
    assert score("badass") < 0
    assert score(":p") > 0
    built = sentiment.packaged_lexicon()
    assert len(built) == 7_502
    assert not {":P", "heart", "hearts", "flawed"} & built.keys()


def test_a_word_listed_twice_has_its_last_value():
    assert sentiment._entries("a\t1.0\t0\nb\t2.0\t0\na\t3.0\t0\n") == {"a": 3.0, "b": 2.0}


def test_importing_the_readers_imports_no_nltk():
    import subprocess

    code = (
        "import sys, sage_dialog.corpora.reddit, sage_dialog.core.sentiment, sage_dialog.corpora.empathetic, "
        "sage_dialog.corpora.conversations; "
        "print([m for m in ('nltk', 'scipy', 'pandas', 'torch', 'kedro') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout.strip() == "[]"
