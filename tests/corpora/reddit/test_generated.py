"""The fast path and the oracle agree on generated months: every rule, all kinds of faults."""

import bz2
import gzip
import json
import lzma
import random
import tempfile
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pytest
import reddit_oracle
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage_dialog.config import RedditRules
from sage_dialog.corpora.reddit import extract, reading, run
from sage_dialog.corpora.reddit.rules import Rule
from sage_dialog.microworld import reddit as microworld
from sage_dialog.microworld.world import load_world

MONTHS = ("2015-01", "2015-02", "2015-03")
COMPRESS = {
    "": bytes,
    ".zst": zstandard.ZstdCompressor(level=1).compress,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
USUAL_BODIES = (
    "I really love this happy little garden, and I am so glad that you enjoy it.",
    "Thank you, you are the best friend! Do you love it too?",
    "What a great day, my friend. I am glad to be with you.",
    "I love you too. Are you not happy?",
    "It is so so good that I love it.",
    "The bus to the town leaves at nine.",
    "Wonderful friends, lovely garden!",
)
# Pieces of bodies: each trips a rule, or looks as if it did.
PIECES = (
    *("I love it.", "so happy", "the best of friends", "Is it great?", "thank you", "good good", "very very."),
    *("I hate it.", "awful and sad", "not good", "but it is kind of great", "LOVE it!!!", ":)", ":D", "<3", "XD"),
    *("http://a.com", "HtTp://A.com", "#http", "x#http", "\u2003#http\u2003x", "[", ")", "&#40;", "&gt;", ">", "&lt;"),
    *("&quest;", "&lpar;", "ok?", "?'", "[deleted]", "[removed]", "WOWWW", "WOWW", "W.OWWW", "=DOGGG", "\x1c", "\x85"),
    *("\xa0", "\u2003", "\u200b", "\x00", "\n\n", "\r", "don\u2019t", "\u2018so\u2019", "b/c", "w/o", "w/you", "a/w/"),
    *("j/k", "\\", "\\#tag", "#tag", "&#35;tag", "caf\u00e9", "\U0001f600", "\ufb01ne", "\u0130", "\u212a", "Das ist"),
    *("wunderbar", "a" * 12, "ha ha ha", "ha, ha", "....", ". . .", "!!!!!", "555 123 4567", "a_b", "*", "{}", '"'),
    *('", "id": "fake', "http", "hello", "&amp;#40;", "the-of", "The", "it's", "google.com", "me@b.com", "bad word"),
)
# Bodies of which little or nothing is left.
ODD_BODIES = (
    *("* *", "\u0421\u043f\u0430\u0441\u0438\u0431\u043e \u0431\u043e\u043b\u044c\u0448\u043e\u0435", "#so #so"),
    *("&nbsp; \\", "[deleted]", "\u2003[removed]\x1c", "[deleted] so", "", "love", "\x85love\u2003", "\x1f", "? ?"),
    *("http #http", "love you", USUAL_BODIES[0] * 8),
)
NEEDED = ("id", "parent_id", "link_id", "subreddit", "body")


def mostly(usual, *odd, share=0.1):
    """Return the usual options, and a share of odd ones."""
    return [*[usual] * round(len(odd) * (1 - share) / share), *odd]


def field(record, name, value):
    return json.dumps({**record, name: value})


def with_text(record, text):
    """Return the line with `text` written as it is after the other fields."""
    return json.dumps(record)[:-1] + text + "}"


# From a record and one of its fields to what stands in the dump.
DIRT = (
    # no matter
    lambda record, name: with_text(record, ', "created_utc": "1", "edited": 1.5, "x": {"id": 1, "body": [{}]}'),
    lambda record, name: with_text(record, ', "x": "\\ud83d", "\\ude00": 1'),
    lambda record, name: with_text(record, ', "x": 1' + "0" * 40),
    lambda record, name: with_text(record, ', "x": -1' + "0" * 5000),
    lambda record, name: with_text(record, ', "x": 1e400, "y": ' + "[" * 60 + "]" * 60),
    lambda record, name: json.dumps(record, ensure_ascii=False),
    lambda record, name: f" \t{json.dumps(record, separators=(',', ':'))} \r",
    lambda record, name: "{" + f'"{name}": "x", ' + json.dumps(record)[1:],
    lambda record, name: "{" + f'"{name}": "\\ud83d", "x": {json.dumps(record)}, ' + json.dumps(record)[1:],
    lambda record, name: json.dumps(record).replace(f'"{name}"', f'"\\u{ord(name[0]):04x}{name[1:]}"'),
    lambda record, name: json.dumps(dict(reversed(record.items()))),
    lambda record, name: "\n \n" + json.dumps(record) + "\n\x0b\x0c",
    lambda record, name: with_text(record, ', "x": NaN, "y": [-Infinity, Infinity]'),
    # a value that has one reading, or none
    lambda record, name: with_text(record, f', "{name}": NaN'),
    lambda record, name: with_text(record, f', "{name}": -Infinity'),
    lambda record, name: with_text(record, f', "{name}": "12"'),
    lambda record, name: with_text(record, f', "{name}": -12.0'),
    lambda record, name: with_text(record, f', "{name}": 1e2'),
    lambda record, name: with_text(record, f', "{name}": 9223372036854775807'),
    lambda record, name: with_text(record, f', "{name}": "-9223372036854775808"'),
    lambda record, name: with_text(record, f', "{name}": 9223372036854775808'),
    lambda record, name: with_text(record, f', "{name}": 9223372036854775807.0'),
    lambda record, name: with_text(record, f', "{name}": 1' + "0" * 40),
    lambda record, name: with_text(record, f', "{name}": 1e400'),
    lambda record, name: with_text(record, f', "{name}": 1.5'),
    lambda record, name: field(record, name, None),
    lambda record, name: field(record, name, ""),
    lambda record, name: field(record, name, True),
    lambda record, name: field(record, name, [record[name]]),
    lambda record, name: json.dumps({key: value for key, value in record.items() if key != name}),
    lambda record, name: field(record, name, "cut \ud83d"),
    lambda record, name: field(record, name, "\ude00\ud83d"),
    lambda record, name: with_text(record, f', "author": "\\ud83d", "{name}": null'),
    # no JSON
    lambda record, name: with_text(record, ', "x": 01'),
    lambda record, name: with_text(record, ', "x": "\t"'),
    lambda record, name: with_text(record, ', "x": "\\x"'),
    lambda record, name: with_text(record, ","),
    lambda record, name: with_text(record, ', "x": ' + "[" * 100_000),
    lambda record, name: json.dumps(record)[: len(name) * 9],
    lambda record, name: json.dumps(record) * 2,
    lambda record, name: json.dumps(record) + "{}",
    lambda record, name: json.dumps(record).replace(f', "{name}"', f'\n, "{name}"'),
    lambda record, name: json.dumps(record).replace(f'"{name}"', f'\n"{name}"') + json.dumps(record),
    lambda record, name: f"[{json.dumps(record)}]",
    lambda record, name: "\ufeff" + json.dumps(record),
    lambda record, name: json.dumps(record).encode() + b"\xff",
    lambda record, name: with_text(record, ', "x": "y"').encode().replace(b"y", b"\xed\xa0\x80"),
    lambda record, name: "null",
    lambda record, name: "\x1c",
)


# What follows draws by `choose`, which takes one of a list: a random one, or one that Hypothesis wants to see.


def body(choose):
    kind = choose(mostly("usual", "odd", "pieces", "usual and pieces", share=0.25))
    if kind in ("usual", "odd"):
        return choose(USUAL_BODIES if kind == "usual" else ODD_BODIES)
    pieces = [choose(PIECES) for _ in range(choose(range(5)))]
    return " ".join([choose(USUAL_BODIES), *pieces] if kind == "usual and pieces" else pieces)


def comments(choose):
    """(month, line) of comments; the parent is mostly the comment before in the same thread."""
    threads: dict[str, list[str]] = defaultdict(list)
    lines = []
    for number in range(choose([*range(32), *range(16, 32)])):
        link = choose(mostly("t3_a", "t3_b", "t3_b", "t3_c", "a", "t3_none", share=0.3))
        names = threads[link]
        known = [name for others in threads.values() for name in others] or ["?"]
        name = choose(mostly(str(number), choose(known), "5", share=0.05))
        back = choose(mostly(1, 2, 2, 2, 3, 3, 0, None, share=0.4))
        stray = choose([link, "t1_7", "t1_nobody", "t1_", "7", "t1_" + name, "t1_" + known[0], "t3_" + known[0]])
        record = {
            "id": name,
            "parent_id": f"t1_{names[-back]}" if back and len(names) >= back else link if back else stray,
            "link_id": link,
            "subreddit": choose(mostly("aww", "AWW", "Stra\u00dfe", "cats", share=0.2)),
            "body": body(choose),
            "score": choose(mostly(3, 0, -2, 1, None, share=0.2)),
            "author": choose(mostly(("bob", "ann")[len(names) % 2], "bob", "[deleted]", "", None, 7, "\u00e9ve")),
        }
        names.append(name)
        dirt = choose(mostly(None, *DIRT, share=0.12))
        line = dirt(record, choose([*NEEDED, "score", "author"])) if dirt else json.dumps(record)
        lines.append((choose(mostly(MONTHS[min(number // 8, 2)], *MONTHS, share=0.2)), line))
        if choose(mostly(False, True, share=0.05)):  # the same comment once more, perhaps in another month
            lines.append((choose(MONTHS), json.dumps(record)))
    return lines


def submissions(choose):
    lines = []
    for name in choose(mostly("abc", "", "ab", "bac", "aabbcc", share=0.4)):
        record = {
            "id": name,
            "num_comments": choose(mostly(9, 2, 1, 0, "9", 3.0, share=0.3)),
            "over_18": choose(mostly(False, True, True, None, "true", 1, share=0.4)),
        }
        dirt = choose(mostly(None, *DIRT))
        line = dirt(record, choose(list(record))) if dirt else json.dumps(record)
        lines.append((choose(mostly(MONTHS[0], *MONTHS)), line))
    return lines


def dumps(choose):
    """File name to bytes, with a month of comments at least."""
    files = {}
    for kind, lines in (("RC", comments(choose)), ("RS", submissions(choose))):
        by_month = defaultdict(list)
        for month, line in lines:
            by_month[month].append(line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass"))
        if kind == "RC":
            by_month[MONTHS[0]] += []
        for month, of_month in by_month.items():
            newline = choose(mostly(b"\n", b"\r\n", b"\n\n", share=0.3))
            text = newline.join(of_month) + choose([newline, b""])
            suffix = choose(mostly("", *COMPRESS, share=0.5))
            packed = COMPRESS[suffix](text)
            if cut := choose(mostly(None, 0.1, 0.5, 0.95, share=0.05)):
                packed = packed[: int(len(packed) * cut)]
            if choose(mostly(False, True, share=0.03)):  # wrong bytes in the middle
                middle = len(packed) // 2
                packed = packed[:middle] + b"\x00\xff\n\x00" + packed[middle + 4 :]
            files[f"{kind}_{month}{suffix}"] = packed
    return files


# Rules under which most paths are dialogues, and what makes each of them stricter.
LENIENT = {
    "min_submission_comments": 0,
    "min_turns": 2,
    "require_question": False,
    "min_mean_words": 0.0,
    "min_common_words": 0,
    "max_token_run": 3,
    "min_sentiment": -0.9,
}
STRICTER = {
    "blocked_subreddits": (("aWW",), ("STRASSE", "cats")),
    "min_body_words": (1, 3),
    "min_submission_comments": (1, 2, 3, 3),
    "drop_over_18": (True,),
    "same_month": (True,),
    "max_comment_words": (5, 12, 16),
    "max_turns": (2, 3, 5),
    "min_leaf_score": (0, -5, 3),
    "min_turns": (3, 5),
    "two_authors": (True,),
    "tokenised": (True,),
    "require_question": (True, True),
    "max_capitals_run": (0, 3),
    "min_mean_words": (8.0, 10.5, 12.5),
    "blocked_words": (("LOVE",), ("thank you", "glad to"), ("bad word", "hat")),
    "min_common_words": (1, 3, 6),
    "max_path_tokens": (20, 45),
    "max_token_chars": (4, 5, 10),
    "max_token_run": (1, 1, 1, 1, 2),
    "min_sentiment": (0.0, 0.0, 0.4, 0.7),
    "disjoint": (True,) * 6,
}
CHANGES = [(name, value) for name, values in STRICTER.items() for value in values]


def rule_set(choose):
    rules = LENIENT | {"max_turns": 10} | dict(choose(CHANGES) for _ in range(choose(range(9))))
    return RedditRules.from_base(**rules | {"max_turns": max(rules["max_turns"], rules["min_turns"])})


def cuts(choose):
    """Return the size of buckets, and patches of the sizes of blocks and batches, and of what is merged."""
    return (
        choose([1, 7, 1_000_000]),
        patch.object(reading, "BLOCK_BYTES", choose([1, 300, 2_000, reading.BLOCK_BYTES])),
        patch.object(extract, "_BATCH_BYTES", choose([0, 1_000, extract._BATCH_BYTES])),
        patch.multiple(run, _estimate_buckets=lambda *_: 3, _MAX_RANGES=choose([1, 2, 256])),
    )


def written(files, folder):
    for name, content in files.items():
        Path(folder, name).write_bytes(content)
    return {name: Path(folder, name) for name in files}


def test_the_rules_have_the_same_order_and_units():
    assert {rule.value: rule.unit for rule in Rule} == reddit_oracle.RULES
    assert list(Rule) == list(reddit_oracle.RULES)


def check(read, choose):
    """The tables of some months under some rules, equal to the oracle's however the work was cut."""
    files, rules, (bucket_comments, blocks, batches, merging) = dumps(choose), rule_set(choose), cuts(choose)
    with tempfile.TemporaryDirectory() as folder, blocks, batches, merging:
        return read(written(files, folder), rules, bucket_comments=bucket_comments)


@pytest.mark.slow
def test_random_months_give_the_same_tables_and_trip_every_rule(read):
    removed, dialogues = Counter(), []
    for number in range(150):
        found = check(read, random.Random(number).choice)
        removed.update(found.removed)
        dialogues.append(len(found.dialogues))
    # Without these the equality would be vacuous.
    assert all(removed[rule] >= 5 for rule in reddit_oracle.RULES), removed
    assert sum(map(bool, dialogues)) > len(dialogues) / 3
    assert sum(dialogues) > len(dialogues) * 0.8


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_months_of_hypothesis_give_the_same_tables(read, data):
    check(read, lambda options: data.draw(st.sampled_from(options)))


@pytest.mark.parametrize("number", range(20))
def test_options_that_remove_dialogues_keep_the_others(read, tmp_path, number):
    """`two_authors` keeps those in which two known people take turns, `disjoint` a largest set without overlap."""
    choose = random.Random(f"options {number}").choice
    paths, rules = written(dumps(choose), tmp_path), rule_set(choose)

    def rows(**options):
        return read(paths, rules.model_copy(update=options)).dialogues

    every = rows(disjoint=False, two_authors=False)
    assert rows(disjoint=False, two_authors=True) == [row for row in every if of_two(row)]
    kept = rows(disjoint=True, two_authors=False)
    used = [place for row in kept for place in comments_of(row, rules)]
    assert len(used) == len(set(used))
    for row in every:
        assert (row in kept) or not comments_of(row, rules).isdisjoint(used)
    longest = {}
    for row in every:
        world = (row["link_id"], row["month"] if rules.same_month else None)
        longest[world] = max(longest.get(world, 0), row["n_turns"])
    for (link_id, _), turns in longest.items():
        assert any(row["link_id"] == link_id and row["n_turns"] == turns for row in kept)


def of_two(row):
    authors = [turn["author"] for turn in row["turns"]]
    return (
        None not in authors
        and authors[0] != authors[1]
        and all(a == b for a, b in zip(authors, authors[2:], strict=False))
    )


def comments_of(row, rules):
    world = (row["link_id"], row["month"] if rules.same_month else None)
    return {(*world, turn["comment_id"]) for turn in row["turns"]}


@pytest.fixture(scope="module")
def demo_months(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo months")
    return written(microworld.months(load_world(), 250, seed=7), folder)


@pytest.mark.parametrize(
    "rules", [RedditRules.from_base(), RedditRules.from_base(disjoint=True, two_authors=True, tokenised=True)]
)
def test_the_demos_months_give_the_same_tables(demo_months, read, rules):
    found = read(demo_months, rules, bucket_comments=400)
    assert len(found.dialogues) > 50
    assert {"not_json", "bad_field", "deleted", "quote", "not_a_leaf", "few_turns"} <= found.removed.keys()


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"workers": 2, "bucket_comments": 500}, {"bucket_comments": 30}, {}])
def test_neither_workers_nor_buckets_change_the_tables(demo_months, fast, how):
    first, second = (
        fast(demo_months, RedditRules.from_base(min_turns=3), **options) for options in ({"bucket_comments": 200}, how)
    )
    assert first == second
    assert all(before["dialogue_id"] < after["dialogue_id"] for before, after in pairwise(second.dialogues))
