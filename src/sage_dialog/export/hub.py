"""Upload of an exported folder to a repository of the Hugging Face hub, private unless asked otherwise."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from sage_dialog.lineage.formatting import printable
from sage_dialog.lineage.masking import redact

TOKEN = "HF_TOKEN"
"""The environment variable of the token; one that `hf auth login` has stored is not used."""

_CREATED_BY_HUB = {".gitattributes"}


def hub_token() -> str:
    """Return the token of the environment.

    Raises:
        ValueError: if there is none, or it cannot be one; without its characters.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ValueError(f"{TOKEN} is not set; set it to a token of yours that may write (the hub's settings, tokens)")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError(f"{TOKEN} has spaces or characters that no token has; copy it again")
    return token


def check_repository_name(repository: str) -> None:
    """Raise ValueError if a name is not OWNER/NAME as the hub takes it."""
    try:
        for part in (*repository.split("/"), repository):
            validate_repo_id(part)
    except HFValidationError as error:
        raise ValueError(f"--upload: {printable(str(error))}") from None
    if "/" not in repository:
        raise ValueError(f"--upload: {repository} is not OWNER/NAME")


def create_repository(repository: str, token: str, public: bool) -> None:
    """Create a repository for an upload, or check that an existing one is empty and as public as asked.

    Raises:
        ValueError: if it has files, or is public where it should be private, or the reverse.
        OSError: if the hub cannot be reached or refuses; with its message.
    """
    with _hub_errors(repository, token):
        hub = HfApi(token=token)
        hub.create_repo(repository, private=not public, exist_ok=True)
        info = hub.model_info(repository)
    if info.private and public:
        raise ValueError(f"{repository} exists on the hub and is private; leave out --public, or give a new name")
    if not info.private and not public:
        raise ValueError(f"{repository} exists on the hub and anyone may read it; give --public, or a new name")
    files = {file.rfilename for file in info.siblings or ()} - _CREATED_BY_HUB
    if files:
        raise ValueError(
            f"{repository} on the hub has {len(files)} files already, such as {printable(min(files))}; give a new name"
        )


def upload_folder(folder: Path, repository: str, token: str, message: str) -> str:
    """Upload a folder as one commit, and return the commit's address.

    Raises:
        OSError: if the hub cannot be reached or refuses; with its message.
    """
    with _hub_errors(repository, token):
        hub = HfApi(token=token)
        commit = hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(commit.commit_url)


@contextmanager
def _hub_errors(repository: str, token: str) -> Iterator[None]:
    """Turn errors of the hub and the network into an OSError of one line without the token."""
    try:
        yield
    except (HfHubHTTPError, HTTPError, OSError) as error:
        reason = printable(redact(" ".join(str(error).split()), [token]))
        raise OSError(f"{repository} on the hub: {reason or type(error).__name__}") from None
