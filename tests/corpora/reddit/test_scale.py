"""What costs grow with: few large batches, small tasks and buckets of equal content, also at thousands of buckets."""

import json
import os
import pickle
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from sage_dialog.config import RedditRules
from sage_dialog.corpora.reddit import extract, reading, run
from sage_dialog.corpora.reddit import extracted as extracted_module
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.extracted import Extracted
from sage_dialog.corpora.reddit.run import extract_to, size_buckets
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
    extract_to(dump, RULES, folder / "extracted", NO_LIMITS, 1, lambda *_: None)
    return Extracted(dump, folder / "extracted")


def rows_of(extracted: Extracted, bucket: extract.Bucket) -> pa.RecordBatch:
    (part,) = extracted.parts(bucket)
    return part.batch


@pytest.fixture
def extract_in_runs(extracted, monkeypatch, tmp_path):
    """Extract the dump in many runs, for so many buckets."""
    monkeypatch.setattr(extract, "_BATCH_BYTES", 1 << 18)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1 << 18)

    def go(buckets: int) -> Extracted:
        extract_to(extracted.dump, RULES, tmp_path / "runs", NO_LIMITS, buckets, lambda *_: None)
        return Extracted(extracted.dump, tmp_path / "runs")

    return go


@pytest.mark.parametrize("buckets, merged", [(1, False), (100, False), (BUCKETS, True)])
def test_a_bucket_reads_few_batches(extracted, extract_in_runs, monkeypatch, buckets, merged):
    in_runs, read = extract_in_runs(buckets), []
    layout = in_runs.read_layout()
    assert layout.runs == 1 if merged else layout.runs > 20
    assert layout.ranges == min(buckets, run._MAX_RANGES)
    monkeypatch.setattr(Extracted, "read_batches", lambda self, numbers: read.extend(numbers) or [])
    in_runs.parts(size_buckets([in_runs], COMMENTS // buckets)[-1])
    assert len(read) <= 2 * layout.runs


@pytest.mark.parametrize("max_ranges", [100, 8])
def test_rows_are_the_same_in_runs_and_merged(extracted, extract_in_runs, monkeypatch, max_ranges):
    monkeypatch.setattr(run, "_MAX_RANGES", max_ranges)
    monkeypatch.setattr(extracted_module, "_MERGED_BATCH_BYTES", 1 << 17)
    in_runs = extract_in_runs(100)
    assert in_runs.read_layout().ranges > 50
    assert (in_runs.count_rows() == extracted.count_rows()).all()
    for bucket in size_buckets([extracted], 1000):
        found, expected = (pa.Table.from_batches([rows_of(one, bucket)]) for one in (in_runs, extracted))
        assert found.sort_by("line").equals(expected.sort_by("line"))
        for thread in found["thread_hash"].unique()[:3]:  # in the order of the dump
            lines = found.filter(pc.equal(found["thread_hash"], thread))["line"].to_pylist()
            assert len(lines) > 1 and lines == sorted(lines)
    assert sorted(os.listdir(in_runs.folder)) == ["batches.arrow", "layout.json", "rows.npy", "tally.json"]


def test_a_bucket_is_all_that_stays_in_memory(extracted):
    buckets = size_buckets([extracted], BUCKET_COMMENTS)
    before = pa.total_allocated_bytes()
    parts = [extracted.parts(bucket) for bucket in buckets[:200]]
    held = sum(part.batch.nbytes for found in parts for part in found)
    assert pa.total_allocated_bytes() - before < 2 * held + 500_000


@pytest.mark.slow
def test_buckets_have_equal_content_and_every_thread_once(extracted):
    buckets = size_buckets([extracted], BUCKET_COMMENTS)
    assert 0.8 * BUCKETS < len(buckets) <= BUCKETS
    assert buckets[0].low == 0 and buckets[-1].high == extract.HASHES
    assert all(one.high == other.low for one, other in pairwise(buckets))
    rows = [sum(len(part.batch) for part in extracted.parts(bucket)) for bucket in buckets]
    assert sum(rows) == COMMENTS
    assert max(rows) <= BUCKET_COMMENTS + extracted.count_rows().max()


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
