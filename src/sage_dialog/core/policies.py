"""A policy on disk: the base model, or a LoRA adapter on it, with where it came from beside the weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

CARD = "sage_policy.json"


@dataclass(frozen=True)
class PolicyCard:
    """What `sage_policy.json` says of a policy.

    `base_revision` is the sha256 of the base's weights (a local base) or a hub commit; it ties an adapter
    to the very base it was trained on. `blocks` is true where replies begin with state and action blocks.
    """

    name: str
    kind: str  # "base" or "adapter"
    blocks: bool
    base: str
    base_revision: str
    parent: str | None = None
    parent_revision: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("base", "adapter") or not isinstance(self.blocks, bool):
            raise ValueError(
                f'kind is "base" or "adapter" and blocks is true or false; found {self.kind!r} and {self.blocks!r}'
            )


@dataclass(frozen=True)
class Policy:
    """A policy directory and its card. Opening one reads no weights and imports no torch."""

    path: Path
    card: PolicyCard

    @property
    def name(self) -> str:
        return self.card.name

    @classmethod
    def open(cls, path: Path | str) -> Policy:
        """Raises FileNotFoundError naming the directory when it holds no readable card."""
        path = Path(path)
        try:
            card = PolicyCard(**json.loads((path / CARD).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise FileNotFoundError(
                f"{path} is no policy directory: {CARD} is missing or unreadable ({error})"
            ) from error
        return cls(path, card)

    @classmethod
    def write_card(cls, path: Path | str, card: PolicyCard) -> Policy:
        """Put the card beside weights already written to `path`."""
        path = Path(path)
        (path / CARD).write_text(json.dumps(asdict(card), indent=2) + "\n")
        return cls(path, card)

    def revision(self) -> str:
        """sha256 over the names and bytes of the safetensors files; a base, which may be large, has it in its card."""
        return self.card.base_revision if self.card.kind == "base" else weights_revision(self.path)


@dataclass(frozen=True)
class TrainedPolicy(Policy):
    """A policy that lies in the scratch folder still, with all that its training kept there."""

    run_dir: Path

    def forget(self) -> None:
        """Remove it from the scratch folder; a process killed meanwhile leaves nothing that looks whole."""
        gone = self.run_dir.with_name(f".{self.run_dir.name}.gone")
        self.run_dir.rename(gone)
        shutil.rmtree(gone)
        with contextlib.suppress(OSError):  # another training of the policy is kept beside it
            gone.parent.rmdir()


def weights_revision(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        digest.update(file.name.encode())
        _read_into(digest, file)
    return digest.hexdigest()


def identity(policy: Policy | None) -> dict[str, object] | None:
    """Which policy it is, tokenizer and chat template included; what JSON can write, wherever the policy lies."""
    if policy is None:
        return None
    beside = sorted(path for path in policy.path.rglob("*") if path.is_file() and path.suffix != ".safetensors")
    return {
        "card": asdict(policy.card),
        "weights": policy.revision(),
        "files": {
            str(path.relative_to(policy.path)): _read_into(hashlib.sha256(), path).hexdigest() for path in beside
        },
    }


def _read_into(digest: hashlib._Hash, path: Path) -> hashlib._Hash:
    """Bit by bit: a file may be larger than memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest)


def fresh_folder(scratch: str | Path, name: str) -> Path:
    """An empty folder to train `name` in; the catalog copies from it once the policy is whole."""
    folder = Path(scratch) / "training" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
