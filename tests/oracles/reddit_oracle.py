"""A plain implementation of the Reddit rules: one line, one comment and one path at a time, in dictionaries.

Tests compare `sage_dialog.corpora.reddit` with it. The two share the names of dumps, the parameters and decompression;
parsing of lines, text normalisation and scores are independent.

    PYTHONPATH=src:tests/oracles python tests/oracles/reddit_oracle.py FOLDER [min_turns=3 …]
"""

import hashlib
import html
import json
import math
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

from sage_dialog.config import RedditRules
from sage_dialog.core.sentiment import packaged_lexicon
from sage_dialog.corpora.compression import DamagedFileError, read_lines
from sage_dialog.corpora.reddit.dumps import find_dumps

NLTK_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "vader" / "nltk_data"

# The rules in their order, by what each one removes.
UNITS = {
    "line": "damaged_archive not_json bad_field lone_surrogate duplicate_thread submission",
    "comment": "blocked_subreddit deleted quote short_body duplicate_comment no_submission quiet_thread over_18 "
    "not_a_leaf",
    "path": "leaf_score few_turns long_leaf more_than_two_authors no_question link bracket empty_utterance capitals "
    "mean_words blocked_word language sentiment path_tokens long_token repetition shares_utterance",
}
RULES = {rule: unit for unit, rules in UNITS.items() for rule in rules.split()}

FUNCTION_WORDS = (
    "the be to of and a in that have i it for not on with he as you do at this but his by from they we say her she or "
    "an will my one all would there their what so up out if about who get which go me is are was"
)
COMMON_WORDS = set(FUNCTION_WORDS.split())
SHORTHAND = {"b/c": "because", "j/k": "just kidding", "w/o": "without", "w/": "with "}  # "w/o" before "w/"
ALLOWED = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789()[]:,.!?' ")


def dialogues(files, rules, score_every_comment=False):
    """Return rows of `schemas.DIALOGUES`, `FILTER_REPORT` and `REJECTED_LINES`.

    `score_every_comment` tokenises and scores all counted comments, not only those of dialogues.
    """
    removed_counts, rejected, lines = Counter(), [], Counter()
    submissions, comments = read(find_dumps(files), rules, removed_counts, rejected, lines)
    threads = defaultdict(dict)
    seen = set()
    for comment in comments:
        month = comment["month"]
        submission = submissions.get((month if rules.same_month else None, comment["link_id"].removeprefix("t3_")))
        thread = (month if rules.same_month else None, comment["link_id"])
        if fault := comment_fault(comment, rules):
            removed_counts[month, fault] += 1
        elif (thread, comment["id"]) in seen:
            removed_counts[month, "duplicate_comment"] += 1
            rejected.append(reject(comment, "duplicate_comment", "t1_" + comment["id"]))
        else:
            seen.add((thread, comment["id"]))
            if fault := thread_fault(submission, rules):
                removed_counts[month, fault] += 1
            else:
                threads[thread][comment["id"]] = comment
    cached_text = CachedText(rules)
    if score_every_comment:
        for thread in threads.values():
            for comment in thread.values():
                cached_text.tokens(comment["body"])
                cached_text.score(comment["body"])
    rows = []
    for thread in threads.values():
        rows += thread_dialogues(thread, rules, cached_text, removed_counts)
    rows.sort(key=lambda row: (row["dialogue_id"], row["month"], row["link_id"]))
    rejected.sort(key=lambda row: (row["month"], row["file"], row["line"]))
    return rows, report_rows(lines, removed_counts), rejected


# Lines


def read(dumps, rules, removed_counts, rejected, lines):
    """Return submissions by (month or None, id), and comments ordered by month and line."""
    submissions, comments = {}, []
    for dump in dumps:
        lines[dump.month] += 0
        for number, record, fault, excerpt in parsed_lines(dump):
            lines[dump.month] += 1
            position = {"month": dump.month, "file": dump.path.name, "line": number}
            if not fault and dump.kind == "RS":
                key = (dump.month if rules.same_month else None, record["id"])
                if key in submissions:
                    fault, excerpt = "duplicate_thread", "t3_" + record["id"]
                else:
                    submissions[key] = (record["num_comments"], record["over_18"])
                    removed_counts[dump.month, "submission"] += 1
            if fault:
                removed_counts[dump.month, fault] += 1
                rejected.append(reject(position, fault, excerpt))
            elif dump.kind == "RC":
                comments.append(position | record)
    return submissions, comments


def parsed_lines(dump):
    """Yield (number, record, fault, excerpt) of each line: the record's fields that count, or a fault and the line."""
    for number, line in numbered_lines(dump):
        if isinstance(line, str):
            yield number, None, "damaged_archive", line
            continue
        record = parse_record(line)
        if fault := record_fault(record, dump.kind):
            yield number, None, fault, line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
        elif dump.kind == "RS":
            submission = {"id": record["id"], "num_comments": integer(record["num_comments"])}
            yield number, submission | {"over_18": record.get("over_18") is True}, None, None
        else:
            score = record.get("score")
            kept = {name: record[name] for name in ("id", "parent_id", "link_id", "subreddit", "body")}
            kept |= {"author": record.get("author"), "score": integer(score) if score is not None else 0}
            yield number, kept, None, None


def numbered_lines(dump):
    """Yield (number from 1, line with its newline); for a damaged archive, the error text last."""
    number = 0
    try:
        for line in read_lines(dump.path):
            number += 1
            if line.strip():
                yield number, line
    except DamagedFileError as error:
        yield number + 1, str(error).replace(str(dump.path), dump.path.name)


def parse_record(line):
    """Parse a line of JSON; None if it is invalid (null is no record either)."""

    def number(digits):  # Python limits the digits of integers, JSON does not
        return int(digits) if len(digits) < 30 else math.inf

    try:
        return json.loads(line.decode("utf-8"), parse_int=number)
    except (ValueError, RecursionError):
        return None


def record_fault(record, kind):
    if not isinstance(record, dict):
        return "not_json"
    if kind == "RS":
        names, texts = ("id",), ["id"]
        whole = integer(record.get("num_comments")) is not None
    else:
        names, texts = ("id", "parent_id", "link_id", "subreddit"), ["id", "parent_id", "link_id", "subreddit", "body"]
        whole = record.get("score") is None or integer(record["score"]) is not None
    if not whole or not all(isinstance(record.get(name), str) for name in texts):
        return "bad_field"
    if any(record[name] == "" for name in names):
        return "bad_field"
    if kind == "RC" and isinstance(record.get("author"), str):
        texts.append("author")
    try:
        "".join(record[name] + " " for name in texts).encode("utf-8")
    except UnicodeEncodeError:
        return "lone_surrogate"
    return None


def integer(value):
    """Return the integer of a JSON value in any form of the dumps; None if there is none of 64 bits."""
    if isinstance(value, str):
        digits = value[1:] if value[:1] == "-" else value
        if not digits or any(digit not in "0123456789" for digit in digits) or len(digits.lstrip("0")) > 20:
            return None
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        return None
    return int(value) if -(2**63) <= int(value) < 2**63 else None


def reject(position, reason, excerpt):
    return {name: position[name] for name in ("month", "file", "line")} | {"reason": reason, "excerpt": excerpt[:200]}


# Comments


def comment_fault(comment, rules):
    body = comment["body"]
    if comment["subreddit"].casefold() in [name.casefold() for name in rules.blocked_subreddits]:
        return "blocked_subreddit"
    if body.strip() in ("[deleted]", "[removed]"):
        return "deleted"
    if ">" in body or "&gt;" in body:
        return "quote"
    if len(body.split()) < rules.min_body_words:
        return "short_body"
    return None


def thread_fault(submission, rules):
    if submission is None:
        return "no_submission" if rules.min_submission_comments > 0 else None
    num_comments, over_18 = submission
    if num_comments < rules.min_submission_comments:
        return "quiet_thread"
    return "over_18" if rules.drop_over_18 and over_18 else None


# Paths


def thread_dialogues(thread, rules, cached_text, removed_counts):
    """Return the dialogues of the counted comments (by id) of one thread."""
    answered = {comment["parent_id"] for comment in thread.values()}
    rows = []
    for leaf in thread.values():
        if "t1_" + leaf["id"] in answered:
            removed_counts[leaf["month"], "not_a_leaf"] += 1
            continue
        path = climb(leaf, thread, rules)
        if fault := path_fault(path, rules, cached_text):
            removed_counts[leaf["month"], fault] += 1
        else:
            rows.append(dialogue_row(path, cached_text))
    return disjoint(rows, removed_counts) if rules.disjoint else rows


def climb(leaf, thread, rules):
    path = [leaf]
    while len(path) < rules.max_turns:
        parent_id = path[0]["parent_id"]
        parent = thread.get(parent_id[3:]) if parent_id[:3] == "t1_" else None
        if parent is None or parent in path or len(parent["body"].split()) > rules.max_comment_words:
            break
        path.insert(0, parent)
    return path


def path_fault(path, rules, cached_text):
    """Return the first rule that removes a path, or None."""
    leaf = path[-1]
    if leaf["score"] < rules.min_leaf_score:
        return "leaf_score"
    if len(path) < rules.min_turns:
        return "few_turns"
    if len(leaf["body"].split()) > rules.max_comment_words:
        return "long_leaf"
    if rules.two_authors:
        people = [author_hash(comment["author"]) for comment in path]
        if None in people or len(set(people[::2])) != 1 or len(set(people[1::2])) != 1 or people[0] == people[1]:
            return "more_than_two_authors"
    texts = [cached_text.text(comment["body"]) for comment in path]
    if rules.require_question and not any(text.endswith("?") for text in texts):
        return "no_question"
    for comment in path:
        for word in comment["body"].replace("\\", "").split():
            if word[0] != "#" and "http" in word.lower():
                return "link"
    if any(bracket in text for text in texts for bracket in "()[]"):
        return "bracket"
    if "" in texts:
        return "empty_utterance"
    capitals = [longest_run(["A" if "A" <= character <= "Z" else None for character in text]) for text in texts]
    if max(capitals) > rules.max_capitals_run:
        return "capitals"
    if sum(len(text.split()) for text in texts) / len(texts) <= rules.min_mean_words:
        return "mean_words"
    if any(has_phrase(text, phrase) for text in texts for phrase in rules.blocked_words):
        return "blocked_word"
    if common_words(texts[-1]) < rules.min_common_words:
        return "language"
    if any(cached_text.score(comment["body"]) <= rules.min_sentiment for comment in path):
        return "sentiment"
    if sum(len(cached_text.tokens(comment["body"])) for comment in path) > rules.max_path_tokens:
        return "path_tokens"
    leaf_tokens = cached_text.tokens(leaf["body"])
    if any(len(token) > rules.max_token_chars for token in leaf_tokens):
        return "long_token"
    if longest_run(leaf_tokens) > rules.max_token_run:
        return "repetition"
    return None


def dialogue_row(path, cached_text):
    leaf = path[-1]
    turns = [
        {
            "comment_id": comment["id"],
            "author": author_hash(comment["author"]),
            "text": cached_text.text(comment["body"]),
        }
        for comment in path
    ]
    return {
        "dialogue_id": leaf["link_id"].removeprefix("t3_") + "/" + leaf["id"],
        "subreddit": leaf["subreddit"],
        "link_id": leaf["link_id"],
        "month": leaf["month"],
        "turns": turns,
        "n_turns": len(turns),
        "mean_words": sum(len(turn["text"].split()) for turn in turns) / len(turns),
        "min_sentiment": min(cached_text.score(comment["body"]) for comment in path),
    }


def disjoint(rows, removed_counts):
    """Keep rows without a shared comment, the longest first, then by the id of the leaf."""
    kept, used = [], set()
    for row in sorted(rows, key=lambda row: (-row["n_turns"], row["turns"][-1]["comment_id"])):
        comments = {turn["comment_id"] for turn in row["turns"]}
        if comments & used:
            removed_counts[row["month"], "shares_utterance"] += 1
        else:
            used |= comments
            kept.append(row)
    return kept


def author_hash(author):
    if not isinstance(author, str) or author in ("", "[deleted]", "[removed]", "[unknown]"):
        return None
    return hashlib.blake2b(author.encode("utf-8"), digest_size=8).hexdigest()


def report_rows(lines, removed_counts):
    rows = []
    for month in sorted(lines):
        n_in = lines[month]
        for step, (rule, unit) in enumerate(RULES.items(), 1):
            removed = removed_counts[month, rule]
            row = {"month": month, "step": step, "rule": rule, "unit": unit, "n_in": n_in, "n_removed": removed}
            rows.append(row)
            n_in -= removed
    return rows


# Text


class CachedText:
    """Text, tokens and score of a body, each cached."""

    def __init__(self, rules):
        from nltk.tokenize import TweetTokenizer

        tokenizer, vader = TweetTokenizer(), analyzer()
        plain = cache(normalised)
        self.tokens = cache(lambda body: " ".join(tokenizer.tokenize(plain(body))).split())
        self.text = cache(lambda body: " ".join(self.tokens(body)) if rules.tokenised else plain(body))
        self.score = cache(lambda body: vader.polarity_scores(self.text(body))["compound"])


@cache
def analyzer():
    """Return NLTK's analyser, with its own lexicon if it is available."""
    import nltk
    from nltk.sentiment.vader import SentimentIntensityAnalyzer, VaderConstants

    if NLTK_DATA.is_dir():
        before = list(nltk.data.path)
        nltk.data.path.insert(0, str(NLTK_DATA))
        try:
            return SentimentIntensityAnalyzer()
        finally:
            nltk.data.path[:] = before  # restore the path for other tests
    vader = SentimentIntensityAnalyzer.__new__(SentimentIntensityAnalyzer)
    vader.lexicon, vader.constants = packaged_lexicon(), VaderConstants()
    return vader


def normalised(body):
    """Return one line in the recipe's character set, without hashtags and with shorthand spelled out."""
    words = html.unescape(body).replace("\u2018", "'").replace("\u2019", "'").replace("\\", "").split()
    kept = [expand_shorthand(word) for word in words if word[0] != "#"]
    return " ".join("".join(character if character in ALLOWED else " " for character in " ".join(kept)).split())


def expand_shorthand(word):
    if "/" not in word:
        return word
    expanded, position = "", 0
    while position < len(word):
        short = next((short for short in SHORTHAND if is_shorthand_at(short, word, position)), None)
        expanded += SHORTHAND[short] if short else word[position]
        position += len(short) if short else 1
    return expanded


def is_shorthand_at(short, word, position):
    """Whether shorthand is at a position, not in a word or a chain of slashes; "w/" may precede a word ("w/you")."""
    before, after = word[:position][-1:], word[position + len(short) :][:1]
    if word[position : position + len(short)] != short or before == "/" or is_word_character(before):
        return False
    return short == "w/" or not is_word_character(after)


def is_word_character(character):
    return character == "_" or character.isalnum()


def common_words(text):
    return sum(word.strip(":,.!?'").lower() in COMMON_WORDS for word in text.split())


def has_phrase(text, phrase):
    """Whether the text has the phrase as separate words, in any case."""
    text, phrase = text.lower(), phrase.lower()
    places = [position for position in range(len(text)) if text.startswith(phrase, position)]
    return any(
        not is_word_character(text[:position][-1:]) and not is_word_character(text[position + len(phrase) :][:1])
        for position in places
    )


def longest_run(items):
    """Return the length of the longest run of equal items; None is no item."""
    longest = run = 0
    before = None
    for item in items:
        run = 0 if item is None else run + 1 if item == before else 1
        longest, before = max(longest, run), item
    return longest


if __name__ == "__main__":
    folder, *changes = sys.argv[1:]
    rules = RedditRules.from_base(**dict(change.split("=") for change in changes))
    found, report, rejects = dialogues({path.name: path for path in sorted(Path(folder).iterdir())}, rules)
    totals = Counter()
    for row in report:
        totals[row["rule"]] += row["n_removed"]
    for rule in RULES:
        print(f"{rule:24}{totals[rule]:10}")
    print(f"{'dialogues':24}{len(found):10}")
    for row in found[:20]:
        print(json.dumps(row))
    for row in rejects[:20]:
        print(json.dumps(row))
