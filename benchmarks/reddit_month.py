"""Generate a month of Reddit of any size for `reddit.py`, and measure its speed and its similarity to real months.

    python benchmarks/reddit_month.py FOLDER [--comments N] [--seed N]   # write RC_2015-01.zst and RS_2015-01.zst
    python benchmarks/reddit_month.py [--quick]    # measure speed and similarity

The properties that determine the cost of reading a month are those of real months; MEASURED has the figures. Text is
drawn word by word, with Reddit's lengths, word frequencies and sentiment, and without meaning. The records have the
fields of the dumps of 2015, most of which no reader needs. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

MONTH = "2015-01"
START, END = 1420070400, 1422748800
THREE_DAYS = 3 * 86400
CHUNK = 20_000  # comments

# Figures of 352,570 real comments of February to April 2015. The first three are of 27,695 comments of 2005 and 2006,
# because deleted comments, scores and comments without a parent were removed from those of 2015.
MEASURED = {
    "deleted": 0.07,  # 0.16 in 2005 and 2006
    "score below 1": 0.22,
    "parent missing": 0.013,
    "quoting": 0.052,
    "linked": 0.013,
    "bracketed": 0.101,
    "capitals": 0.026,
    "asking": 0.093,
    "newlines": 0.245,
    "double quotes": 0.104,
    "not ascii": 0.010,
    "one word": 0.020,
    "over 100 words": 0.059,
    "words, median": 19,
    "words, mean": 33.2,
    "lexicon words": 0.086,
    "500 top words": 0.69,
    "5000 top words": 0.90,
    "answers the submission": 0.299,
    "fifth or deeper": 0.227,
    "leaves": 0.518,
    "comments a thread": 5.38,
    "in threads over 100": 0.10,
}
# The number of words of a body is log-normal, as in real comments up to the 99.9th percentile.
LOG_WORDS = (2.983, 1.034)
# A comment of any depth gets 0, 1, 2 or 3 direct answers with these shares: 0.70 answers on average. As in real
# threads, each level has 0.7 times the comments of the level above.
ANSWERS = (0.518, 0.3315, 0.0822, 0.0683)
# Comments that answer a submission directly: a truncated power law.
TOP_EXPONENT, TOP_MOST = 2.6, 200
# Of all words of real comments, the share that the most frequent 1, 10, … make up.
MOST_FREQUENT = ((1, 0.045), (10, 0.213), (50, 0.407), (100, 0.501), (500, 0.69), (1000, 0.761), (5000, 0.899),
                 (10_000, 0.94), (30_000, 0.978), (90_000, 1.0))  # fmt: skip
# Share of positive words among those with a sentiment, by thread: the parameters of a beta distribution. Comments and
# their answers are then correlated as in real threads (compound scores: 0.17).
POSITIVE_BETA = (3.4, 2.2)

COMMON = """\
the to a and of i that is it in you for they not but was are be have on with this as if just it's or so people what
he at all would about my don't do an can your from one there more their because out think get we them up when by i'm
how me has will who some than really his then even time only were know that's had much other which any been being make
also could why way you're see still should now most right did too going same into very doesn't actually its us
something those say him didn't go where never first over can't thing though lot point these years isn't does things
many game movie back need use work off after got she someone every said here read take probably made money new i've
her anything before show down while mean world they're there's saying our different own without maybe look enough
he's two always around since ever used doing few makes government everyone long thought nothing life both part might
last guy man getting through give am least i'd year day find reason already such little person feel trying less end
big may having wouldn't old another wasn't far country making put fact case against real book everything come either
understand again believe watch keep oh story aren't away whole games done else until idea bit seen state system
talking exactly power seems movies using between try live anyone stuff place able tell means law school guess let job
high film once almost times change instead set question side start called news company seem rest half call place
ask second read today sense house called phone small young water however quite run once line water post comment reddit
edit article source link video watched played season character characters episode series show team player season
police court city week month hour minutes hours days next three four five six ten hundred million percent number
american america europe english history music science computer software code language page site web internet
car road house room food family kids children parents mother father brother friend wife woman women girl boy men
body head face eyes hand hands door street town north south east west left turn walk run went gone came took taken
given gave knew known heard hear told asking asked answer answered thinking looking looked looks working worked works
wants needs gets goes says said sees knew seeing seemed become became begin began leave left stay stayed move moved
bring brought build built buy bought sell sold send sent spend spent eat ate drink write wrote written reading
possible similar single common current recent early late whole entire full empty open close short large several
general public private local national political social economic human natural physical basic simple specific
usually often sometimes rarely simply basically literally completely totally probably apparently especially
finally eventually recently currently later soon ago yet perhaps rather whether unless although despite except
"""
POSITIVE = """\
like good well want pretty sure better great yes best love agree play true care free support definitely help top
thanks hope worth huge fun nice easy interesting god funny original fine lol important fair cool please awesome
certain ok friends certainly amazing party chance honestly favorite enjoy happy perfect glad win special smart
beautiful hero super strong respect trust
"""
NEGATIVE = """\
no bad shit problem wrong war fuck hard pay stop hate stupid kill hell fight sorry death damn poor worse argument
die problems lost dead crap fucking terrible horrible sad weird worst sucks afraid attack lose killed crime fake
joke evil shame crazy boring illegal
"""
STEMS = """\
account act address agent aircraft album animal apple area arm army author bag ball band bank bar base basket bed
bell bench bike bill bird block board boat bone border bottle bottom box branch brand bread bridge budget button
cabin camera camp candidate capital captain card case cat cell chain chair channel chapter chart chip church cinema
circle class clock cloth cloud coach coal coast coffee coin column concert console contract control cook copy corn
corner council counter cover cow crew crop crowd cup curve cycle data deal decade deck degree desert design desk
detail device dial diet director disc doctor dog dollar draft drill drive drum editor effect egg election electron
engine estate event exam fabric factor farm fashion fence field figure finger finish fish flag flat floor flow
folder football forest form frame fridge fruit fuel garden gas gate gear glass glove goal grain grass grid ground
group guitar gun hall hammer hat hill hockey hole holiday horse hotel index industry insect iron island item jacket
journal judge jump key kitchen knee label lake land lane laptop laser layer league leg lesson letter level library
lightning limb liquid list load lock loop lunch machine mail map market mask match meal measure member memory menu
metal meter method mile milk mine mirror mode model module monitor motor mountain mouse muscle museum nation neck
nerve network night noise north nose note novel number nurse object ocean office oil option orbit order organ oven
owner pack paint pan panel paper park patch path pattern pen people phase photo piano pilot pipe plan plane planet
plant plate player pocket poem police pool port pot press price print process product profile program project pump
quarter queen race radio rail rain random range rate record region render report rice ring river rock rocket role
roof root rope route row rule sail salt sand scale scene screen script sea seat sector seed segment senator sensor
server shape sheet shelf ship shirt shoe shop shore sign signal silver skin sky sleeve slide snow sock soil soldier
song sound source space speaker speech spoon spring square stage stair station steam steel stem stock stone store
storm stove strand stream string student studio subject sugar suit summer surface switch symbol table tail tank
target task teacher tea temple term text theatre theory thread ticket tide tile timber tissue title tone tool tooth
tower track trade train tree tribe truck tube tunnel turbine unit valley valve van vector vehicle version vessel view
village vinyl virus voice volume voter wage wagon wall warehouse wash wave wheel wind window winter wire wood word
worker yard zone
"""
ENDINGS = """\
s ed ing er ers 's like less ish able wise ist ism age ful al y let ward work man men master house line side way
time book board room box based ness dom ship craft ium ville son land ton ski ov ez ette
"""
BEGINNINGS = """\
re un pre post over under out super sub inter micro mega anti non counter mid multi auto bio euro cyber tele
"""
SUBREDDITS = """\
worldnews news movies gaming television gadgets books sports programming history AskReddit funny pics todayilearned
leagueoflegends nfl politics technology science Music aww explainlikeimfive IAmA AdviceAnimals videos
"""
_SUBREDDITS = SUBREDDITS.split()

MARKS = ("", ".", "?", "!", ",")
# Of a thousand words, the number followed by each of MARKS: inside a body, and at its end.
INSIDE = np.repeat(np.arange(5), (873, 64, 4, 5, 54))
AT_END = np.repeat(np.arange(5), (160, 680, 105, 55, 0))
DRAWS = 1 << 18


class Comments(NamedTuple):
    """The comments of the month by time, in arrays of equal length, and their threads.

    `parent` is an index into these arrays, ANSWERS_SUBMISSION, or NOT_IN_MONTH; `thread` is an index into
    `thread_time` and `thread_comments`.
    """

    time: np.ndarray
    thread: np.ndarray
    parent: np.ndarray
    author: np.ndarray
    thread_time: np.ndarray
    thread_comments: np.ndarray


ANSWERS_SUBMISSION, NOT_IN_MONTH = -1, -2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder to write; default: a temporary one")
    parser.add_argument("--comments", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="20,000 comments")
    options = parser.parse_args()
    comments = options.comments or (20_000 if options.quick else 300_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        start = time.perf_counter()
        write_month(folder, comments, options.seed)
        seconds = time.perf_counter() - start
        found = {} if options.folder else measure_similarity(folder)
    for name, figure in found.items():
        print(f"{name:<24}{MEASURED[name]:>8.3g} measured{figure:>8.3g} here")
    print(f"{comments:,} comments in {seconds:.1f} s")
    print(json.dumps({"comments": comments, "comments_per_s": round(comments / seconds), "likeness": found}))


def write_month(folder: Path, comments: int, seed: int = 0) -> None:
    """Write `RC_2015-01.zst` and `RS_2015-01.zst`; equal arguments give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    month = _draw_threads(np.random.default_rng([seed, 0]), comments)
    _write(folder / f"RS_{MONTH}.zst", _submission_lines(month, seed))
    _write(folder / f"RC_{MONTH}.zst", _comment_lines(month, seed))


def _write(path: Path, blocks: Iterator[str]) -> None:
    # The default window. With the 2 GiB of real dumps the decompressor's memory grows with the file, so that peak
    # memory would measure zstd, not the reader.
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as compressed:
        for block in blocks:
            compressed.write(block.encode("ascii"))
    os.replace(partial, path)


def _draw_threads(rng: np.random.Generator, comments: int) -> Comments:
    """Draw threads as branching processes and keep the first `comments` by time within the month."""
    sizes = np.arange(1, TOP_MOST + 1)
    shares = sizes**-TOP_EXPONENT / (sizes**-TOP_EXPONENT).sum()
    thread_size = shares @ sizes / (1 - np.arange(4) @ ANSWERS)
    threads = int(1.25 * comments / thread_size) + 100
    # Threads from before the month: their submissions and earlier comments are in no dump.
    thread_time = rng.uniform(START - THREE_DAYS, END, threads)

    thread = np.repeat(np.arange(threads), rng.choice(sizes, threads, p=shares))
    parent_index = np.full(len(thread), ANSWERS_SUBMISSION)  # index into the previous level
    author = _authors(rng, len(thread), comments)
    clock = thread_time[thread] + rng.lognormal(9.0, 1.5, len(thread))
    levels, parents, before = [], [], 0
    while len(thread):
        levels.append((clock, thread, parent_index, author))
        parents.append(parent_index + before - len(levels[-2][0]) if len(levels) > 1 else parent_index)
        before += len(thread)
        parent_index = np.repeat(np.arange(len(thread)), rng.choice(4, len(thread), p=ANSWERS))
        thread, clock = thread[parent_index], clock[parent_index] + rng.lognormal(7.5, 1.5, len(parent_index))
        author = _authors(rng, len(parent_index), comments)
        if len(levels) > 1:  # half of the answers return to the author of the grandparent
            answered = levels[-2][3][levels[-1][2][parent_index]]
            author = np.where(rng.random(len(parent_index)) < 0.5, answered, author)
    clock, thread, _, author = (np.concatenate(column) for column in zip(*levels, strict=True))
    parent = np.concatenate(parents)

    order = np.argsort(clock, kind="stable")
    order = order[(clock[order] >= START) & (clock[order] < END)][:comments]
    if len(order) < comments:
        raise RuntimeError(f"only {len(order)} of {comments} comments are in the month; draw more threads")
    place = np.full(len(clock) + 1, NOT_IN_MONTH)
    place[order] = np.arange(comments)
    place[rng.random(len(place)) < MEASURED["parent missing"]] = NOT_IN_MONTH  # as a parent
    place[ANSWERS_SUBMISSION] = ANSWERS_SUBMISSION
    counts = np.bincount(thread[order], minlength=threads)
    return Comments(clock[order], thread[order], place[parent[order]], author[order], thread_time, counts)


def _authors(rng: np.random.Generator, size: int, comments: int) -> np.ndarray:
    """Return author ids; few authors write most comments."""
    return (comments / 5 * rng.random(size) ** 3).astype(np.int64)


def _submission_lines(month: Comments, seed: int) -> Iterator[str]:
    text, rng = _TextSampler(seed), np.random.default_rng([seed, 1])
    order = np.argsort(month.thread_time, kind="stable")
    order = order[month.thread_time[order] >= START]
    for begin in range(0, len(order), CHUNK):
        threads = order[begin : begin + CHUNK]
        positive_share = np.full(len(threads), 0.6)
        titles = text.bodies(rng, 1 + rng.poisson(10, len(threads)), positive_share)
        stories = text.bodies(rng, 1 + rng.poisson(60, len(threads)), positive_share)
        rows = zip(threads.tolist(), titles, stories, _scores(rng, len(threads)), strict=True)
        yield "".join(
            SUBMISSION
            % {
                "id": _reddit_id("2", thread),
                "created": int(month.thread_time[thread]),
                "subreddit": _subreddit(thread),
                "subreddit_id": _reddit_id("t5_", thread % 25),
                "title": title,
                "selftext": story if thread % 3 == 0 else "",
                "is_self": "true" if thread % 3 == 0 else "false",
                "author": _author_name(thread),
                "score": score,
                "comments": month.thread_comments[thread],
                "over_18": "true" if thread % 25 == 0 else "false",
            }
            for thread, title, story, score in rows
        )


def _comment_lines(month: Comments, seed: int) -> Iterator[str]:
    text, positive_share = (
        _TextSampler(seed),
        np.random.default_rng([seed, 2]).beta(*POSITIVE_BETA, len(month.thread_time)),
    )
    for begin in range(0, len(month.time), CHUNK):
        rng, text_rng = np.random.default_rng([seed, 3, begin]), random.Random(f"{seed} {begin}")
        part = slice(begin, begin + CHUNK)
        size = len(month.time[part])
        words = np.clip(rng.lognormal(*LOG_WORDS, size), 1, 1500).astype(np.int64)
        bodies = text.bodies(rng, words, positive_share[month.thread[part]])
        for change, share in CHANGES.items():
            for place in np.flatnonzero(rng.random(size) < share).tolist():
                bodies[place] = change(bodies[place], text_rng)
        deleted_flags = (rng.random(size) < MEASURED["deleted"]).tolist()
        columns = (month.time[part].astype(np.int64), *(column[part] for column in month[1:4]), rng.random(size))
        rows = zip(bodies, deleted_flags, _scores(rng, size), *(column.tolist() for column in columns), strict=True)
        lines = []
        for number, (body, deleted, score, created, thread, parent, author, uniform) in enumerate(rows, start=begin):
            link = _reddit_id("t3_2", thread)
            if parent == ANSWERS_SUBMISSION:
                answers = link
            else:
                answers = _reddit_id("t1_c", parent) if parent >= 0 else _reddit_id("t1_b", number)
            record = {
                "id": _reddit_id("c", number),
                "link": link,
                "parent": answers,
                "body": body if not deleted else "[removed]" if uniform < 0.1 else "[deleted]",
                "author": "[deleted]" if deleted and uniform >= 0.1 else _author_name(author),
                "score": score,
                "created": created,
                "subreddit": _subreddit(thread),
                "subreddit_id": _reddit_id("t5_", thread % 25),
                "flair": '"Verified Fan"' if uniform < 0.2 else "null",
                "distinguished": '"moderator"' if uniform > 0.997 else "null",
                "edited": created + 300 if 0.50 < uniform < 0.53 else "false",
                "controversiality": 1 if 0.60 < uniform < 0.62 else 0,
            }
            lines.append(COMMENT_LINES[number % len(COMMENT_LINES)] % record)
        yield "".join(lines)


def _scores(rng: np.random.Generator, size: int) -> list[int]:
    """Return scores distributed as in the dumps of 2006: most are 1 or slightly above, with a long tail."""
    positive = np.floor(rng.lognormal(0.4, 1.3, size)) + 1
    below = -np.floor(rng.exponential(1.2, size))
    return np.where(rng.random(size) < MEASURED["score below 1"], below, positive).astype(np.int64).tolist()


FIELDS = """\
"subreddit_id":"%(subreddit_id)s" "parent_id":"%(parent)s" "controversiality":%(controversiality)s "gilded":0
"author_flair_css_class":%(flair)s "body":"%(body)s" "retrieved_on":1425124282 "ups":%(score)s "score":%(score)s
"author":"%(author)s" "author_flair_text":%(flair)s "id":"%(id)s" "created_utc":"%(created)s" "edited":%(edited)s
"downs":0 "score_hidden":false "name":"t1_%(id)s" "link_id":"%(link)s" "archived":false
"distinguished":%(distinguished)s "subreddit":"%(subreddit)s"
"""
# The order of fields differs between lines, as in real dumps.
COMMENT_LINES = [
    "{" + ",".join(FIELDS.split()[turn:] + FIELDS.split()[:turn]) + "}\n"
    for turn in (0, 5, 9, 16)
]  # fmt: skip
SUBMISSION = (
    '{"media_embed":{},"is_self":%(is_self)s,"author_flair_text":null,"subreddit":"%(subreddit)s","id":"%(id)s",'
    '"stickied":false,"selftext":"%(selftext)s","score":%(score)s,"link_flair_text":null,"from_kind":null,'
    '"over_18":%(over_18)s,"from":null,"created":%(created)s,"author":"%(author)s","archived":false,'
    '"subreddit_id":"%(subreddit_id)s","ups":%(score)s,"link_flair_css_class":null,"hide_score":false,"media":null,'
    '"gilded":0,"url":"http://example.org/%(id)s/page.html","distinguished":null,"author_flair_css_class":null,'
    '"title":"%(title)s","retrieved_on":1440752121,"downs":0,"from_id":null,"permalink":"/r/%(subreddit)s/comments/'
    '%(id)s/","thumbnail":"default","domain":"example.org","name":"t3_%(id)s","saved":false,'
    '"created_utc":"%(created)s","secure_media":null,"num_comments":%(comments)s,"secure_media_embed":{},'
    '"edited":false}\n'
)


class _TextSampler:
    """Sampler of bodies, word by word. Words are ASCII without quotes or backslashes, so JSON needs no escapes."""

    def __init__(self, seed: int) -> None:
        kinds = _vocabulary(random.Random(seed))
        words = [word for kind in kinds for word in kind]
        starts = np.cumsum([0, *map(len, kinds)])
        self._draws = np.concatenate(
            [begin + _ranked_draws(len(kind)) for begin, kind in zip(starts, kinds, strict=False)]
        )
        capitalised = [word[0].upper() + word[1:] for word in words]
        self._forms = [word + mark for mark in MARKS for word in (*words, *capitalised)]
        self._words = len(words)

    def bodies(self, rng: np.random.Generator, words: np.ndarray, positive_share: np.ndarray) -> list[str]:
        """Return a text for each of `words`, counts of 1 or more, and `positive_share`, of words with a sentiment."""
        ends = np.cumsum(words)
        starts = ends - words
        uniform = rng.random(ends[-1], dtype=np.float32)
        charged = uniform < MEASURED["lexicon words"]
        negative = uniform < MEASURED["lexicon words"] * np.repeat(1 - positive_share, words).astype(np.float32)
        kind = charged.astype(np.int64) + negative
        word = self._draws[kind * DRAWS + rng.integers(0, DRAWS, ends[-1])]
        mark = INSIDE[rng.integers(0, len(INSIDE), ends[-1])]
        mark[ends - 1] = AT_END[rng.integers(0, len(AT_END), len(ends))]
        capital = np.zeros(len(word), dtype=np.int64)
        capital[1:] = (mark[:-1] > 0) & (mark[:-1] < 4)
        capital[starts] = 1
        forms = self._forms
        tokens = [forms[form] for form in ((2 * mark + capital) * self._words + word).tolist()]
        return [" ".join(tokens[begin:end]) for begin, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _vocabulary(text_rng: random.Random) -> tuple[list[str], list[str], list[str]]:
    """Return neutral, positive and negative words, each from frequent to rare."""
    lines = resources.files("vaderSentiment").joinpath("vader_lexicon.txt").read_text(encoding="utf-8").splitlines()
    lexicon = {word: float(valence) for word, valence, *_ in (line.split("\t") for line in lines if line.strip())}
    charged = [word for word in lexicon if re.fullmatch("[a-z]{2,}", word)]
    text_rng.shuffle(charged)
    positive = dict.fromkeys(word for word in [*POSITIVE.split(), *charged] if lexicon.get(word, 0) > 0)
    negative = dict.fromkeys(word for word in [*NEGATIVE.split(), *charged] if lexicon.get(word, 0) < 0)
    endings, stems = ["", *ENDINGS.split()], STEMS.split()
    derived = [stem + ending for stem in stems for ending in endings]
    derived += [
        beginning + stem + ending for beginning in BEGINNINGS.split() for stem in stems for ending in endings[:4]
    ]
    derived += map(str, range(0, 2030, 7))
    text_rng.shuffle(derived)
    derived.sort(key=lambda word: len(word) // 3)  # short words are more frequent
    neutral = [word for word in dict.fromkeys([*COMMON.split(), *derived]) if word not in lexicon]
    return neutral, list(positive), list(negative)


def _ranked_draws(words: int) -> np.ndarray:
    """Return DRAWS indices into a ranked word list, each as frequent as the word of its rank in real comments."""
    rank, share = zip((0.5, 0.0), *MOST_FREQUENT, strict=True)
    cumulative = np.interp(np.log(np.arange(1, words + 1)), np.log(rank), share)
    return np.searchsorted(cumulative, (np.arange(DRAWS) + 0.5) / DRAWS * cumulative[-1])


def _add_capitals(body: str, text_rng: random.Random) -> str:
    words = body.split(" ")
    place = text_rng.randrange(len(words))
    words[place] = words[place].upper() if len(words[place]) > 6 else "EXACTLY"
    return " ".join(words)


def _add_brackets(body: str, text_rng: random.Random) -> str:
    return _enclose_words(body, text_rng, "(", ")")


def _add_quotation_marks(body: str, text_rng: random.Random) -> str:
    return _enclose_words(body, text_rng, '\\"', '\\"')


def _enclose_words(body: str, text_rng: random.Random, before: str, after: str) -> str:
    words = body.split(" ")
    first = text_rng.randrange(len(words))
    last = min(first + text_rng.randrange(6), len(words) - 1)
    words[first] = before + words[first]
    words[last] += after
    return " ".join(words)


def _add_entity(body: str, text_rng: random.Random) -> str:
    return body.replace(" and ", " &amp; ", 1)


def _add_link(body: str, text_rng: random.Random) -> str:
    return f"{body} http://www.example.org/{text_rng.randrange(10**6)}"


def _add_paragraphs(body: str, text_rng: random.Random) -> str:
    return body.replace(". ", ".\\n\\n", 1 + text_rng.randrange(3))


def _add_non_ascii(body: str, text_rng: random.Random) -> str:
    return body + text_rng.choice((" \\u2026", " caf\\u00e9", " \\u201cso\\u201d", " \\ud83d\\ude02", " it\\u2019s"))


def _add_quote(body: str, text_rng: random.Random) -> str:
    return "&gt;" + " ".join(body.split(" ")[: 1 + text_rng.randrange(20)]) + "\\n\\n" + body


# Changes of bodies (escaped as in JSON), in this order, and the share of bodies to change: above the measured share
# where a change does not apply to many bodies.
CHANGES: dict[Callable[[str, random.Random], str], float] = {
    _add_capitals: MEASURED["capitals"],
    _add_brackets: MEASURED["bracketed"],
    _add_quotation_marks: MEASURED["double quotes"],
    _add_entity: 0.02,
    _add_link: MEASURED["linked"],
    _add_paragraphs: 0.36,
    _add_non_ascii: MEASURED["not ascii"],
    _add_quote: MEASURED["quoting"],
}


@cache
def _base_36_triples() -> list[str]:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return [a + b + c for a in digits for b in digits for c in digits]


def _reddit_id(before: str, number: int) -> str:
    """Return a Reddit id: consecutive numbers in base 36."""
    return before + _base_36_triples()[number // 36**3] + _base_36_triples()[number % 36**3]


def _author_name(author: int) -> str:
    return f"user_{author}"


def _subreddit(thread: int) -> str:
    return _SUBREDDITS[thread % len(_SUBREDDITS)]


def measure_similarity(folder: Path) -> dict[str, float]:
    """Return the figures of MEASURED for the comments of a folder."""
    counts, vocabulary, threads = Counter[str](), Counter[str](), Counter[str]()
    parents: dict[str, str] = {}
    lengths = []
    for record in _records(folder):
        body, parent = record["body"], record["parent_id"]
        parents["t1_" + record["id"]] = parent
        threads[record["link_id"]] += 1
        counts["score below 1"] += record["score"] < 1
        counts["answers the submission"] += parent[:3] == "t3_"
        if body in ("[deleted]", "[removed]"):
            counts["deleted"] += 1
            continue
        words = body.split()
        lengths.append(len(words))
        vocabulary.update(word.strip('.,!?()"').lower() for word in words)
        counts["quoting"] += "&gt;" in body
        counts["linked"] += "http" in body
        counts["bracketed"] += re.search(r"[()\[\]]", body) is not None
        counts["capitals"] += re.search("[A-Z]{5}", body) is not None
        counts["asking"] += body.rstrip().endswith("?")
        counts["newlines"] += "\n" in body
        counts["double quotes"] += '"' in body
        counts["not ascii"] += not body.isascii()
        counts["one word"] += len(words) < 2
        counts["over 100 words"] += len(words) > 100
    answered, lexicon = set(parents.values()), {word for kind in _vocabulary(random.Random(0))[1:] for word in kind}
    counts["leaves"] = sum(name not in answered for name in parents)
    counts["parent missing"] = sum(parent[:3] == "t1_" and parent not in parents for parent in parents.values())
    counts["fifth or deeper"] = sum(_depth(name, parents) >= 5 for name in parents)
    counts["in threads over 100"] = sum(count for count in threads.values() if count > 100)
    ranked = [count for _, count in vocabulary.most_common()]
    figures = {name: count / len(parents) for name, count in counts.items()}
    figures["words, median"], figures["words, mean"] = float(np.median(lengths)), float(np.mean(lengths))
    figures["lexicon words"] = sum(count for word, count in vocabulary.items() if word in lexicon) / sum(ranked)
    figures["500 top words"], figures["5000 top words"] = (
        sum(ranked[:500]) / sum(ranked),
        sum(ranked[:5000]) / sum(ranked),
    )
    figures["comments a thread"] = len(parents) / len(threads)
    return {name: round(figures[name], 4) for name in MEASURED}


def _depth(name: str, parents: dict[str, str]) -> int:
    depth = 1
    while (name := parents[name]) in parents:
        depth += 1
    return depth


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("RC_*.zst")):
        with path.open("rb") as compressed:
            stream = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(compressed)
            yield from map(json.loads, io.TextIOWrapper(stream, encoding="utf-8", newline="\n"))


if __name__ == "__main__":
    main()
