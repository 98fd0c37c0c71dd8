"""Run records are found by id, tag or beginning, survive broken files, and hold no secrets."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_records import output_record, run_name

from sage_dialog.lineage.content import DigestCache, content_of, of_files, state_of
from sage_dialog.lineage.environment import git_state, hardware, installed_extras
from sage_dialog.lineage.masking import mask_secrets, redact, secrets_in
from sage_dialog.lineage.records import Hardware, Process
from sage_dialog.lineage.run_folder import NoSuchRunError

SECRET = "sk-not-to-be-seen-0123456789"


def test_a_record_is_loaded_as_it_was_saved(runs, keep):
    record = keep(1, {"n": (("a",), ("b",))}, contents={"b": "x"})
    assert runs.load(record.run) == record
    assert runs.names() == [record.run]


def test_a_running_record_grows_by_lines_and_a_cut_line_does_not_count(runs, keep):
    nodes = {"n": (("a",), ("b", "c"))}
    record = keep(1, nodes, outcome="running", ended=None)
    begun = runs.file(record.run).read_bytes()
    written = output_record(record.run, "x")
    runs.append(record.run, writes={"b": written}, nodes={"n": {"started": "1"}})
    runs.append(record.run, nodes={"n": {"ended": "2"}}, hardware={"threads": 4, "device": "d"})
    with runs.lines_file(record.run).open("a") as file:
        file.write('{"writes":{"c":{"version":"v","no')
    found = runs.load(record.run)
    assert found.writes == {"b": written} and found.hardware == Hardware(threads=4, device="d")
    assert found.nodes["n"] == record.nodes["n"].model_copy(update={"started": "1", "ended": "2"})
    assert runs.file(record.run).read_bytes() == begun, "it is not rewritten with every output"
    ended = found.model_copy(update={"outcome": "done"})
    runs.save(ended)
    assert runs.load(record.run) == ended and not runs.lines_file(record.run).exists()


def test_a_name_with_another_line_separator_is_part_of_its_line(runs, keep):
    record = keep(1, {"n": (("a",), ("b\u2028\x85",))}, outcome="running", ended=None)
    written = output_record(record.run, "x")
    runs.append(record.run, writes={"b\u2028\x85": written})
    assert runs.load(record.run).writes == {"b\u2028\x85": written}


def test_lines_left_by_a_kill_after_the_end_do_not_count(runs, keep):
    record = keep(1, {"n": ((), ("b",))})
    runs.append(record.run, writes={"b": output_record(record.run, "x")})
    assert runs.load(record.run) == record


def test_records_share_the_digests_of_equal_code(runs, keep):
    code = {f"pack.module:definition_{number}": "0123456789abcdef" for number in range(1000)}
    first, second, third = keep(1, code=code), keep(2, code=code), keep(3, code=code | {"pack:more": "1"})
    assert len(list((runs.path / "code").glob("*.json"))) == 2
    assert runs.file(first.run).stat().st_size < 2000
    assert [runs.load(record.run) for record in (first, second, third)] == [first, second, third]
    runs.code_file(runs.code_name(third.run)).unlink()
    assert runs.load(third.run).code == {} and runs.load(third.run).nodes == third.nodes, "still readable"


def test_a_record_of_the_earlier_form_is_read(runs, keep):
    record = keep(1, {"n": (("a",), ("b",))}, contents={"b": "x"}, code={"pack:n": "1"})
    fields = record.model_dump(mode="json")
    for later in ("format", "extras", "conf_source", "hardware"):
        del fields[later]
    del fields["nodes"]["n"]["arguments"]
    runs.file(record.run).write_text(json.dumps(fields, indent=1))
    assert runs.load(record.run) == record and record.format == 1


def test_the_hardware_is_that_of_torch_where_it_was_imported(monkeypatch):
    torch = SimpleNamespace(get_num_threads=lambda: 3, cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", torch)
    found = hardware()
    assert found.threads == 3 and found.device and found.driver is None
    torch.cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
    monkeypatch.setattr("sage_dialog.lineage.environment._gpus", lambda: (["NVIDIA H100"] * 2, "580.1"))
    assert hardware() == Hardware(threads=3, device="2 x NVIDIA H100", driver="580.1")
    monkeypatch.delitem(sys.modules, "torch")
    assert hardware() is None


def test_installed_extras_are_those_with_every_package(monkeypatch):
    lines = ["click>=8", 'click ; extra == "have"', "no-such-package>=1 ; extra == 'lack'", 'click; extra == "lack"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    assert installed_extras.__wrapped__("any") == ("have",)


def test_runs_are_listed_latest_first_without_other_files(runs, keep):
    for day in (2, 3, 1):
        keep(day)
    (runs.path / "notes.json").write_text("{}")
    (runs.path / ".2026-03-04T12.00.00.000Z.json.partial").write_text("half")
    assert [name[8:10] for name in runs.names()] == ["03", "02", "01"]
    assert runs.load("latest").run == runs.names()[0]


def test_two_runs_of_one_millisecond_do_not_share_a_record(runs, keep):
    keep(1)
    with pytest.raises(FileExistsError):
        keep(1)


def test_a_run_is_found_by_a_tag_or_a_beginning_of_its_id(runs, keep):
    first, second = keep(1), keep(2)
    runs.tag(first.run, "paper")
    assert runs.load("paper").run == first.run
    assert runs.load("2026-03-02").run == second.run
    with pytest.raises(NoSuchRunError, match="ambiguous"):
        runs.load("2026-03")
    runs.tag(second.run, "paper")
    assert runs.tags() == {"paper": second.run}
    assert runs.untag("paper") == second.run
    with pytest.raises(NoSuchRunError, match=r"No run is called 'paper'\. The latest runs: 2026-03-02"):
        runs.load("paper")
    with pytest.raises(NoSuchRunError, match="no tags"):
        runs.untag("paper")


@pytest.mark.parametrize("name", ["latest", "2026-03", "", "a b", "../x", "x" * 61])
def test_an_ambiguous_tag_is_refused(runs, keep, name):
    with pytest.raises(ValueError, match="cannot be a tag"):
        runs.tag(keep(1).run, name)


@pytest.mark.parametrize(
    ("content", "message"), [("", "it is empty"), ("{", "not a readable"), ('{"run": 1}', "not a readable")]
)
def test_an_unreadable_record_is_named_and_skipped(runs, keep, content, message):
    whole = keep(1)
    broken = runs.file(run_name(2))
    broken.write_text(content)
    with pytest.raises(NoSuchRunError, match=message) as refusal:
        runs.load("latest")
    assert str(broken) in str(refusal.value)
    assert [record.run for record in filter(None, map(runs.find, runs.names()))] == [whole.run]


def test_a_run_whose_process_is_gone_was_killed(runs, keep):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = {"host": socket.gethostname(), "pid": ended.pid, "born": 1.0}
    alive = Process.here()
    assert keep(1, outcome="running", ended=None, process=here).status == "killed"
    assert keep(2, outcome="running", ended=None, process=alive).status == "running"
    reused = alive.model_copy(update={"born": alive.born - 3600})
    assert keep(3, outcome="running", ended=None, process=reused).status == "killed"
    elsewhere = alive.model_copy(update={"host": "elsewhere"})
    assert keep(4, outcome="running", ended=None, process=elsewhere).status == "unknown"
    assert keep(5, outcome="failed", process=here).status == "failed"
    assert [record.run[8:10] for record in runs.running()] == ["04", "02"]


def test_secrets_are_masked_everywhere_and_numbers_with_similar_names_are_not():
    tree = {
        "max_tokens": 5, "llm": {"api_key": "abc", "prices": {"m": {"prompt": 1.5}}}, "url": f"http://x/{SECRET}",
        "credentials": {"user": {"name": "n"}}, "list": [SECRET, 1, None], "token": "", "tokens": "many",
    }  # fmt: skip
    masked = mask_secrets(tree, {SECRET, "none"})
    assert SECRET not in json.dumps(masked) and '"abc"' not in json.dumps(masked) and '"n"' not in json.dumps(masked)
    assert masked["max_tokens"] == 5 and masked["tokens"] == "many" and masked["list"][1:] == [1, None]
    assert masked["llm"]["api_key"] != mask_secrets({"api_key": "abd"})["api_key"]  # a change is visible
    assert mask_secrets({"padding": "none"}, {"none"}) == {"padding": "none"}
    assert redact(f"401 for {SECRET}", {SECRET}) == "401 for …"


def test_keys_in_any_spelling_digits_and_logins_in_urls_are_masked():
    tree = {
        "clientSecret": "abcdef", "accessKey": "abcdef", "api_keys": ["abcdef"], "db": {"password": 1234567890123},
        "url": "postgres://me:abcdef@host/db", "proxy": ["http://:abcdef@host"],
    }  # fmt: skip
    masked = json.dumps(mask_secrets(tree))
    assert "abcdef" not in masked and "1234567890123" not in masked
    plain = {"monkey": "abcdef", "pad_token": 3, "url": "http://host:80/a@b", "use_token": True, "turkey": "x"}
    assert mask_secrets(plain) == plain
    assert redact("cannot reach redis://me:abcdef@host/0", ()) == "cannot reach redis://…@host/0"
    assert set(secrets_in({"a": [{"api_key": "one"}], "token": ["two"], "b": "three"})) == {"one", "two"}


def test_a_record_of_a_later_format_is_read_and_a_broken_one_names_the_field(runs, keep):
    record = keep(1)
    stored = json.loads(runs.file(record.run).read_text())
    runs.file(record.run).write_text(
        json.dumps({**stored, "weather": "fine", "process": {**stored["process"], "gpu": 1}})
    )
    assert runs.load(record.run) == record
    del stored["packages"]
    runs.file(record.run).write_text(json.dumps(stored))
    with pytest.raises(NoSuchRunError, match=r"not a readable run record: packages: Field required"):
        runs.load(record.run)


@pytest.mark.parametrize("content", ["[1]", "7", "{"])
def test_a_broken_tags_file_is_named(runs, keep, content):
    keep(1)
    (runs.path / "tags.json").write_text(content)
    with pytest.raises(NoSuchRunError, match=r"tags\.json is not a table of tags"):
        runs.tags()


def test_the_digest_of_a_folder_covers_names_and_bytes(tmp_path: Path):
    folder = tmp_path / "policy"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub/b").write_text("2")
    first = content_of(folder)
    assert first.bytes == 2 and state_of(folder) == (2, first.modified_ns)
    assert DigestCache(tmp_path / "digests.json").content(folder) == first
    (folder / "a").rename(folder / "c")
    renamed = content_of(folder)
    (folder / "c").write_text("3")
    assert len({first.sha256, renamed.sha256, content_of(folder).sha256}) == 3


def test_a_file_is_read_again_only_after_a_change_of_size_or_time(tmp_path: Path, monkeypatch):
    dump = tmp_path / "RC_2012-01"
    dump.write_text("one")
    digests = DigestCache(tmp_path / "runs/digests.json")
    first = digests.files({"RC_2012-01": dump})
    read = []
    monkeypatch.setattr("sage_dialog.lineage.content._sha256", lambda path, step=None: read.append(path) or "new")
    assert digests.files({"RC_2012-01": dump}) == first and not read
    assert of_files(first).sha256 == of_files(digests.files({"RC_2012-01": dump})).sha256
    os.utime(dump, ns=(1, 1))
    assert digests.files({"RC_2012-01": dump})["RC_2012-01"].sha256 == "new" and read == [dump]


def test_git_state_lists_changed_files(tmp_path: Path):
    def git(*command: str) -> None:
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *command], cwd=tmp_path, check=True)

    assert git_state(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a file").write_text("1")
    git("add", ".")
    git("commit", "-qm", "m")
    clean = git_state(tmp_path)
    assert clean is not None and len(clean.revision) == 40 and clean.changed == ()
    (tmp_path / "a file").write_text("2")
    (tmp_path / "new").write_text("")
    assert git_state(tmp_path).changed == ("a file", "new")
