"""What costs grow with: few large batches, small tasks and buckets of equal content, also at thousands of buckets."""

import json
import pickle
from itertools import pairwise

import pyarrow as pa
import pytest

from sage_dialog.config import RedditRules
from sage_dialog.corpora.reddit import extract, run
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.run import Extracted, extract_to, read_batches, size_buckets
from sage_dialog.corpora.reddit.tally import NO_LIMITS

THREADS, COMMENTS, BUCKETS = 20_000, 102_400, 4_096
BUCKET_COMMENTS = COMMENTS // BUCKETS
RULES = RedditRules.from_base()


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    dump = Dump("2015-01", "RC", folder / "RC_2015-01")
    with dump.path.open("w") as file:
        for number in range(COMMENTS):
            link = f"t3_{number % THREADS:x}"
            record = {"id": f"c{number}", "parent_id": link, "link_id": link, "subreddit": "aww", "author": "a"}
            file.write(json.dumps(record | {"score": 1, "body": "two words and more " * 5}) + "\n")
    extract_to(dump, RULES, folder / "extracted", NO_LIMITS, lambda *_: None)
    return Extracted(dump, folder / "extracted")


def test_batches_are_few_and_large_whatever_the_number_of_buckets(extracted):
    sizes = [batch.nbytes for batch in read_batches(extracted.path)]
    assert len(sizes) <= 1 + extracted.dump.path.stat().st_size / extract._BATCH_BYTES
    # What is read for a bucket stays on disk: there is no copy, and no index in memory.
    before = pa.total_allocated_bytes()
    buckets = size_buckets([extracted], BUCKET_COMMENTS)
    assert len(buckets) > 0.8 * BUCKETS
    parts = [extracted.parts(bucket) for bucket in buckets[:200]]
    assert pa.total_allocated_bytes() - before < 100_000
    assert {len(found) for found in parts} == {1}


def test_batches_are_merged(extracted, monkeypatch, tmp_path):
    monkeypatch.setattr(extract, "_BATCH_BYTES", 1 << 20)
    extract_to(extracted.dump, RULES, tmp_path / "merged", NO_LIMITS, lambda *_: None)
    merged = Extracted(extracted.dump, tmp_path / "merged")
    assert len([*read_batches(merged.path)]) > 5
    rows, whole = (pa.Table.from_batches(read_batches(one.path)) for one in (merged, extracted))
    assert rows.equals(whole)
    for bucket in size_buckets([merged], 1000):
        found = pa.Table.from_batches([part.batch for part in merged.parts(bucket)])
        assert found.equals(pa.Table.from_batches([part.batch for part in extracted.parts(bucket)]))
    assert sorted(path.name for path in merged.folder.iterdir()) == ["batches.arrow", "lows.json", "tally.json"]


def test_buckets_have_equal_content_and_every_thread_once(extracted):
    buckets = size_buckets([extracted], BUCKET_COMMENTS)
    assert 0.8 * BUCKETS < len(buckets) <= BUCKETS
    assert buckets[0].low == 0 and buckets[-1].high == extract.HASHES
    assert all(one.high == other.low for one, other in pairwise(buckets))
    rows = [sum(len(part.batch) for part in extracted.parts(bucket)) for bucket in buckets]
    assert sum(rows) == COMMENTS
    assert max(rows) <= BUCKET_COMMENTS + extract.count_rows(read_batches(extracted.path)).max()


def test_a_dump_is_extracted_once_for_buckets_of_any_size(extracted, monkeypatch, tmp_path):
    dumps = {extracted.dump.path.name: extracted.dump.path}
    rules = RedditRules.from_base(min_submission_comments=0)
    done = []
    monkeypatch.setattr(run, "extract", lambda *given, function=run.extract: (done.append(given), function(*given))[1])
    counts = [
        run.read_dialogues(
            dumps, rules, scratch=tmp_path, workers=1, bucket_comments=size
        ).filter_report.n_removed.sum()
        for size in (COMMENTS, COMMENTS // 3)
    ]
    assert len(done) == 1 and counts[0] == counts[1]


def test_tasks_name_files_and_hold_none_of_their_content(extracted, monkeypatch):
    tasks = []
    monkeypatch.setattr(run, "run_tasks", lambda function, given, *_: tasks.extend(given) or [])
    job = run.Job.create({extracted.dump.path.name: extracted.dump.path}, RULES, extracted.folder, NO_LIMITS)
    run._assemble_all(job, [extracted], BUCKET_COMMENTS, 2)
    assert len(tasks) > 0.8 * BUCKETS
    assert max(len(pickle.dumps(task)) for task in tasks[:50]) < 3_000
