"""Measure the cost of reading Reddit months in three ways, and check that all three find the same dialogues.

    python benchmarks/reddit.py [--real DIR] [--keep DIR]    # about 12 minutes on two cores
    python benchmarks/reddit.py --quick                      # under 50 seconds, on less data
    python benchmarks/reddit.py --scale 300000 3000000x10    # what grows with the number of comments

    every   the oracle of the tests: dictionaries, one comment at a time, NLTK on every eligible comment
    lazy    `lazy` below: a plain script that applies the cheap rules first, and NLTK last
    ours    `sage_dialog.corpora.reddit.read_dialogues`, with one worker

The sides run one after the other, each in a new process, with the default rules: on real months
(`../shared/data/reddit_2015` or `--real`, if present) and on a generated month of a million comments
(`reddit_month.py`). Ours also reads a generated month of five million, for memory.

Before the measurement a side reads a month of five comments, which triggers its imports. CPU seconds are user and
system time from then on; "with start" they are those of the whole process. Peak memory is that of the reading
process, imports included. The side `every` runs once, the other two three times; figures are medians.

Goals: every/ours at least 8, lazy/ours at least 3, peak memory at most 600 MB at a million comments and at most
10 % more at five. The exit status is 1 where dialogues differ. The last line is one JSON object; its ratios are
the smaller ones of the two data sets.

`--scale` reads generated months of these sizes; `3000000x10` is ten months with the content of one, which are read
separately (`same_month`). It measures CPU seconds, beside those of the parser alone (Zstandard and Arrow's JSON reader
on the same blocks): of one worker without imports, in turn with the parser and three times each, and of many months all
seconds of two workers. These also give the peak memory of the main process and of the largest worker, and the bytes in
the scratch folder. Goal: at most 1.3 times the parser's seconds.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import hashlib
import html
import io
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import zstandard

if TYPE_CHECKING:
    from sage_dialog.config import RedditRules

PROJECT = Path(__file__).resolve().parents[1]
REAL = PROJECT.parent / "shared" / "data" / "reddit_2015"
ALL_COMMENTS = 3.3e9  # of Reddit, 2005 to 2017
SIZES, QUICK_SIZES = (1_000_000, 5_000_000), (40_000, 150_000)
QUICK_PART = 20_000  # comments of a real month
REPEATS = {"every": 1, "lazy": 3, "ours": 3}

Row = dict[str, Any]
Files = Mapping[str, Path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all sides on the first 20,000 comments of the smallest "
                        "real month and on a small generated one; lazy and ours on larger ones")  # fmt: skip
    parser.add_argument("--real", type=Path, default=REAL, help="folder of real dumps, .zst, .bz2 or plain")
    parser.add_argument("--keep", type=Path, help="folder of the generated months; existing ones are reused")
    parser.add_argument("--scale", nargs="+", metavar="COMMENTS[xMONTHS]", help="sizes of generated months")
    parser.add_argument("--side", choices=(*SIDES, *SCALE_SIDES), help=argparse.SUPPRESS)  # of a child process
    parser.add_argument("--files", type=Path, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(PROJECT / "src"), str(PROJECT / "tests" / "oracles")]
    if options.side in SCALE_SIDES:
        print(json.dumps(SCALE_SIDES[options.side]({path.name: path for path in options.files})))
        return
    if options.side:
        print(json.dumps(_measure(options.side, {path.name: path for path in options.files})))
        return
    if options.scale:
        with tempfile.TemporaryDirectory() as temporary:
            print(json.dumps([_compare_scale(options.keep or Path(temporary), size) for size in options.scale]))
        return
    small, large = QUICK_SIZES if options.quick else SIZES
    if options.quick:
        print(f"Quick: all sides on {QUICK_PART:,} comments of one real month and {small:,} generated ones; for the "
              f"ratio of lazy and ours, these two on that whole month and {large:,} generated ones. Each runs once, "
              "and fixed costs weigh much on so little data: figures are a rough estimate.")  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        data, month = {}, {}
        if real := sorted(options.real.glob("R[CS]_*")):
            data[options.real.name] = _first_comments(real, Path(temporary), QUICK_PART) if options.quick else real
            month = {f"{options.real.name}, a month": _smallest_month(real)}
        else:
            print(f"No real months: {options.real} holds no RC_ dumps; --real DIR names another folder.")
        data["generated"] = _generate_month(folder, small)
        found = {name: _compare_sides(name, files, options.quick) for name, files in data.items()}
        if options.quick:
            for name, files in (month | {"generated, large": _generate_month(folder, large)}).items():
                found[name] = _compare_sides(name, files, options.quick, ("lazy", "ours"))
        else:
            _log("generated, large: ours")
            side_runs = _run("ours", _generate_month(folder, large))
            found["generated, large"] = {"comments": large, "ours": _figures([side_runs], large)}
    print(json.dumps({"quick": options.quick, **_summary(found), "data": found}))


def _summary(found: dict[str, Row]) -> dict[str, float]:
    compared = {"every": [data_set for data_set in found.values() if "every" in data_set]}
    # With --quick lazy runs on larger data, too; only that ratio counts.
    compared["lazy"] = [
        data_set for data_set in found.values() if "lazy" in data_set and "every" not in data_set
    ] or compared["every"]
    ratios = {
        f"{key}{start}": round(min(_ratio(data_set, side, f"cpu_s{start}") for data_set in compared[side]), 2)
        for start in ("", "_with_start")
        for key, side in (("cpu_ratio", "every"), ("cpu_ratio_lazy", "lazy"))
    }
    small, large = (found[name]["ours"]["peak_rss_mb"] for name in ("generated", "generated, large"))
    growth = round(large / small - 1, 3)
    sizes = [found[name]["comments"] for name in ("generated", "generated, large")]
    print(f"\nsmaller ratios of the data sets: every/ours {ratios['cpu_ratio']}, lazy/ours {ratios['cpu_ratio_lazy']}")
    print(f"peak memory of ours: {small:.0f} MB at {sizes[0]:,}, {large:.0f} MB at {sizes[1]:,} ({growth:+.1%})")
    return {**ratios, "peak_rss_mb": small, "rss_growth": growth}


def _smallest_month(dumps: list[Path]) -> list[Path]:
    """Return the dumps of the smallest month: comments, then submissions."""
    smallest = min((path for path in dumps if path.name.startswith("RC_")), key=lambda path: path.stat().st_size)
    return [smallest, *(path for path in dumps if path.name.startswith("RS_" + smallest.name[3:10]))]


def _first_comments(dumps: list[Path], folder: Path, comments: int) -> list[Path]:
    """Write the first comments of the smallest month; return that file and the month's submissions."""
    smallest, *submissions = _smallest_month(dumps)
    part = folder / smallest.name[:10]
    part.write_bytes(b"".join(islice(_lines(smallest), comments)))
    return [part, *submissions]


def _generate_month(folder: Path, comments: int) -> list[Path]:
    """Return the dumps of a generated month, generating them in another process unless they exist."""
    month = folder / f"{comments}"
    if not any(month.glob("RC_*.zst")):
        _log(f"generating {comments:,} comments")
        script = Path(__file__).with_name("reddit_month.py")
        command = [sys.executable, script, month, "--comments", str(comments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sorted(month.glob("R[CS]_*.zst"))


def _compare_sides(name: str, files: list[Path], quick: bool, sides: Sequence[str] = ("every", "lazy", "ours")) -> Row:
    """Return the figures of the sides on the same dumps; all must find the same dialogues."""
    comments = sum(1 for path in files if path.name.startswith("RC_") for _ in _lines(path))
    runs: dict[str, list[Row]] = {side: [] for side in sides}
    for repeat in range(1 if quick else max(REPEATS.values())):
        for side, side_runs in runs.items():
            if repeat < REPEATS[side]:
                _log(f"{name}: {side}, {repeat + 1} of {1 if quick else REPEATS[side]}")
                side_runs.append(_run(side, files))
    dialogues = runs[sides[0]][0]["dialogues"]
    for side, side_runs in runs.items():
        for run in side_runs:
            _check_same(dialogues, run["dialogues"], f"{side} on {name}")
    found = {side: _figures(side_runs, comments) for side, side_runs in runs.items()}
    _print_table(f"{name}: {comments:,} comments; dialogues, the same on every side: {len(dialogues)}", found)
    return {"comments": comments, "dialogues": len(dialogues), **found}


def _figures(side_runs: list[Row], comments: int) -> Row:
    """Return medians over the runs of a side; `core_hours` is for all comments of Reddit, 2005 to 2017."""
    medians = {key: statistics.median(run[key] for run in side_runs) for key in ("cpu_s", "cpu_s_with_start", "wall_s")}
    figures = {f"{key}_per_million": round(seconds / comments * 1e6, 2) for key, seconds in medians.items()}
    peak = statistics.median(run["peak_rss_mb"] for run in side_runs)
    hours = medians["cpu_s"] / comments * ALL_COMMENTS / 3600
    return {**figures, "peak_rss_mb": round(peak, 1), "core_hours": round(hours, 1), "runs": len(side_runs)}


def _print_table(title: str, found: dict[str, Row]) -> None:
    """Print seconds per million comments."""
    print(f"\n{title}\n{'':<8}{'CPU s/M':>9}{'with start':>12}{'wall s/M':>10}{'times ours':>12}{'with start':>12}"
          f"{'peak MB':>9}{'core-hours for 3.3 billion':>28}")  # fmt: skip
    for side, figures in found.items():
        cpu, with_start = figures["cpu_s_per_million"], figures["cpu_s_with_start_per_million"]
        ratio, ratio_with_start = _ratio(found, side, "cpu_s"), _ratio(found, side, "cpu_s_with_start")
        print(f"{side:<8}{cpu:>9.2f}{with_start:>12.2f}{figures['wall_s_per_million']:>10.2f}{ratio:>12.2f}"
              f"{ratio_with_start:>12.2f}{figures['peak_rss_mb']:>9.0f}{figures['core_hours']:>28,.1f}")  # fmt: skip


def _ratio(found: dict[str, Row], side: str, seconds: str) -> float:
    """Return the ratio of the seconds of a side to those of ours."""
    return found[side][f"{seconds}_per_million"] / found["ours"][f"{seconds}_per_million"]


def _check_same(expected: list[Row], found: list[Row], who: str) -> None:
    """Exit if the dialogues differ, naming the first difference."""
    expected_rows, found_rows = ({row["dialogue_id"]: row for row in rows} for rows in (expected, found))
    different = sorted(name for name in expected_rows | found_rows if expected_rows.get(name) != found_rows.get(name))
    if different or len(expected) != len(found):
        first = different[0] if different else "the same ones, some twice"
        sys.exit(
            f"{who} found {len(found)} dialogues, the first side {len(expected)}; {len(different)} differ. The first: "
            f"{first}\n"
            f"  first: {json.dumps(expected_rows.get(first))}\n  found: {json.dumps(found_rows.get(first))}"
        )


def _lines(path: Path) -> Iterator[bytes]:
    from sage_dialog.corpora.compression import read_lines

    return read_lines(path)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# One side's process


def _run(side: str, files: list[Path]) -> Row:
    """Measure a side in a process of its own; add the CPU seconds of the whole process."""
    command = [sys.executable, __file__, "--side", side, "--files", *map(str, files)]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=output, stderr=log, env={**os.environ, "TMPDIR": folder})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (output, log):
            stream.seek(0)
        if process.returncode:
            sys.exit(f"{log.read().decode()}\nThe side {side!r} failed with exit status {process.returncode}.")
        return json.loads(output.read().splitlines()[-1]) | {"cpu_s_with_start": usage.ru_utime + usage.ru_stime}


def _measure(side: str, files: Files) -> Row:
    """Return the dialogues of the files, and time and memory of finding them after all imports."""
    from sage_dialog.config import RedditRules

    rules, read = RedditRules.from_base(), SIDES[side]
    with tempfile.TemporaryDirectory() as folder:
        if len(read(_warm_up_month(Path(folder)), rules)) != 1:
            raise RuntimeError(f"{side} does not find the dialogue of the warm-up month")
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, wall = time.process_time(), time.perf_counter()
    dialogues = read(files, rules)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if resource.getrusage(resource.RUSAGE_CHILDREN)[:2] != others[:2]:
        raise RuntimeError(f"{side} started other processes, whose time and memory are not measured")
    return {"dialogues": dialogues, "cpu_s": cpu, "wall_s": wall, "peak_rss_mb": _peak_rss_mb()}


def _peak_rss_mb(pid: int | str = "self") -> float:
    """Return the peak memory of a process; `ru_maxrss` would include that of its parent before exec."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def _warm_up_month(folder: Path) -> Files:
    """Write five comments that are one dialogue, so that each part of a side runs once."""
    text = "I love how happy and glad you are here with all of these wonderful friends of ours, is it not great, number"
    thread = {"id": "s", "num_comments": 5}
    comments = [
        {"id": f"c{turn}", "parent_id": f"t1_c{turn - 1}" if turn else "t3_s", "link_id": "t3_s", "subreddit": "all",
         "body": f"{text} {turn}?", "author": f"u{turn % 2}", "score": 2} for turn in range(5)
    ]  # fmt: skip
    files = {"RS_2014-12": [thread], "RC_2014-12": comments}
    for name, records in files.items():
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return {name: folder / name for name in files}


def every(files: Files, rules: RedditRules) -> list[Row]:
    from reddit_oracle import dialogues

    return dialogues(files, rules, score_every_comment=True)[0]


def ours(files: Files, rules: RedditRules) -> list[Row]:
    from sage_dialog.config import DataProcessing
    from sage_dialog.core.tables import to_rows
    from sage_dialog.corpora.reddit import read_dialogues

    with tempfile.TemporaryDirectory() as scratch:
        how = {"workers": 1, "bucket_comments": DataProcessing.from_base().bucket_comments}
        return to_rows(read_dialogues(files, rules, scratch=Path(scratch), **how).dialogues)


# The side `lazy`: a plain script for complete dumps and the default rules


def lazy(files: Files, rules: RedditRules) -> list[Row]:
    """Read line by line, keep eligible comments by thread, and apply the cheap rules to paths first."""
    num_comments: dict[str, int] = {}
    threads: defaultdict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)
    for name in sorted(files):
        if name.startswith("RS_"):
            for submission in _records(files[name]):
                num_comments.setdefault("t3_" + submission["id"], submission["num_comments"])
    for name in sorted(files):
        if name.startswith("RC_"):
            for comment in _records(files[name]):
                link_id, body = comment["link_id"], comment["body"]
                if num_comments.get(link_id, -1) < rules.min_submission_comments or ">" in body or "&gt;" in body:
                    continue
                words = len(body.split())
                if words < rules.min_body_words or body.strip() in DELETED:
                    continue
                kept = (comment["parent_id"], comment["score"], words, body, comment["author"], comment["subreddit"])
                threads[link_id].setdefault(comment["id"], (*kept, name[3:10]))
    nltk_tools = _Nltk()
    found = (row for link, thread in threads.items() for row in _thread_dialogues(link, thread, rules, nltk_tools))
    return sorted(found, key=lambda row: row["dialogue_id"])


def _records(path: Path) -> Iterator[Row]:
    with bz2.open(path) if path.suffix == ".bz2" else path.open("rb") as file:
        stream: Any = file
        if path.suffix == ".zst":
            stream = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(file, read_across_frames=True)
        for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _thread_dialogues(
    link: str, thread: dict[str, tuple[Any, ...]], rules: RedditRules, nltk_tools: _Nltk
) -> Iterator[Row]:
    if len(thread) < rules.min_turns:
        return
    answered = {parent for parent, *_ in thread.values()}
    texts: dict[str, str | None] = {}
    for leaf, (parent, score, words, *_) in thread.items():
        if score < rules.min_leaf_score or words > rules.max_comment_words or "t1_" + leaf in answered:
            continue
        path = [leaf]
        while len(path) < rules.max_turns and parent.startswith("t1_"):
            above = parent[3:]
            if above not in thread or thread[above][2] > rules.max_comment_words or above in path:
                break
            path.append(above)
            parent = thread[above][0]
        if len(path) < rules.min_turns:
            continue
        for name in path:
            if name not in texts:
                texts[name] = _plain_text(thread[name][3], rules)
        utterances = [texts[name] for name in reversed(path)]
        if not all(utterances) or not any(text.endswith("?") for text in utterances):
            continue
        mean_words = sum(len(text.split()) for text in utterances) / len(utterances)
        known = sum(word.strip(":,.!?'").lower() in COMMON_WORDS for word in utterances[-1].split())
        if mean_words <= rules.min_mean_words or known < rules.min_common_words:
            continue
        lowest = 1.0
        for text in utterances:
            lowest = min(lowest, nltk_tools.compound(text))
            if lowest <= rules.min_sentiment:
                break
        if lowest <= rules.min_sentiment or _has_token_fault([nltk_tools.tokens(text) for text in utterances], rules):
            continue
        turns = [
            {"comment_id": name, "author": _author(thread[name][4]), "text": texts[name]} for name in reversed(path)
        ]
        row = {"dialogue_id": f"{link[3:]}/{leaf}", "subreddit": thread[leaf][5], "link_id": link}
        row |= {"month": thread[leaf][6], "turns": turns, "n_turns": len(turns)}
        yield row | {"mean_words": mean_words, "min_sentiment": lowest}


DELETED = ("[deleted]", "[removed]")
COMMON = """\
the be to of and a in that have i it for not on with he as you do at this but his by from they we say her she or an
will my one all would there their what so up out if about who get which go me is are was
"""
COMMON_WORDS = set(COMMON.split())
APOSTROPHES = str.maketrans({"\u2018": "'", "\u2019": "'"})
SHORTHAND = {"b/c": "because", "j/k": "just kidding", "w/o": "without", "w/": "with "}
SHORTHAND_PATTERN = re.compile(r"(?<![\w/])(?:b/c\b|j/k\b|w/o\b|w/)")
NOT_ALLOWED = re.compile(r"[^A-Za-z0-9()\[\]:,.!?' ]")


def _plain_text(body: str, rules: RedditRules) -> str | None:
    """Return the normalised text; None for a link, a bracket, or capitals, which exclude all paths with the comment."""
    body = body.replace("\\", "")
    words = [word for word in body.split() if word[0] != "#"]
    if "http" in body.lower() and any("http" in word.lower() for word in words):
        return None
    words = [word for word in html.unescape(body).replace("\\", "").translate(APOSTROPHES).split() if word[0] != "#"]
    text = " ".join(words)
    text = SHORTHAND_PATTERN.sub(lambda found: SHORTHAND[found.group()], text)
    text = " ".join(NOT_ALLOWED.sub(" ", text).split())
    excluded = re.search(rf"[()\[\]]|[A-Z]{{{rules.max_capitals_run + 1}}}", text)
    return None if excluded else text


def _has_token_fault(tokens: list[list[str]], rules: RedditRules) -> bool:
    leaf, run = tokens[-1], rules.max_token_run + 1
    return (
        sum(map(len, tokens)) > rules.max_path_tokens
        or any(len(token) > rules.max_token_chars for token in leaf)
        or any(len(set(leaf[place : place + run])) == 1 for place in range(len(leaf) - run + 1))
    )


def _author(name: Any) -> str | None:
    if not isinstance(name, str) or name in ("", "[deleted]", "[removed]", "[unknown]"):
        return None
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


class _Nltk:
    """NLTK's sentiment analyser, with a cache, and its tokenizer."""

    def __init__(self) -> None:
        from nltk.sentiment.vader import SentimentIntensityAnalyzer, VaderConstants
        from nltk.tokenize import TweetTokenizer

        from sage_dialog.core.sentiment import packaged_lexicon

        # __init__ would load a lexicon that has to be downloaded.
        vader = SentimentIntensityAnalyzer.__new__(SentimentIntensityAnalyzer)
        vader.lexicon, vader.constants = packaged_lexicon(), VaderConstants()
        self.compound = cache(lambda text: vader.polarity_scores(text)["compound"])
        tokenizer = TweetTokenizer()
        self.tokens = lambda text: " ".join(tokenizer.tokenize(text)).split()


# What grows with the number of comments


def _compare_scale(folder: Path, size: str) -> Row:
    """Return and print the figures of generated months."""
    month, _, months = size.partition("x")
    files = _generate_month(folder, int(month))
    comments, of_month = int(month) * int(months or 1), files
    if months:
        files = _link_months(files, folder / size, int(months))
    ours = _run("two", files)
    floors, seconds = [], []  # in turn, because the speed of a machine changes
    for _ in range(1 if months else REPEATS["ours"]):
        floors.append(_run("parser", of_month)["cpu_s"] / int(month) * 1e6)
        seconds.append((ours if months else _run("one", files))["cpu_s"] / comments * 1e6)
    ratio = statistics.median(taken / floor for taken, floor in zip(seconds, floors, strict=True))
    figures = {
        "comments": comments,
        "parser_cpu_s_per_million": round(statistics.median(floors), 2),
        "cpu_s_per_million": round(statistics.median(seconds), 2),
        "cpu_ratio": round(ratio, 2),
        "main_peak_mb": round(ours["main_peak_mb"]),
        "worker_peak_mb": round(ours["worker_peak_mb"]),
        "scratch_bytes_per_comment": round(ours["scratch_bytes"] / comments),
        "scratch_bytes_per_compressed_byte": round(ours["scratch_bytes"] / sum(f.stat().st_size for f in files), 2),
        "dialogues": ours["dialogues"],
        "wall_s": round(ours["wall_s"]),
    }
    print("\n".join(f"{name:<36}{value:>14,}" for name, value in figures.items()), end="\n\n", flush=True)
    return figures


def _link_months(month: list[Path], folder: Path, months: int) -> list[Path]:
    """Return the dumps of as many months, which are links to those of one."""
    folder.mkdir(exist_ok=True)
    for number, path in product(range(1, months + 1), month):
        link = folder / path.name.replace("2015-01", f"2015-{number:02d}")
        if not link.exists():
            link.symlink_to(path.resolve())
    return sorted(folder.glob("R[CS]_*.zst"))


def parser_alone(files: Files) -> Row:
    """Decompress the dumps, and parse their blocks with Arrow, with the options of `reading`."""
    import pyarrow as pa
    import pyarrow.json as pj

    from sage_dialog.corpora.compression import read_blocks
    from sage_dialog.corpora.reddit import reading
    from sage_dialog.corpora.reddit.processes import system_memory

    start = time.process_time()
    with system_memory():
        for name, path in files.items():
            schema = reading.COMMENTS if name.startswith("RC_") else reading.SUBMISSIONS
            fields = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
            for block in read_blocks(path, reading.BLOCK_BYTES):
                pj.read_json(
                    pa.BufferReader(block), pj.ReadOptions(use_threads=False, block_size=len(block) + 1), fields
                )
    return {"cpu_s": time.process_time() - start}


def one_worker(files: Files) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        _read_all(_warm_up_month(Path(folder)), workers=1)
    return _read_all(files, workers=1)


def two_workers(files: Files) -> Row:
    """Read with two workers; their memory and CPU seconds are read every few milliseconds while they live."""
    peaks: dict[int, float] = {}
    seconds: dict[int, float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(OSError, IndexError, psutil.Error):
                    peaks[process.pid] = _peak_rss_mb(process.pid)
                    seconds[process.pid] = sum(process.cpu_times()[:2])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = _read_all(files, workers=2)
    finally:
        done.set()
        watcher.join()
    memory = {"worker_peak_mb": max(peaks.values()), "main_peak_mb": _peak_rss_mb()}
    return found | memory | {"cpu_s": found["cpu_s"] + sum(seconds.values())}


def _read_all(files: Files, workers: int) -> Row:
    from sage_dialog.config import DataProcessing, RedditRules
    from sage_dialog.corpora.reddit import read_dialogues

    how = {"workers": workers, "bucket_comments": DataProcessing.from_base().bucket_comments}
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall, scratch = time.process_time(), time.perf_counter(), Path(folder)
        tables = read_dialogues(files, RedditRules.from_base(same_month=len(files) > 2), scratch=scratch, **how)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        scratch_bytes = sum(path.stat().st_size for path in scratch.rglob("*"))
        return {"cpu_s": cpu, "wall_s": wall, "scratch_bytes": scratch_bytes, "dialogues": len(tables.dialogues)}


SCALE_SIDES = {"parser": parser_alone, "one": one_worker, "two": two_workers}
SIDES: dict[str, Callable[[Files, RedditRules], list[Row]]] = {"every": every, "lazy": lazy, "ours": ours}

if __name__ == "__main__":
    main()
