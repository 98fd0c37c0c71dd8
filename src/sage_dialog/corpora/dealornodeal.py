"""Deal or No Deal: human negotiations over books, hats and balls, with exact rewards (Lewis et al. 2017).

Both published forms are read, one perspective of a negotiation on each line: the tagged one, with the partner's items,
and the one of one line a perspective, which states the reward. The reward is always computed from the output: the sum
of an agent's values for the items that it gets, and 0 without an agreement.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.corpora.compression import DamagedFileError, read_lines
from sage_dialog.corpora.labelled.records import split_of
from sage_dialog.corpora.rejects import InputDataError, Reject, log_rejects
from sage_dialog.schemas import NEGOTIATION_REJECTS, NEGOTIATIONS

logger = logging.getLogger(__name__)

KINDS = 3
"""Books, hats and balls."""

TOTAL = 10
"""What all items together are worth to each side."""

_TAGGED = re.compile(
    r"<input>(?P<input>.*)</input>\s*<dialogue>(?P<dialogue>.*)</dialogue>\s*<output>(?P<output>.*)</output>"
    r"\s*<partner_input>(?P<partner>.*)</partner_input>"
)
_LINE = re.compile(
    r"(?P<input>\d+(?: \d+){5}) (?P<dialogue>(?:YOU|THEM):.*<selection>)(?P<output>.*)<eos> reward=(?P<reward>.*)"
    r"(?P<partner>(?: \d+){6})"
)
_MESSAGE = re.compile(r"(YOU|THEM): ?(.*)", re.DOTALL)
_ITEM = re.compile(r"item(\d)=(\d+)")
_NO_DEAL = ("<disagree>", "<no_agreement>")


@dataclass(frozen=True)
class Negotiation:
    """One side's view of a negotiation.

    Attributes:
        counts: items of each kind.
        values: what an item of each kind is worth to this side; `partner_values` to the other.
        messages: role and text; this side is the assistant.
        taken: the items of each kind that this side gets; None without an agreement.
        selected: the items that this side chose; None if it chose no agreement, or the file does not say.
    """

    counts: tuple[int, ...]
    values: tuple[int, ...]
    partner_values: tuple[int, ...]
    messages: tuple[tuple[str, str], ...]
    taken: tuple[int, ...] | None
    selected: tuple[int, ...] | None

    @property
    def reward(self) -> int:
        return 0 if self.taken is None else _worth(self.values, self.taken)

    @property
    def partner_reward(self) -> int:
        if self.taken is None:
            return 0
        rest = [count - taken for count, taken in zip(self.counts, self.taken, strict=True)]
        return _worth(self.partner_values, rest)

    @property
    def id(self) -> str:
        """The name of the negotiation, the same from both sides."""
        swapped = [("user" if role == "assistant" else "assistant", text) for role, text in self.messages]
        views = (
            repr((self.counts, self.values, self.partner_values, list(self.messages))),
            repr((self.counts, self.partner_values, self.values, swapped)),
        )
        return hashlib.sha256(min(views).encode()).hexdigest()[:16]


def read_negotiations(files: Mapping[str, Path], max_reject_share: float) -> tuple[DataFrame, DataFrame]:
    """Return the negotiations in files called `train`, `val` or `valid`, and `test`, and the lines left out.

    Returns:
        Tables of `schemas.NEGOTIATIONS` and `schemas.NEGOTIATION_REJECTS`.

    Raises:
        InputDataError: if more than `max_reject_share` of a file's lines cannot be read, or the file is damaged.
    """
    rows, rejected = [], []
    for name, path in sorted(files.items()):
        split = "valid" if name.lower().startswith("val") else split_of(name)
        if split is None:
            raise InputDataError(f"{path} is no split of Deal or No Deal; name it train.txt, val.txt or test.txt.")
        rejects: list[Reject] = []
        found = 0
        for number, line in _lines(path):
            where = f"{name}:{number}"
            try:
                negotiation = parse(line)
            except ValueError as error:
                rejects.append(Reject(where, str(error)))
                continue
            found += 1
            rows.append(
                {
                    "record": where,
                    "negotiation_id": negotiation.id,
                    "split": split,
                    "counts": list(negotiation.counts),
                    "values": list(negotiation.values),
                    "partner_values": list(negotiation.partner_values),
                    "messages": [{"role": role, "content": text} for role, text in negotiation.messages],
                    "agreed": negotiation.taken is not None,
                    "taken": None if negotiation.taken is None else list(negotiation.taken),
                    "selected": None if negotiation.selected is None else list(negotiation.selected),
                    "reward": negotiation.reward,
                    "partner_reward": negotiation.partner_reward,
                }
            )
        log_rejects(logger, name, rejects)
        _check(name, found, rejects, max_reject_share)
        rejected += [{"record": reject.where, "reason": reject.reason} for reject in rejects]
    return from_rows(rows, NEGOTIATIONS), from_rows(rejected, NEGOTIATION_REJECTS)


def parse(line: str) -> Negotiation:
    """Return the negotiation on a line of either form.

    Raises:
        ValueError: if the line is no complete negotiation, or contradicts itself.
    """
    form = _TAGGED.fullmatch(line.strip()) or _LINE.fullmatch(line.strip())
    if form is None:
        raise ValueError("not a line of either published form")
    numbers = [[int(number) for number in form[side].split()] for side in ("input", "partner")]
    if any(len(side) != 2 * KINDS for side in numbers):
        raise ValueError(f"not a count and a value of {KINDS} kinds for each side")
    (counts, values), (partner_counts, partner_values) = ((tuple(side[::2]), tuple(side[1::2])) for side in numbers)
    if counts != partner_counts:
        raise ValueError("the two sides have other counts")
    if _worth(values, counts) != TOTAL or _worth(partner_values, counts) != TOTAL:
        raise ValueError(f"the items are not worth {TOTAL} in all to each side")
    selected = _selected(form, counts)
    disagreed = (form.groupdict().get("reward") or "").endswith("disagree")  # the sides chose items that do not add up
    taken = None if disagreed else selected
    negotiation = Negotiation(counts, values, partner_values, tuple(_messages(form["dialogue"])), taken, selected)
    stated = form.groupdict().get("reward")
    if stated and taken is not None and int(stated.split()[0]) != negotiation.reward:
        raise ValueError(f"the stated reward {stated.split()[0]} is not that of the items, {negotiation.reward}")
    return negotiation


def _selected(form: re.Match[str], counts: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the items that the first side chose; None where there are none."""
    stated, words = form.groupdict().get("reward"), form["output"].split()
    if "disconnect" in form["output"] or "disconnect" in (stated or ""):
        raise ValueError("a side disconnected")
    if words == ["no", "agreement"] or (words and all(word in _NO_DEAL for word in words)):
        return None
    items = [_ITEM.fullmatch(word) for word in words]
    sides = [items[start : start + KINDS] for start in range(0, len(items), KINDS)]
    if not sides or any([item and item[1] for item in side] != ["0", "1", "2"] for side in sides):
        raise ValueError("the output names no items of each kind")
    amounts = [tuple(int(item[2]) for item in side if item) for side in sides]
    if any(amount > count for amount, count in zip(amounts[0], counts, strict=True)):
        raise ValueError("a side gets more items than there are")
    if len(amounts) > 1 and any(sum(both) != count for *both, count in zip(*amounts, counts, strict=True)):
        raise ValueError("the two sides do not get all items together")
    return amounts[0]


def _messages(dialogue: str) -> Iterator[tuple[str, str]]:
    """Yield role and text of each message; the marks of the selection are no message."""
    for part in dialogue.split("<eos>"):
        message = _MESSAGE.fullmatch(part.strip())
        if message is None:
            raise ValueError(f"not a message of YOU or THEM: {part.strip()[:40]!r}")
        text = message[2].replace("<selection>", "").strip()
        if text:
            yield "assistant" if message[1] == "YOU" else "user", text


def _worth(values: Sequence[int], items: Sequence[int]) -> int:
    return sum(value * number for value, number in zip(values, items, strict=True))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers."""
    try:
        for number, line in enumerate(read_lines(path), 1):
            if line.strip():
                yield number, line.decode("utf-8", "replace")
    except DamagedFileError as error:
        raise InputDataError(f"{path}: {error}. Get the file once more.") from error


def _check(name: str, found: int, rejects: Sequence[Reject], allowed: float) -> None:
    if len(rejects) > allowed * (found + len(rejects)):
        raise InputDataError(
            f"{name}: {len(rejects)} of {found + len(rejects)} lines cannot be read, more than "
            f"imagination.max_reject_share = {allowed:g} allows (first: {rejects[0].where}: {rejects[0].reason}). "
            "Mend the file, or allow it."
        )
