"""A policy on disk: a base model or an adapter on it, and a card that says where it comes from."""

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
    """The content of `sage_policy.json`.

    Attributes:
        kind: "base" or "adapter".
        blocks: whether replies begin with state and action blocks.
        base_revision: sha256 of the weights of the base that an adapter was trained on, or its commit on a hub.
        parent: the policy whose training was continued.
        origin: where a base of another maker comes from: package and version, file and sha256.
        licence: its licence, as its maker states it.
    """

    name: str
    kind: str
    blocks: bool
    base: str
    base_revision: str
    parent: str | None = None
    parent_revision: str | None = None
    origin: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("base", "adapter") or not isinstance(self.blocks, bool):
            raise ValueError(
                f'kind is "base" or "adapter" and blocks is true or false; found {self.kind!r} and {self.blocks!r}'
            )

    def as_dict(self) -> dict[str, object]:
        """Return the fields as JSON values; origin and licence only where they are known."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None or name not in ("origin", "licence")
        }


@dataclass(frozen=True)
class Policy:
    """A policy directory and its card. Opening it reads no weights and imports no torch."""

    path: Path
    card: PolicyCard

    @property
    def name(self) -> str:
        return self.card.name

    @classmethod
    def open(cls, path: Path | str) -> Policy:
        """Return the policy in a directory.

        Raises:
            FileNotFoundError: naming the directory, if it holds no readable card.
        """
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
        """Write the card beside the weights in `path` and return the policy."""
        path = Path(path)
        (path / CARD).write_text(json.dumps(card.as_dict(), indent=2) + "\n")
        return cls(path, card)

    @property
    def has_full_weights(self) -> bool:
        """Whether an adapter replaces every weight of its base (`sft.lora: null`)."""
        config = self.path / "adapter_config.json"
        return config.exists() and bool(json.loads(config.read_text()).get("modules_to_save"))

    def revision(self) -> str:
        """Return the sha256 over the names and bytes of the safetensors files; that of a base is in its card."""
        return self.card.base_revision if self.card.kind == "base" else weights_revision(self.path)


@dataclass(frozen=True)
class TrainedPolicy(Policy):
    """A policy that is still in the scratch folder, in the run directory of its training."""

    run_dir: Path

    def forget(self) -> None:
        """Remove the run directory; a process killed meanwhile leaves none that looks complete."""
        removed = self.run_dir.with_name(f".{self.run_dir.name}.gone")
        self.run_dir.rename(removed)
        shutil.rmtree(removed)
        with contextlib.suppress(OSError):  # the folder may hold another training of the policy
            removed.parent.rmdir()


def weights_revision(path: Path) -> str:
    """Return the sha256 over the names and bytes of the safetensors files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        digest.update(file.name.encode())
        _read_into(digest, file)
    return digest.hexdigest()


def identity(policy: Policy | None) -> dict[str, object] | None:
    """Return what identifies a policy wherever it is: card, weights, tokenizer and chat template, as JSON values."""
    if policy is None:
        return None
    others = sorted(path for path in policy.path.rglob("*") if path.is_file() and path.suffix != ".safetensors")
    return {
        "card": policy.card.as_dict(),
        "weights": policy.revision(),
        "files": {
            str(path.relative_to(policy.path)): _read_into(hashlib.sha256(), path).hexdigest() for path in others
        },
    }


def _read_into(digest: hashlib._Hash, path: Path) -> hashlib._Hash:
    """Add the bytes of a file, which may be larger than memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest)


def fresh_folder(scratch: str | Path, name: str) -> Path:
    """Return an empty folder to train `name` in; the catalog copies the complete policy from it."""
    folder = Path(scratch) / "training" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
