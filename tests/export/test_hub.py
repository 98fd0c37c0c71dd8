"""Uploads to a hub: private, to a new or empty repository, with a token that is never shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, running_hub

from sage_dialog.export.hub import check_repository_name, create_repository, hub_token, upload_folder

TOKEN = "hf_secretOfTheUser"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


@pytest.mark.parametrize("public", [False, True])
def test_a_repository_is_new_or_empty_and_as_public_as_asked(hub: FakeHub, public: bool) -> None:
    create_repository("someone/new", TOKEN, public)
    assert hub.repositories["someone/new"]["private"] is not public
    create_repository("someone/new", TOKEN, public)  # of an export that failed later
    hub.repositories["someone/new"]["files"]["adapter_config.json"] = b"{}"
    with pytest.raises(ValueError, match="has 1 files already, such as adapter_config"):
        create_repository("someone/new", TOKEN, public)
    hub.repositories["someone/other"] = {"private": public, "files": {}}
    with pytest.raises(ValueError, match="leave out --public" if public else "anyone may read it; give --public"):
        create_repository("someone/other", TOKEN, public)


def test_a_refusal_or_a_hub_that_is_not_there_is_one_line_without_the_token(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.refuse = ("/create", f"You have no rights here\n\x1b]0;{TOKEN}\x07")
    with pytest.raises(OSError, match=r"someone/new on the hub: .*You have no rights here") as refused:
        create_repository("someone/new", TOKEN, public=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(OSError, match="someone/new on the hub: ") as unreachable:
        create_repository("someone/new", TOKEN, public=False)
    for error in (refused, unreachable):
        assert TOKEN not in str(error.value) and "\x1b" not in str(error.value) and "\n" not in str(error.value)
        assert error.value.__cause__ is None and error.value.__suppress_context__


def test_a_folder_is_uploaded_as_one_commit_or_an_error_of_one_line(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    create_repository("someone/new", TOKEN, public=False)
    assert upload_folder(tmp_path, "someone/new", TOKEN, "sage_dpo").startswith(f"{hub.url}/someone/new/commit/")
    repository = hub.repositories["someone/new"]
    assert repository["files"] == {".gitattributes": b"", "a.safetensors": b"weights"}
    assert repository["message"] == "sage_dpo" and set(hub.tokens) == {f"Bearer {TOKEN}"}
    hub.refuse = ("/commit/", f"Storage limit\x1b[2J {TOKEN}")
    with pytest.raises(OSError, match="Storage limit") as error:
        upload_folder(tmp_path, "someone/new", TOKEN, "sage_dpo")
    assert TOKEN not in str(error.value) and "\x1b" not in str(error.value)


HOSTILE = ["sage", "/sage", "a/b/c", "../sage", "a/..", "-x/sage", "a/sage.git", "a b/c", "a/\x1b[2J", "https://x/y"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(ValueError) as error:
        check_repository_name(name)
    assert "\x1b" not in str(error.value)


def test_the_token_is_that_of_the_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    assert hub_token() == TOKEN
    monkeypatch.setenv("HF_TOKEN", "hf_one\nhf_two")
    with pytest.raises(ValueError, match="HF_TOKEN has spaces or characters that no token has") as error:
        hub_token()
    assert "hf_one" not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="HF_TOKEN is not set"):
        hub_token()
