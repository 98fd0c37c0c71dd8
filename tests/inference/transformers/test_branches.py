"""Samples that have written the same so far are computed once, and stay what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sage_dialog.config import SamplingConfig

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from families import tiny_model  # noqa: E402

from sage_dialog.inference.transformers.branches import branch  # noqa: E402
from sage_dialog.inference.transformers.decode_states import (  # noqa: E402
    RecomputedState,
    RepeatedCacheState,
    SharedPrefixState,
)
from sage_dialog.inference.transformers.decoding import COMPACT_BELOW, decode  # noqa: E402
from sage_dialog.inference.transformers.reuse import choose_method  # noqa: E402

NEW = 30
SAMPLES = 12
# Few likely tokens, so that samples begin alike.
SAMPLING = SamplingConfig.from_base(temperature=0.5, top_k=3, repetition_penalty=1.2, max_new_tokens=NEW)
PROMPTS = [[20, 31, 7, 45, 22, 40, 13, 38, 29, 18, 50], [33, 41, 9], [12, 36, 40, 41]]


def peaked_model(kind: str = "llama") -> Any:
    """Return a tiny model whose next tokens are few and depend on the text."""
    model = tiny_model(kind)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 8
    choose_method(model, 96, kind)
    return model


def an_end(model: Any, draws: np.ndarray) -> int:
    """Return a token that rows write at different steps."""
    endless = [row.tokens for rows in decode(model, PROMPTS, draws, SAMPLING, end=-1) for row in rows]
    tokens = {token for row in endless for token in row}
    places = {token: {row.index(token) for row in endless if token in row} for token in tokens}
    return max(tokens, key=lambda token: len(places[token]))


@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen3"])
@pytest.mark.parametrize("seed", [0, 1])
def test_replies_are_those_of_rows_computed_one_by_one(kind: str, seed: int) -> None:
    torch.set_num_threads(1)
    model = peaked_model(kind)
    draws = np.random.default_rng(seed).random((len(PROMPTS), SAMPLES, NEW))
    end = an_end(model, draws)
    found = decode(model, PROMPTS, draws, SAMPLING, end, branching=True)
    expected = decode(model, PROMPTS, draws, SAMPLING, end)
    for prompt, rows in enumerate(expected):
        for sample, row in enumerate(rows):
            (alone,) = decode(model, [PROMPTS[prompt]], draws[[prompt], [sample]][:, None], SAMPLING, end)[0]
            branched = found[prompt][sample]
            assert branched.tokens == row.tokens == alone.tokens
            assert branched.finished == row.finished
            assert branched.log_probability == pytest.approx(row.log_probability, abs=1e-4)
    lengths = {len(row.tokens) for rows in expected for row in rows}
    assert len(lengths) > 3, "rows end at different steps"


@pytest.mark.parametrize("start", [RepeatedCacheState, RecomputedState])
def test_other_states_branch_alike(start: Any) -> None:
    torch.set_num_threads(1)
    model = peaked_model()
    model.set_attn_implementation("sdpa")
    prompts = PROMPTS if start is RepeatedCacheState else PROMPTS[:1]
    draws = np.random.default_rng(0).random((len(prompts), SAMPLES, NEW))
    found = decode(model, prompts, draws, SAMPLING, -1, start=start, branching=True)
    expected = decode(model, prompts, draws, SAMPLING, -1, start=start)
    assert [[row.tokens for row in rows] for rows in found] == [[row.tokens for row in rows] for rows in expected]


def test_each_text_is_computed_once() -> None:
    torch.set_num_threads(1)
    model = peaked_model()
    draws = np.random.default_rng(2).random((len(PROMPTS), SAMPLES, NEW))
    computed: list[int] = []

    class Counted(SharedPrefixState):
        def step(self, token: Any) -> Any:
            computed.append(len(token))
            return super().step(token)

    replies = decode(model, PROMPTS, draws, SAMPLING, -1, start=Counted, branching=True)
    assert len(computed) == NEW - 1
    for step, rows in enumerate(computed, start=1):
        texts = {(prompt, *row.tokens[:step]) for prompt, of_prompt in enumerate(replies) for row in of_prompt}
        assert len(texts) == rows, step  # no row ends, so that none is idle
    assert computed[0] < SAMPLES < computed[-1] < len(PROMPTS) * SAMPLES, "some begin alike, and some stay so"


def test_steering_follows_the_texts() -> None:
    """A guide of our own: after n tokens it allows two tokens by n and by the last token."""
    from sage_dialog.inference.steering import GuideState

    torch.set_num_threads(1)
    model = peaked_model()
    vocabulary = model.config.vocab_size

    class Guide:
        def __init__(self) -> None:
            self.initial_state = self.state(0, 0)

        def state(self, step: int, last: int) -> GuideState:
            mask = np.full(vocabulary, -np.inf, np.float32)
            mask[[(5 * step + last) % vocabulary, (7 * step + 2 * last + 1) % vocabulary]] = 0
            return GuideState((step, last), b"", [3], [2.0], mask)  # type: ignore[arg-type]

        def next_state(self, state: GuideState, token: int) -> GuideState | None:
            step, _ = state.parser  # type: ignore[misc]
            return None if step == NEW // 2 else self.state(step + 1, token)

    draws = np.random.default_rng(4).random((len(PROMPTS), SAMPLES, NEW))
    guide: Any = Guide()
    found = decode(model, PROMPTS, draws, SAMPLING, -1, guide, branching=True)
    expected = decode(model, PROMPTS, draws, SAMPLING, -1, guide)
    assert [[row.tokens for row in rows] for rows in found] == [[row.tokens for row in rows] for rows in expected]
    assert len({tuple(row.tokens) for rows in found for row in rows}) > SAMPLES


def test_branching_keeps_places_and_fills_those_that_are_free() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        texts, rows, tokens = (int(random.integers(1, high)) for high in (9, 14, 4))
        text, token = random.integers(texts, size=rows), random.integers(tokens, size=rows)
        new, sources, last = branch(torch.tensor(text), torch.tensor(token), texts, -5, COMPACT_BELOW)
        after = np.arange(len(last)) if sources is None else sources.numpy()
        pairs = set(zip(text.tolist(), token.tolist(), strict=True))
        assert (after[new] == text).all() and (last.numpy()[new] == token).all()
        continued = sorted(set(new.tolist()))
        assert len(continued) == len(pairs)
        if len(pairs) < COMPACT_BELOW * texts:
            assert continued == list(range(len(last)))
            continue
        assert len(last) == max(texts, len(pairs)), "a new place only where none is free"
        for place in range(texts):  # the places of continued texts stay theirs
            assert after[place] == place or place not in set(text.tolist())
        assert all(last[place] == -5 for place in set(range(len(last))) - set(continued))
