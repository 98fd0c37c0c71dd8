"""Records are found by what people call them, survive what may happen to them, and hold no secret."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sage_dialog.lineage.content import Digests, content_of, of_files, state_of
from sage_dialog.lineage.environment import git_of
from sage_dialog.lineage.masking import masked, named, without
from sage_dialog.lineage.records import NoSuchRunError, Process

SECRET = "sk-not-to-be-seen-0123456789"


def test_a_record_comes_back_as_it_was(runs, keep):
    record = keep(1, {"n": (("a",), ("b",))}, contents={"b": "x"})
    assert runs.read(record.run) == record
    assert runs.names() == [record.run]


def test_the_latest_comes_first_and_other_files_are_none(runs, keep):
    for day in (2, 3, 1):
        keep(day)
    (runs.path / "notes.json").write_text("{}")
    (runs.path / ".2026-03-04T12.00.00.000Z.json.partial").write_text("half")
    assert [name[8:10] for name in runs.names()] == ["03", "02", "01"]
    assert runs.read("latest").run == runs.names()[0]


def test_two_runs_of_one_millisecond_do_not_share_a_record(runs, keep):
    keep(1)
    with pytest.raises(FileExistsError):
        keep(1)


def test_a_run_goes_by_a_tag_and_by_a_beginning_of_its_name(runs, keep, make):
    first, second = keep(1), keep(2)
    runs.tag(first.run, "paper")
    assert runs.read("paper").run == first.run
    assert runs.read("2026-03-02").run == second.run
    with pytest.raises(NoSuchRunError, match="may be"):
        runs.read("2026-03")
    runs.tag(second.run, "paper")
    assert runs.tags() == {"paper": second.run}
    assert runs.untag("paper") == second.run
    with pytest.raises(NoSuchRunError, match="no run is called 'paper'; the latest: 2026-03-02"):
        runs.read("paper")
    with pytest.raises(NoSuchRunError, match="no tags"):
        runs.untag("paper")


@pytest.mark.parametrize("name", ["latest", "2026-03", "", "a b", "../x", "x" * 61])
def test_a_name_that_could_be_mistaken_is_refused(runs, keep, name):
    with pytest.raises(ValueError, match="cannot be a run's name"):
        runs.tag(keep(1).run, name)


@pytest.mark.parametrize(("content", "said"), [("", "cut off"), ("{", "no readable"), ('{"run": 1}', "no readable")])
def test_a_record_that_cannot_be_read_is_named_and_passed_over(runs, keep, make, content, said):
    whole = keep(1)
    broken = runs.file(make.name(2))
    broken.write_text(content)
    with pytest.raises(NoSuchRunError, match=said) as refusal:
        runs.read("latest")
    assert str(broken) in str(refusal.value)
    assert [record.run for record in runs.records()] == [whole.run]


def test_a_run_whose_process_is_gone_was_killed(runs, keep):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = {"host": socket.gethostname(), "pid": ended.pid, "born": 1.0}
    alive = Process.here()
    assert keep(1, outcome="running", ended=None, process=here).fate == "killed"
    assert keep(2, outcome="running", ended=None, process=alive).fate == "running"
    reused = alive.model_copy(update={"born": alive.born - 3600})
    assert keep(3, outcome="running", ended=None, process=reused).fate == "killed"
    elsewhere = alive.model_copy(update={"host": "elsewhere"})
    assert keep(4, outcome="running", ended=None, process=elsewhere).fate == "unknown"
    assert keep(5, outcome="failed", process=here).fate == "failed"
    assert [record.run[8:10] for record in runs.under_way()] == ["04", "02"]


def test_secrets_are_masked_wherever_they_stand_and_numbers_named_like_them_are_not():
    tree = {
        "max_tokens": 5, "llm": {"api_key": "abc", "prices": {"m": {"prompt": 1.5}}}, "url": f"http://x/{SECRET}",
        "credentials": {"user": {"name": "n"}}, "list": [SECRET, 1, None], "token": "", "tokens": "many",
    }  # fmt: skip
    shown = masked(tree, {SECRET, "none"})
    assert SECRET not in json.dumps(shown) and '"abc"' not in json.dumps(shown) and '"n"' not in json.dumps(shown)
    assert shown["max_tokens"] == 5 and shown["tokens"] == "many" and shown["list"][1:] == [1, None]
    assert shown["llm"]["api_key"] != masked({"api_key": "abd"})["api_key"]  # a change can be told
    assert masked({"padding": "none"}, {"none"}) == {"padding": "none"}
    assert without(f"401 for {SECRET}", {SECRET}) == "401 for …"


def test_keys_in_any_spelling_digits_and_logins_in_urls_are_masked():
    tree = {
        "clientSecret": "abcdef", "accessKey": "abcdef", "api_keys": ["abcdef"], "db": {"password": 1234567890123},
        "url": "postgres://me:abcdef@host/db", "proxy": ["http://:abcdef@host"],
    }  # fmt: skip
    shown = json.dumps(masked(tree))
    assert "abcdef" not in shown and "1234567890123" not in shown
    plain = {"monkey": "abcdef", "pad_token": 3, "url": "http://host:80/a@b", "use_token": True, "turkey": "x"}
    assert masked(plain) == plain
    assert without("cannot reach redis://me:abcdef@host/0", ()) == "cannot reach redis://…@host/0"
    assert set(named({"a": [{"api_key": "one"}], "token": ["two"], "b": "three"})) == {"one", "two"}


def test_a_record_of_a_later_form_is_read_and_a_broken_one_says_where(runs, keep, make):
    record = keep(1)
    told = json.loads(runs.file(record.run).read_text())
    runs.file(record.run).write_text(json.dumps({**told, "weather": "fine", "process": {**told["process"], "gpu": 1}}))
    assert runs.read(record.run) == record
    del told["packages"]
    runs.file(record.run).write_text(json.dumps(told))
    with pytest.raises(NoSuchRunError, match=r"no readable run record: packages: Field required"):
        runs.read(record.run)


@pytest.mark.parametrize("content", ["[1]", "7", "{"])
def test_a_broken_list_of_tags_is_named(runs, keep, content):
    keep(1)
    (runs.path / "tags.json").write_text(content)
    with pytest.raises(NoSuchRunError, match=r"tags\.json is no list of tags"):
        runs.tags()


def test_a_folder_s_digest_knows_names_and_bytes(tmp_path: Path):
    folder = tmp_path / "policy"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub/b").write_text("2")
    first = content_of(folder)
    assert first.bytes == 2 and state_of(folder) == (2, first.modified_ns)
    assert Digests(tmp_path / "digests.json").content(folder) == first
    (folder / "a").rename(folder / "c")
    renamed = content_of(folder)
    (folder / "c").write_text("3")
    assert len({first.sha256, renamed.sha256, content_of(folder).sha256}) == 3


def test_a_file_is_read_again_only_where_its_size_or_time_is_another(tmp_path: Path, monkeypatch):
    dump = tmp_path / "RC_2012-01"
    dump.write_text("one")
    digests = Digests(tmp_path / "runs/digests.json")
    first = digests.files({"RC_2012-01": dump})
    read = []
    monkeypatch.setattr("sage_dialog.lineage.content._sha256", lambda path, step: read.append(path) or "new")
    assert digests.files({"RC_2012-01": dump}) == first and not read
    assert of_files(first).sha256 == of_files(digests.files({"RC_2012-01": dump})).sha256
    os.utime(dump, ns=(1, 1))
    assert digests.files({"RC_2012-01": dump})["RC_2012-01"].sha256 == "new" and read == [dump]


def test_git_tells_what_differs_from_a_revision(tmp_path: Path):
    def git(*command: str) -> None:
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *command], cwd=tmp_path, check=True)

    assert git_of(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a file").write_text("1")
    git("add", ".")
    git("commit", "-qm", "m")
    clean = git_of(tmp_path)
    assert clean is not None and len(clean.revision) == 40 and clean.changed == ()
    (tmp_path / "a file").write_text("2")
    (tmp_path / "new").write_text("")
    assert git_of(tmp_path).changed == ("a file", "new")
