"""Texts that stand twice, exactly or nearly, within and across splits and corpora.

Texts are compared as words without case and punctuation. Near copies share many triples of consecutive words.
Candidates are found by MinHash in bands (Broder 1997), so that the work grows with the number of texts; each is then
compared by its triples themselves. Of pairs with half of their triples in common 98.6 % are found, of those with 60 %
all but one in 2,000.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.corpora.labelled.records import HELD_OUT, SPLITS
from sage_dialog.schemas import TEXT_DUPLICATES

_WORD = re.compile(r"\w+")
_WORDS = 3  # of a shingle
_BANDS, _ROWS = 32, 3  # of a MinHash signature
_SIGNATURE_MARGIN = 0.2  # four standard errors of the overlap that a signature estimates
_NEIGHBOURS = 8  # texts of a band that each is compared with
_SLICE = 4_096  # texts whose signatures are computed at a time
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64


@dataclass(frozen=True)
class SourceText:
    """A text with its place: an id, unique over all, the corpus and the split."""

    id: str
    source: str
    split: str
    text: str


def find_duplicates(texts: Iterable[SourceText], min_overlap: float, remove: bool) -> DataFrame:
    """Return a row for each text that copies another one: of its copies the one in a held-out split, or the closest.

    Of several copies the one in the split that is kept apart most (test, then valid) is the original, then the first.
    Copies of copies count: where a held-out text is among them, all training texts of the group are removed.

    Args:
        min_overlap: triples of words that two near copies share, as a share of all triples of both.
        remove: whether training texts that stand in a held-out split are marked as removed.

    Returns:
        A table of `schemas.TEXT_DUPLICATES`, by source, split and order of the texts.
    """
    order = sorted(texts, key=lambda text: -SPLITS.index(text.split))
    first: dict[str, int] = {}
    exact: dict[int, int] = {}
    keys = []
    for place, text in enumerate(order):
        key = normalise(text.text)
        keys.append(key)
        if key and (original := first.setdefault(key, place)) != place:
            exact[place] = original
    distinct = list(first.values())
    pairs = [
        (distinct[low], distinct[high], overlap)
        for low, high, overlap in _near_pairs([keys[place] for place in distinct], min_overlap)
    ]
    links = [*((low, high) for low, high, _ in pairs), *((original, copy) for copy, original in exact.items())]
    leaked = _leaked(order, links)
    originals: dict[int, tuple[bool, float, int]] = {}
    for low, high, overlap in pairs:
        _keep_closest(originals, high, low, overlap, order)
    for low, high, overlap in pairs:  # the first text of a group has no original, unless a later one is a leak
        if low in leaked and low not in originals:
            _keep_closest(originals, low, high, overlap, order)
    rows = []
    for place, text in enumerate(order):
        if place in exact:
            original, overlap = exact[place], 1.0
        elif place in originals:
            _, negative, original = originals[place]
            overlap = -negative
        else:
            continue
        rows.append(
            {
                "dialogue_id": text.id,
                "source": text.source,
                "split": text.split,
                "kind": "exact" if place in exact else "near",
                "overlap": round(overlap, 4),
                "copy_of": order[original].id,
                "copy_source": order[original].source,
                "copy_split": order[original].split,
                "removed": remove and place in leaked,
            }
        )
    return from_rows(rows, TEXT_DUPLICATES)


def normalise(text: str) -> str:
    """Return the words of a text without case, punctuation and compatibility forms, with single spaces between them."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _keep_closest(
    originals: dict[int, tuple[bool, float, int]], copy: int, other: int, overlap: float, order: Sequence[SourceText]
) -> None:
    """Keep of the copies of a text the one in a held-out split, then the closest, then the first."""
    found = (order[other].split not in HELD_OUT, -overlap, other)
    originals[copy] = min(originals.get(copy, found), found)


def _leaked(order: Sequence[SourceText], links: Iterable[tuple[int, int]]) -> set[int]:
    """Return the training texts that are linked, directly or by other copies, to a text of a held-out split."""
    root = list(range(len(order)))

    def find(place: int) -> int:
        while root[place] != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    for one, other in links:
        low, high = sorted((find(one), find(other)))
        root[high] = low  # held-out texts come first, so that one of a group is its root
    return {
        place for place, text in enumerate(order) if text.split not in HELD_OUT and order[find(place)].split in HELD_OUT
    }


def _near_pairs(texts: Sequence[str], min_overlap: float) -> Iterator[tuple[int, int, float]]:
    """Yield the places of two different texts, the lower one first, and their overlap, where it is enough."""
    shingles = _shingles(texts)
    signatures = _signatures(shingles)
    for low, high in _candidates(signatures, min_overlap - _SIGNATURE_MARGIN):
        shared = len(np.intersect1d(shingles[low], shingles[high], assume_unique=True))
        overlap = shared / (len(shingles[low]) + len(shingles[high]) - shared)
        if overlap >= min_overlap:
            yield low, high, overlap


def _shingles(texts: Sequence[str]) -> list[np.ndarray]:
    """Return the sorted hashes of the different word triples of each text; of a shorter text that of all its words."""
    numbers: dict[str, int] = {}
    shingles = []
    for text in texts:
        words = np.array([numbers.setdefault(word, len(numbers) + 1) for word in text.split()], np.uint64)
        short = max(_WORDS - len(words), 0)
        words = np.concatenate([words, np.zeros(short, np.uint64)])
        count = len(words) - _WORDS + 1
        mixed = np.zeros(count, np.uint64)
        for offset in range(_WORDS):
            mixed = _mix(mixed + words[offset : offset + count])
        shingles.append(np.unique(mixed))
    return shingles


def _signatures(shingles: Sequence[np.ndarray]) -> np.ndarray:
    """Return the MinHash signature of each text, of _BANDS × _ROWS values."""
    salts = _mix(np.arange(1, _BANDS * _ROWS + 1, dtype=np.uint64))
    signatures = np.empty((len(shingles), len(salts)), np.uint64)
    for start in range(0, len(shingles), _SLICE):
        part = shingles[start : start + _SLICE]
        values = np.concatenate(part)
        begins = np.cumsum([0, *map(len, part[:-1])])
        for column, salt in enumerate(salts):
            signatures[start : start + _SLICE, column] = np.minimum.reduceat(_mix(values ^ salt), begins)
    return signatures


def _candidates(signatures: np.ndarray, min_share: float) -> Iterator[tuple[int, int]]:
    """Yield pairs that agree in a band and in a share of their signatures, each once.

    A text is paired with those next to it in a band, with the first of the band, and with the one next to it in the
    order of the whole signature, where near copies stand side by side: a band of very many texts has not all of their
    pairs.
    """
    if not len(signatures):
        return
    pairs = []
    whole = np.lexsort(signatures.T)  # of equal bands, neighbours are those with similar other bands
    for band in range(_BANDS):
        columns = signatures[:, band * _ROWS : (band + 1) * _ROWS]
        key = np.zeros(len(columns), np.uint64)
        for column in columns.T:
            key = _mix(key + column)
        by_neighbour = whole[np.argsort(key[whole], kind="stable")]
        by_place = np.argsort(key, kind="stable")
        begins = np.flatnonzero(np.r_[True, key[by_place][1:] != key[by_place][:-1]])
        firsts = by_place[np.repeat(begins, np.diff(np.r_[begins, len(key)]))]
        same = key[by_neighbour][1:] == key[by_neighbour][:-1]
        pairs += [
            np.stack([firsts, by_place])[:, firsts != by_place],
            np.stack([by_neighbour[:-1], by_neighbour[1:]])[:, same],
        ]
        for distance in range(1, min(_NEIGHBOURS, len(key) - 1) + 1):
            near = key[by_place][distance:] == key[by_place][:-distance]
            pairs.append(np.stack([by_place[:-distance], by_place[distance:]])[:, near])
    found = np.unique(np.sort(np.concatenate(pairs, axis=1), axis=0), axis=1)
    for start in range(0, found.shape[1], _SLICE):
        low, high = found[:, start : start + _SLICE]
        alike = np.mean(signatures[low] == signatures[high], axis=1) >= min_share
        yield from zip(low[alike].tolist(), high[alike].tolist(), strict=True)


def _mix(values: np.ndarray) -> np.ndarray:
    """Return the values hashed (splitmix64)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * _MIX[0]
        values = (values ^ (values >> np.uint64(27))) * _MIX[1]
        return values ^ (values >> np.uint64(31))
