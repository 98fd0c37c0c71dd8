"""Drawing a token against transformers' own logits processors."""

from __future__ import annotations

import pytest

from sage_dialog.config import SamplingConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sage_dialog.inference.transformers.decoding import draw  # noqa: E402

VOCABULARY = 60


def expected_probabilities(logits, history: list[int], sampling: SamplingConfig):
    ids = torch.tensor([history])
    scores = transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, logits[None])
    scores = transformers.TemperatureLogitsWarper(sampling.temperature)(ids, scores)
    scores = transformers.TopKLogitsWarper(sampling.top_k)(ids, scores)
    return scores[0].softmax(dim=0)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig.from_base(temperature=1.0, top_k=100, repetition_penalty=1.0),
        SamplingConfig.from_base(temperature=1.1, top_k=7, repetition_penalty=1.1),
        SamplingConfig.from_base(temperature=0.6, top_k=25, repetition_penalty=1.7),
        SamplingConfig.from_base(temperature=2.5, top_k=1, repetition_penalty=1.3),
        SamplingConfig.from_base(temperature=2.5, top_k=60, repetition_penalty=1.7),
    ],
)
def test_tokens_are_drawn_with_the_probabilities_of_the_processors(sampling: SamplingConfig) -> None:
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(4)) * 3
    history = [34, 3, 3, 17, 42]
    assert logits[34] == logits.max() and logits[17] < 0 and logits[42] < 0  # the penalty lowers logits of either sign
    seen = torch.zeros(VOCABULARY, dtype=torch.bool)
    seen[history] = True
    draws = 20_000
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    tokens = draw(logits.expand(draws, -1), seen.expand(draws, -1), uniform, sampling)
    shares = torch.bincount(tokens, minlength=VOCABULARY) / draws
    expected = expected_probabilities(logits, history, sampling)
    assert torch.allclose(shares, expected, atol=1.5 / draws)
    assert set(tokens.tolist()) <= set(expected.nonzero().flatten().tolist())


def test_the_ends_of_the_unit_interval_draw_tokens_that_were_kept() -> None:
    logits = torch.tensor([[0.0, -50.0, 1.0, -60.0]]).expand(2, -1)
    ends = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    sampling = SamplingConfig.from_base(top_k=3)
    assert draw(logits, torch.zeros(2, 4, dtype=torch.bool), ends, sampling).tolist() == [0, 2]


def test_near_ties_in_either_order_draw_the_same_token() -> None:
    sampling = SamplingConfig.from_base(top_k=3)
    seen = torch.zeros(1, 4, dtype=torch.bool)
    for number in (0.1, 0.5, 0.9):
        uniform = torch.tensor([number], dtype=torch.float64)
        first = draw(torch.tensor([[1.0, 1.0 + 1e-7, 1.0, -9.0]]), seen, uniform, sampling)
        second = draw(torch.tensor([[1.0 + 1e-7, 1.0, 1.0, -9.0]]), seen, uniform, sampling)
        assert first.tolist() == second.tolist()
