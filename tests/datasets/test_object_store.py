"""Tables and raw data on an object store: an S3 server of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from kedro.io import Version

from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.raw_folder import RawFolder

moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")

KEYS = {"key": "key", "secret": "secret"}
FIRST, SECOND = "2026-11-20T10.00.00.000Z", "2026-11-20T11.00.00.000Z"


@pytest.fixture
def credentials() -> Iterator[dict[str, Any]]:
    """Start a server with the bucket `bucket`; return the credentials of catalog entries for it."""
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = {"client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    try:
        s3fs.S3FileSystem(**KEYS, **endpoint, skip_instance_cache=True).makedirs("bucket", exist_ok=True)
        yield KEYS | endpoint
    finally:
        server.stop()


def test_versions_of_a_table_are_kept(credentials: dict[str, Any]) -> None:
    def table(load: str | None = None, save: str | None = None) -> AtomicParquet:
        return AtomicParquet(
            filepath="s3://bucket/tables/n.parquet", version=Version(load, save), credentials=credentials
        )

    assert not table().exists()
    for n, version in enumerate((FIRST, SECOND), 1):
        table(save=version).save(pd.DataFrame({"n": [n]}))
    assert table().exists()
    assert table().load()["n"].tolist() == [2]
    assert table(load=FIRST).load()["n"].tolist() == [1]


def test_raw_files_are_streamed(credentials: dict[str, Any]) -> None:
    with s3fs.S3FileSystem(**credentials).open("bucket/reddit/RC_2015-01", "wb") as file:
        file.write(b"one\ntwo\n")
    folder = RawFolder(filepath="s3://bucket/reddit", patterns=["RC_*"], made_by="kedro run", credentials=credentials)
    (path,) = folder.load().values()
    with path.open("rb") as file:
        assert file.read() == b"one\ntwo\n"
