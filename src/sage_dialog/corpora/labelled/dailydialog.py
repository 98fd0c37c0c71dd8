"""DailyDialog: everyday conversations with dialogue act, emotion and topic by people (Li et al. 2017).

Two forms are read. As published: `dialogues_train.txt`, `dialogues_act_train.txt` and `dialogues_emotion_train.txt`,
one dialogue on each line, utterances ended by `__eou__`; plain, or in `train.zip`, `validation.zip`, `test.zip`, or in
`ijcnlp_dailydialog.zip`, which holds those. The topics of `dialogues_topic.txt` belong to the lines of
`dialogues_text.txt`, in another order: a dialogue finds its topic by its text. And JSON lines with `split`, `utts`,
`acts`, `emotions` and `topic`.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path, PurePosixPath
from typing import Any

from sage_dialog.corpora.compression import DamagedFileError, read_lines
from sage_dialog.corpora.labelled.records import (
    Label,
    LabelledDialogue,
    Rejects,
    json_records,
    message,
    named,
    split_of,
)
from sage_dialog.corpora.rejects import InputDataError, Reject
from sage_dialog.dialogue import Dialogue

_END = "__eou__"
_TEXTS = {"dialogues_train": "train", "dialogues_validation": "valid", "dialogues_test": "test"}


def read_dailydialog(files: Mapping[str, Path], rejects: Rejects) -> Iterator[LabelledDialogue]:
    """Yield the dialogues of all splits. Their speakers alternate; the first is the user."""
    for name, path in named(files, ".jsonl").items():
        numbers: dict[str, int] = {}
        for where, record in json_records(name, path, rejects):
            split = split_of(str(record.get("split"))) or "train"
            number = numbers[split] = numbers.get(split, -1) + 1
            utterances, topic = record.get("utts"), record.get("topic")
            if not isinstance(utterances, list):
                rejects.dialogues.append(Reject(where, "no list named utts"))
                continue
            found = {name: record.get(column) for name, column in (("act", "acts"), ("emotion", "emotions"))}
            topic = None if record.get("topic_conflict") else topic
            yield from _dialogue(str(number), split, where, utterances, found, topic, rejects)
    texts = {stem: lines for name, path in sorted(files.items()) for stem, lines in _published(name, path)}
    topics = _topics(texts)
    for stem, split in _TEXTS.items():
        acts = texts.get(stem.replace("dialogues", "dialogues_act"), [])
        emotions = texts.get(stem.replace("dialogues", "dialogues_emotion"), [])
        for number, line in enumerate(texts.get(stem, [])):
            found = {
                name: lines[number].split() if number < len(lines) else None
                for name, lines in (("act", acts), ("emotion", emotions))
            }
            utterances = [part for part in line.split(_END)[:-1]] if line.rstrip().endswith(_END) else line.split(_END)
            where = f"{stem}.txt:{number + 1}"
            yield from _dialogue(str(number), split, where, utterances, found, topics.get(_key(line)), rejects)


def _dialogue(
    name: str, split: str, where: str, utterances: Sequence[Any], found: Mapping[str, Any], topic: Any, rejects: Rejects
) -> Iterator[LabelledDialogue]:
    try:
        messages = tuple(
            message(role, text) for role, text in zip(cycle(("user", "assistant")), utterances, strict=False)
        )
    except ValueError as error:
        rejects.dialogues.append(Reject(where, str(error)))
        return
    labels: list[dict[str, Label]] = [{} for _ in messages]
    for kind, values in found.items():
        if not isinstance(values, list):
            rejects.labels += [Reject(where, f"no {kind}s")] * len(messages)
        elif len(values) != len(messages):  # which utterance lacks its label is unknown
            why = f"{len(values)} {kind}s of {len(messages)} utterances; which belongs to which is unknown"
            rejects.labels += [Reject(where, why)] * len(messages)
        else:
            for each, value in zip(labels, values, strict=True):
                each[kind] = Label(str(value))
    whole = {} if topic is None else {"topic": Label(str(topic))}
    yield LabelledDialogue(Dialogue(name, messages), split, where, whole, tuple(labels))


def _published(name: str, path: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield the name without suffixes and the lines of each text file, those in archives too."""
    stem = PurePosixPath(name).name.partition(".")[0]
    if name.endswith(".zip"):
        try:
            with path.open("rb") as file, zipfile.ZipFile(io.BytesIO(file.read())) as archive:
                # A truncated archive of archives ends with one of them, which zipfile would open in its place.
                if min((member.header_offset for member in archive.infolist()), default=0):
                    raise zipfile.BadZipFile("it is cut off")
                members = {member: archive.read(member) for member in archive.namelist() if not member.endswith("/")}
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise InputDataError(f"{path} cannot be read: {str(error).lower().rstrip('.')}. Fetch it again.") from error
        for member, content in members.items():
            if "__MACOSX" not in member:
                yield from _published(member, _Bytes(member, content))
    elif stem.startswith("dialogues_"):
        try:
            lines = [line.decode("utf-8").strip("\r\n") for line in read_lines(path)]
        except (DamagedFileError, UnicodeDecodeError) as error:
            raise InputDataError(f"{name} cannot be read: {error}. Fetch it again.") from error
        yield stem, lines


class _Bytes:
    """A file in memory."""

    def __init__(self, name: str, content: bytes) -> None:
        self._name, self._content = name, content
        self.suffix = PurePosixPath(name).suffix

    def open(self, mode: str, /) -> io.BytesIO:
        return io.BytesIO(self._content)

    def __str__(self) -> str:
        return self._name


def _topics(texts: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Return the topic of each text; None where the corpus gives the same text several."""
    topics: dict[str, str | None] = {}
    for line, topic in zip(texts.get("dialogues_text", ()), texts.get("dialogues_topic", ()), strict=False):
        key, value = _key(line), topic.strip()
        topics[key] = value if topics.setdefault(key, value) == value else None
    return topics


def _key(line: str) -> str:
    return "".join(line.split()).casefold()
