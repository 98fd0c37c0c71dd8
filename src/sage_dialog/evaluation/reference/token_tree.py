"""Log-probabilities of many continuations of one text, each token of their prefix tree computed once.

The state-action chains of a policy share their first tokens, and all share the history of the dialogue. The text that
all sequences share is read once and its keys and values are kept for the next call; the rest is a tree whose nodes are
computed in one row, with an attention mask that lets each node see the shared text and its own ancestors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from transformers import DynamicCache

from sage_dialog.inference.transformers.decode_states import accepted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Tokens = Sequence[int]

BUDGET = 512
"""Nodes computed at once: their logits are `BUDGET` times the vocabulary."""

TOLERANCE = 1e-3
"""Largest difference of a log-probability between the tree and a plain forward pass; rounding gives about 1e-5."""

READ_AT_ONCE = 2048
"""Tokens of the shared text that are read in one forward pass."""


class Scorer(Protocol):
    """Computes log-probabilities of continuations."""

    def score(self, sequences: Sequence[Tokens], first: int) -> list[np.ndarray]:
        """Return the natural log-probability of each token from place `first` on, given those before it.

        Args:
            sequences: token ids that agree in the first `first` places, at least one.
        """
        ...

    def forget(self) -> None:
        """Drop what is kept of earlier calls, so that results do not depend on them."""
        ...


class Tree(NamedTuple):
    """The prefix tree of sequences in depth-first order; node 0 is their common last token.

    Attributes:
        paths: for each sequence its nodes below the root.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    paths: list[list[int]]


def prefix_tree(root: int, sequences: Sequence[Tokens]) -> Tree:
    """Return the tree of sequences below a root token."""
    tree = Tree([root], [-1], [0], [[] for _ in sequences])
    before: Tokens = ()
    path = [0]
    for index in sorted(range(len(sequences)), key=lambda index: tuple(sequences[index])):
        sequence = sequences[index]
        shared = common_prefix([before, sequence]) if before else 0
        path = path[: shared + 1]
        for token in sequence[shared:]:
            tree.tokens.append(token)
            tree.parents.append(path[-1])
            tree.depths.append(len(path))
            path.append(len(tree.tokens) - 1)
        tree.paths[index].extend(path[1:])
        before = sequence
    return tree


def common_prefix(sequences: Sequence[Tokens]) -> int:
    """Return the number of first tokens that all sequences share."""
    low, high = min(sequences, key=tuple), max(sequences, key=tuple)
    shared = 0
    for one, other in zip(low, high, strict=False):
        if one != other:
            break
        shared += 1
    return shared


class TreeScorer:
    """A `Scorer` that keeps the cache of the shared text from call to call.

    Args:
        model: a causal language model whose attention takes a mask of its own; `choose_scorer` checks that.
    """

    def __init__(self, model: PreTrainedModel, budget: int = BUDGET) -> None:
        self._model = model
        self._budget = budget
        self._read: list[int] = []
        self._cache = DynamicCache()

    def forget(self) -> None:
        self._read, self._cache = [], DynamicCache()

    @torch.inference_mode()
    def score(self, sequences: Sequence[Tokens], first: int) -> list[np.ndarray]:
        shared = min(first, common_prefix(sequences))
        tree = prefix_tree(sequences[0][shared - 1], [sequence[shared:] for sequence in sequences])
        self._read_text(sequences[0][: shared - 1])
        try:
            values = self._node_values(tree, shared - 1)
        except BaseException:
            self.forget()
            raise
        return [values[path[first - shared :]] for path in tree.paths]

    def _read_text(self, tokens: Tokens) -> None:
        """Bring the cache to these tokens, keeping what it has of them."""
        kept = common_prefix([self._read, tokens]) if self._read and tokens else 0
        if kept < len(self._read):
            _keep_columns(self._cache, torch.arange(kept, device=self._model.device))
        for start in range(kept, len(tokens), READ_AT_ONCE):
            ids = torch.tensor([list(tokens[start : start + READ_AT_ONCE])], device=self._model.device)
            last = dict.fromkeys(accepted(self._model, "logits_to_keep"), 1)
            self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, **last)
        self._read = list(tokens)

    def _node_values(self, tree: Tree, length: int) -> np.ndarray:
        """Return the log-probability of each node given its ancestors and the `length` tokens of the shared text."""
        values = np.zeros(len(tree.tokens))
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(tree.parents[1:], 1):
            children.setdefault(parent, []).append(node)
        inner = sorted(children)  # a last token is read by none
        device = self._model.device
        kept: list[int] = []  # nodes in the cache after the shared text, each the parent of the next
        for start in range(0, len(inner), self._budget):
            chunk = inner[start : start + self._budget]
            output = self._model(
                input_ids=torch.tensor([[tree.tokens[node] for node in chunk]], device=device),
                position_ids=torch.tensor([[length + tree.depths[node] for node in chunk]], device=device),
                attention_mask=self._mask(tree, kept, chunk, length),
                past_key_values=self._cache,
                use_cache=True,
            )
            logits = output.logits[0].float()
            rows = [row for row, node in enumerate(chunk) for _ in children[node]]
            below = [child for node in chunk for child in children[node]]
            tokens = torch.tensor([tree.tokens[child] for child in below], device=device)
            found = logits[rows, tokens] - logits.logsumexp(dim=1)[rows]
            values[below] = found.double().numpy(force=True)
            following = inner[start + self._budget : start + self._budget + 1]
            columns = {node: length + place for place, node in enumerate([*kept, *chunk])}
            kept = list(_ancestors(tree, following[0]))[::-1] if following else []
            places = [*range(length), *(columns[node] for node in kept)]
            _keep_columns(self._cache, torch.tensor(places, dtype=torch.long, device=device))
        return values

    def _mask(self, tree: Tree, kept: Sequence[int], chunk: Sequence[int], length: int) -> torch.Tensor:
        """Return the mask (1, 1, chunk, text + kept + chunk): zero where a node may look, else the least number."""
        seen = np.zeros((len(chunk), len(kept) + len(chunk)), dtype=bool)
        rows = {node: row for row, node in enumerate(chunk)}
        depth_of_kept = {node: place + 1 for place, node in enumerate(kept)}
        for row, node in enumerate(chunk):
            parent = tree.parents[node]
            if parent in rows:
                seen[row] = seen[rows[parent]]
            elif parent >= 0:
                seen[row, : depth_of_kept[parent]] = True
            seen[row, len(kept) + row] = True
        tree_part = torch.from_numpy(seen).to(self._model.device)
        text = tree_part.new_ones(len(chunk), length)
        mask = torch.zeros(len(chunk), length + seen.shape[1], dtype=self._model.dtype, device=self._model.device)
        return mask.masked_fill_(~torch.cat([text, tree_part], dim=1), torch.finfo(mask.dtype).min)[None, None]


def _ancestors(tree: Tree, node: int) -> Iterator[int]:
    """Yield the ancestors of a node, from its parent to the root."""
    while (node := tree.parents[node]) >= 0:
        yield node


def _keep_columns(cache: DynamicCache, columns: torch.Tensor) -> None:
    """Keep the given tokens of a cache; its own `crop` keeps first ones only."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.index_select(2, columns), layer.values.index_select(2, columns)


class PlainScorer:
    """A `Scorer` with one forward pass for each sequence, for models whose attention takes no mask of a tree."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def forget(self) -> None:
        pass

    @torch.inference_mode()
    def score(self, sequences: Sequence[Tokens], first: int) -> list[np.ndarray]:
        without = dict.fromkeys(accepted(self._model, "use_cache"), False)
        values = []
        for sequence in sequences:
            ids = torch.tensor([list(sequence)], device=self._model.device)
            logits = self._model(input_ids=ids, **without).logits[0, first - 1 : -1].float()
            found = logits.log_softmax(dim=1).gather(1, ids[0, first:, None])[:, 0]
            values.append(found.double().numpy(force=True))
        return values


def choose_scorer(model: PreTrainedModel, policy: str) -> Scorer:
    """Return a `TreeScorer` if it gives the log-probabilities of plain forward passes, else a `PlainScorer`.

    Architectures differ in whether their layers take a mask and a cache of others, so the model itself is compared.

    Args:
        policy: its name, for the log and the error.

    Raises:
        ValueError: if plain forward passes give numbers that are not finite.
    """
    vocabulary = model.config.get_text_config().vocab_size
    random = torch.Generator().manual_seed(0)
    drawn = torch.randint(vocabulary // 4, vocabulary - vocabulary // 4, (5, 12), generator=random).tolist()
    text, *ends = drawn
    sequences = [text + ends[0], text + ends[0][:5] + ends[1], text + ends[0][:5] + ends[2][:3], text + ends[3]]
    expected = PlainScorer(model).score(sequences, len(text))
    if not all(np.isfinite(values).all() for values in expected):
        raise ValueError(
            f"policy {policy!r} gives logits that are not finite (NaN or infinity): its weights are damaged. Look at "
            f"training_log_{policy}, and train it again"
        )
    scorer = TreeScorer(model)
    small = TreeScorer(model, budget=4)
    try:
        found = [*scorer.score(sequences, len(text)), *small.score(sequences, len(text))]
        distance = max(float(np.abs(one - other).max()) for one, other in zip(found, [*expected] * 2, strict=True))
        if distance <= TOLERANCE:
            scorer.forget()
            return scorer
        reason = f"a difference of {distance:.2g}"
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any: layers that were not written for this
        reason = f"{type(error).__name__}: {shorten(str(error), 90)}"
    logger.warning(
        "%s: %s takes no tree of continuations (%s); each is computed alone, which is many times slower",
        *(policy, type(model).__name__, reason),
    )
    return PlainScorer(model)
