"""Raw data on any file system that fsspec supports; credentials never appear in messages."""

import json
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from operator import methodcaller
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem
from kedro.io import DataCatalog, DatasetError

from sage_dialog.corpora.compression import read_lines
from sage_dialog.corpora.conversations import read_conversations
from sage_dialog.corpora.empathetic import COLUMNS, read_situations
from sage_dialog.datasets.raw_folder import RawFolder

LINES = [json.dumps({"id": f"c{number}"}).encode() + b"\n" for number in range(1_000)]
DUMP = zstandard.ZstdCompressor().compress(b"".join(LINES))
SECRET = "not-to-be-seen"


class Locked(MemoryFileSystem):  # type: ignore[misc]
    """A file system whose errors contain its secret."""

    protocol = "locked"
    cachable = False

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        raise PermissionError(f"key {self.storage_options['key']} may not list {path}")


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server that lists `tmp_path`, as plain web servers do."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def folder(filepath: str, patterns: tuple[str, ...] = ("RC_*", "RS_*"), **options: Any) -> RawFolder:
    return RawFolder(filepath=filepath, patterns=list(patterns), made_by="kedro run --pipelines microworld", **options)


def put(memory: MemoryFileSystem, **files: bytes) -> None:
    for name, content in files.items():
        memory.pipe_file(f"/bucket/reddit/{name.replace('__', '-')}.zst", content)


def test_files_of_another_file_system_are_given_by_name(memory: MemoryFileSystem) -> None:
    put(memory, RS_2015__01=DUMP, RC_2015__02=DUMP, RC_2015__01=DUMP, notes=b"", RC_deeper=DUMP)
    memory.pipe_file("/bucket/reddit/old/RC_2015-03.zst", DUMP)
    memory.pipe_file("/bucket/reddit/.RC_hidden", DUMP)
    files = folder("memory://bucket/reddit").load()
    assert list(files) == ["RC_2015-01.zst", "RC_2015-02.zst", "RC_deeper.zst", "RS_2015-01.zst"]
    path = files["RC_2015-01.zst"]
    assert (path.name, path.suffix, str(path)) == ("RC_2015-01.zst", ".zst", "memory://bucket/reddit/RC_2015-01.zst")
    assert list(read_lines(path)) == LINES


def test_a_new_file_is_found(memory: MemoryFileSystem) -> None:
    put(memory, RC_2015__01=DUMP)
    dataset = folder("memory://bucket/reddit")
    assert not dataset.exists()
    put(memory, RS_2015__01=DUMP)
    assert dataset.exists()


def test_missing_files_elsewhere_are_named_without_a_command_that_cannot_make_them(memory: MemoryFileSystem) -> None:
    put(memory, RC_2015__01=DUMP)
    dataset = folder("memory://bucket/reddit")
    message = (
        "there is no RS_* in memory://bucket/reddit. Put it there, or do without it ('Without some of the files' in "
        "docs/tutorial.md)."
    )
    assert dataset.explain_missing() == message
    with pytest.raises(DatasetError) as refusal:
        dataset.load()
    assert str(refusal.value) == message
    assert (
        folder("memory://nowhere").explain_missing()
        == "there is no RC_* and no RS_* in memory://nowhere. Put your data there."
    )


def test_nothing_is_saved_elsewhere(memory: MemoryFileSystem) -> None:
    with pytest.raises(DatasetError, match="memory://bucket/reddit is no local folder"):
        folder("memory://bucket/reddit").save({"RC_2015-01.zst": DUMP})
    assert memory.find("/") == []


@pytest.mark.parametrize("address", ["{}", "file://{}"])
def test_local_files_are_ordinary_paths(tmp_path: Path, address: str) -> None:
    dataset = folder(address.format(tmp_path / "reddit"))
    dataset.save({"RC_2015-01.zst": DUMP, "RS_2015-01.zst": DUMP})
    files = dataset.load()
    assert list(files.values()) == [tmp_path / "reddit" / name for name in ("RC_2015-01.zst", "RS_2015-01.zst")]
    assert all(type(path) is type(tmp_path) for path in files.values())


def test_files_are_read_from_a_web_server_that_lists_them(tmp_path: Path, web: str) -> None:
    (tmp_path / "reddit").mkdir()
    for name in ("RC_2015-01.zst", "RS_2015-01.zst", "index of what"):
        (tmp_path / "reddit" / name).write_bytes(DUMP)
    files = folder(f"{web}/reddit").load()
    assert list(files) == ["RC_2015-01.zst", "RS_2015-01.zst"]
    assert list(read_lines(files["RC_2015-01.zst"])) == LINES
    assert (
        folder(f"{web}/nowhere").explain_missing()
        == f"there is no RC_* and no RS_* in {web}/nowhere. Put your data there."
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_paths_are_opened_in_other_processes(tmp_path: Path, web: str, method: str) -> None:
    for name in ("RC_2015-01.zst", "RS_2015-01.zst"):
        (tmp_path / name).write_bytes(DUMP)
    paths = list(folder(web).load().values())
    assert [path.read_bytes() for path in paths] == [DUMP] * 2  # this process has connections open
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert list(pool.map(methodcaller("read_bytes"), paths)) == [DUMP] * 2


def test_a_pickled_path_keeps_what_it_is_opened_with() -> None:
    path = folder("s3://bucket/reddit", credentials={"key": "k", "secret": SECRET}, fs_args={"anon": False}).folder
    unpickled = pickle.loads(pickle.dumps(path / "RC_2015-01.zst"))
    assert str(unpickled) == "s3://bucket/reddit/RC_2015-01.zst"
    assert unpickled.storage_options == {"key": "k", "secret": SECRET, "anon": False}


@pytest.mark.filterwarnings("ignore:UPath 'locked' filesystem not explicitly implemented")
def test_credentials_come_from_their_own_file_and_appear_nowhere() -> None:
    fsspec.register_implementation("locked", Locked, clobber=True)
    entry = {
        "type": "sage_dialog.datasets.raw_folder.RawFolder",
        "filepath": "locked://bucket/reddit",
        "patterns": ["RC_*"],
        "made_by": "nobody",
        "credentials": "vault",
        "fs_args": {"client": "of ours"},
    }
    catalog = DataCatalog.from_config(
        {"dumps": entry}, credentials={"vault": {"key": SECRET, "more": {"k": "2nd one"}}}
    )
    dataset = catalog.get("dumps")
    assert isinstance(dataset, RawFolder)
    assert dataset.folder.storage_options == {"client": "of ours", "key": SECRET, "more": {"k": "2nd one"}}  # type: ignore[attr-defined]
    assert not dataset.exists()
    with pytest.raises(DatasetError) as refusal:
        dataset.load()
    chain: list[BaseException | None] = [refusal.value, refusal.value.__cause__]
    texts = [str(dataset), repr(dataset), dataset.explain_missing(), repr(dataset.folder), *map(str, chain)]
    assert "locked://bucket/reddit cannot be listed: PermissionError: key … may not list" in str(refusal.value)
    assert not any(SECRET in text or "2nd one" in text for text in texts)


def test_a_password_in_a_filepath_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"credentials\.yml") as refusal:
        folder(f"ftp://me:{SECRET}@host/reddit")
    assert SECRET not in str(refusal.value)


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(DatasetError, match="open_args_load"):
        folder("s3://bucket/reddit", fs_args={"open_args_load": {"block_size": 1}})


def test_every_reader_of_raw_files_reads_them_from_anywhere(memory: MemoryFileSystem) -> None:
    row = "hit:0_conv:0,1,sad,I lost my dog.,3,Oh.,5|5|5_5|5|5,"
    memory.pipe_file(
        "/raw/train.csv.zst", zstandard.ZstdCompressor().compress(f"{','.join(COLUMNS)}\n{row}\n".encode())
    )
    memory.pipe_file("/raw/talk.json", json.dumps([{"messages": [{"role": "user", "content": "Hi"}]}]).encode())
    memory.pipe_file("/raw/talk.jsonl", b'{"messages": []}\n')
    situations, _ = read_situations(folder("memory://raw", ("*.csv*",)).load())
    assert [situation.text for situation in situations] == ["I lost my dog."]
    _, rejects = read_conversations(folder("memory://raw", ("*.json", "*.jsonl")).load())
    assert [record.where for record in rejects] == ["talk.json[0]", "talk.jsonl:1"]


def test_either_of_two_patterns_is_enough(tmp_path: Path) -> None:
    dataset = folder(str(tmp_path), ("*.json*|*.parquet",))
    assert "there is no *.json* or *.parquet in" in dataset.explain_missing()
    for name in ("talk.parquet", "notes.txt", "talk.jsonl"):
        (tmp_path / name).write_bytes(b"data")
        assert dataset.exists()
    assert list(dataset.load()) == ["talk.jsonl", "talk.parquet"]


@pytest.mark.parametrize("name", ["all.tar", "all.tar.gz", "all.tgz"])
def test_an_archive_replaces_the_files_it_may_hold(tmp_path: Path, name: str) -> None:
    dataset = folder(str(tmp_path), ("train.csv*", "test.csv*"), archives=["*.tar", "*.tar.*", "*.tgz"])
    (tmp_path / "train.csv").write_bytes(b"data")
    assert "there is no test.csv* in" in dataset.explain_missing()
    assert "and no archive (*.tar or *.tar.* or *.tgz)" in dataset.explain_missing()
    assert not dataset.exists()
    (tmp_path / name).write_bytes(b"data")
    assert list(dataset.load()) == sorted([name, "train.csv"])


def test_an_optional_folder_may_be_empty_or_missing(tmp_path: Path) -> None:
    folder = {"filepath": str(tmp_path / "benchmarks"), "patterns": ["*.jsonl|*.yml"], "made_by": "kedro run"}
    optional = RawFolder(**folder, optional=True)
    assert optional.exists() and optional.load() == {}
    assert not RawFolder(**folder).exists()
    optional.save({"quiz.jsonl": b"{}"})
    assert list(optional.load()) == ["quiz.jsonl"]
    with pytest.raises(DatasetError, match="do not match"):
        optional.save({"quiz.csv": b""})


def test_what_is_named_like_data_and_is_no_file_with_data_is_refused(tmp_path: Path) -> None:
    reddit = tmp_path / "reddit"
    dataset = folder(str(reddit))
    dataset.save({"RC_2015-01.zst": DUMP, "RS_2015-01.zst": DUMP})
    (reddit / "old").mkdir()
    (reddit / ".RC_hidden").mkdir()
    assert dataset.exists()
    (reddit / "RC_2015-02.zst").symlink_to("/no/disk/RC_2015-02.zst")
    (reddit / "RC_2015-03").mkdir()
    (reddit / "RS_2015-02").touch()
    message = (
        f"in {reddit}, RC_2015-02.zst is a link to /no/disk/RC_2015-02.zst, which does not exist; RC_2015-03 is a "
        "folder; RS_2015-02 is empty. Mend or remove what is no file with data."
    )
    assert not dataset.exists()
    assert dataset.explain_missing() == message
    with pytest.raises(DatasetError, match="is a folder"):
        dataset.load()


def test_what_is_no_file_with_data_is_refused_elsewhere_too(memory: MemoryFileSystem) -> None:
    put(memory, RC_2015__01=DUMP, RS_2015__01=DUMP, RS_2015__02=b"")
    memory.pipe_file("/bucket/reddit/RC_2015-02/RC_2015-02.zst", DUMP)
    refused = "in memory://bucket/reddit, RC_2015-02 is a folder; RS_2015-02.zst is empty. "
    assert (folder("memory://bucket/reddit").explain_missing() or "").startswith(refused)


@pytest.mark.parametrize("optional", [True, False])
def test_a_folder_that_is_a_dangling_link_is_named(tmp_path: Path, optional: bool) -> None:
    (tmp_path / "reddit").symlink_to(tmp_path / "unmounted")
    message = f"{tmp_path}/reddit is a link to {tmp_path}/unmounted, which does not exist."
    assert folder(str(tmp_path / "reddit"), optional=optional).explain_missing() == message
