"""The held form: replies of any model have blocks that parse, whatever its tokenizer."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from block_writers import END, SPARE

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy
from sage_dialog.inference.engine import Prompt, Sample
from sage_dialog.sac import Chain, Intent, parse
from sage_dialog.sac.grammar import BlockGrammar, ValueLimits

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
pytest.importorskip("transformers")

from sage_dialog.inference.steering import Guide, GuideState  # noqa: E402
from sage_dialog.inference.transformers import decoding  # noqa: E402
from sage_dialog.inference.transformers import engine as transformers_engine  # noqa: E402
from sage_dialog.inference.transformers.engine import TransformersEngine  # noqa: E402
from sage_dialog.inference.vllm.structured_outputs import reply_pattern  # noqa: E402
from sage_dialog.inference.vocabulary import Vocabulary  # noqa: E402

LIMITS = ValueLimits(label_length=8, topics=2)
FREE = SamplingConfig.from_base(temperature=3.0, top_k=1000, max_new_tokens=210)
HELD = FREE.model_copy(update={"hold_form": True, "max_label_length": 8, "max_topics": 2})
STEERINGS = {
    "alone": {},
    "with boosts": {"boosts": {"a_motivation": {"humor": 9.0}, "a_topic": {"dogs": 2.0, "cats": 2.0}}},
    "with fixed values": {"fixed": {"u_emotion": "beyond the limit", "a_topic": ("cats", "dogs", "music")}},
    "with both": {"boosts": {"a_topic": {"dogs": 9.0}}, "fixed": {"a_emotion": None}},
}


def prompts_of(count: int) -> list[Prompt]:
    return [Prompt(({"role": "user", "content": "x" * (1 + number % 3)},), ("held", number)) for number in range(count)]


def sample_replies(
    engine: TransformersEngine, sampling: SamplingConfig, steering: Steering | None = None
) -> list[Sample]:
    return [sample for row in engine.sample("sage_1", prompts_of(3), sampling, 3, steering) for sample in row]


def guide_of(vocabulary: Vocabulary, limits: ValueLimits | None = LIMITS, **steering: Any) -> Guide:
    return Guide(vocabulary, Steering(**steering), END, len(vocabulary.tokens) + SPARE, limits)


def labels(intent: Intent) -> list[str]:
    return [label for label in (intent.motivation, intent.emotion, *intent.topics) if label is not None]


def allowed_tokens(state: GuideState) -> list[int]:
    assert state.mask is not None
    return np.flatnonzero(state.mask == 0).tolist()


@pytest.fixture(scope="module")
def held(engine: TransformersEngine) -> dict[str, list[Sample]]:
    """Replies with a held form, by the name of their steering."""
    return {name: sample_replies(engine, HELD, Steering(**steering)) for name, steering in STEERINGS.items()}


@pytest.mark.slow
def test_a_model_that_writes_no_form_writes_it_when_it_is_held(
    engine: TransformersEngine, held: dict[str, list[Sample]]
) -> None:
    """At temperature 3 the models write noise."""
    short = FREE.model_copy(update={"max_new_tokens": 60})
    assert not any(isinstance(parse(sample.text), Chain) for sample in sample_replies(engine, short))
    for replies in held.values():
        assert {type(parse(sample.text)) for sample in replies} == {Chain}


def test_free_values_stay_within_the_limits_and_fixed_ones_are_written(held: dict[str, list[Sample]]) -> None:
    for name, replies in held.items():
        for chain in [parse(sample.text) for sample in replies]:
            assert isinstance(chain, Chain)
            if name == "with fixed values":
                assert (chain.state.emotion, chain.action.topics) == ("beyond the limit", ("cats", "dogs", "music"))
                continue
            for intent in (chain.state, chain.action):
                assert len(intent.topics) <= 2
                assert max(map(len, labels(intent)), default=0) <= 8


def rate_of_humor(chains: list[Any]) -> float:
    return sum((chain.action.motivation or "").startswith("humor") for chain in chains) / len(chains)


def test_labels_stay_free_and_boosts_count(held: dict[str, list[Sample]]) -> None:
    plain, boosted = ([parse(sample.text) for sample in held[name]] for name in ("alone", "with boosts"))
    assert len({chain.action.motivation for chain in plain}) > 2
    humor = [
        sum((chain.action.motivation or "").startswith("humor") for chain in chains) for chains in (plain, boosted)
    ]
    assert humor[0] < humor[1]


@pytest.mark.slow
@pytest.mark.parametrize("steering", STEERINGS.values(), ids=STEERINGS)
def test_no_walk_along_allowed_tokens_ends_before_the_utterance(
    vocabulary: Vocabulary, steering: dict[str, Any]
) -> None:
    """Allowed are exactly the tokens after which the blocks may parse, also where a token is part of a letter."""
    guide = guide_of(vocabulary, **steering)
    grammar = BlockGrammar.with_values(steering.get("fixed", {}), LIMITS)
    for number in range(12):
        rng = random.Random(number)
        state: GuideState | None = guide.initial_state
        written = b""
        for step in range(400):
            allowed = allowed_tokens(state)
            assert allowed, written
            if step % 5 == 0 and (state.parser, state.pending) not in guide._forced_tokens:
                every = range(len(vocabulary.tokens))
                keeps = [token for token in every if token != END and guide._step(state.parser, state.pending, token)]
                assert [token for token in allowed if token != END] == [
                    token for token in keeps if vocabulary.tokens[token]
                ]
            # Walks that avoid the end of a value are the hardest.
            inside = [token for token in allowed if not set(b",]") & set(vocabulary.tokens[token])]
            part = [token for token in inside if vocabulary.tokens[token][-1:] >= b"\x80"]
            token = rng.choice((allowed, inside or allowed, part or inside or allowed)[number % 3])
            if token == END:
                break
            written += vocabulary.token_bytes(token, first=step == 0)
            state = guide.next_state(state, token)
            if state is None:
                break
        text = written.decode(errors="replace").removesuffix("\ufffd")  # the first letter of the utterance
        assert isinstance(parse(text), Chain), text
        end = grammar.initial_state().advance(text)
        assert end is not None
        assert end.may_end


def test_values_at_the_limit_must_end(byte_vocabulary: Vocabulary) -> None:
    guide = guide_of(byte_vocabulary)

    def allowed(text: str) -> set[bytes]:
        state: GuideState | None = guide.initial_state
        for token, _, _ in byte_vocabulary.encode(text):
            assert state is not None
            state = guide.next_state(state, token)
        assert state is not None
        return {byte_vocabulary.tokens[token] for token in allowed_tokens(state)}

    begin = "{u_motivation: "
    assert b" " not in allowed(f"{begin}abcdefg")  # a label does not end in a space
    assert {b"h", b"\xc3", b","} <= allowed(f"{begin}abcdefg")
    assert allowed(f"{begin}abcdefgh") == {b","}
    assert allowed(f"{begin}abcdefgé") == {b","}
    topics = f"{begin}a, u_emotion: b, u_topic: ["
    assert allowed(f"{topics}abcdefgh") == {b",", b"]"}
    assert allowed(f"{topics}a, abcdefgh") == {b"]"}
    assert b"," not in allowed(f"{topics}a, b")


def test_bytes_of_a_letter_that_the_form_reserves_are_forbidden(byte_vocabulary: Vocabulary) -> None:
    guide = guide_of(byte_vocabulary, limits=None, fixed={"a_emotion": "calm"})
    state: GuideState | None = guide.initial_state
    for byte in b"{u_motivation: a\xe2\x80":
        state = guide.next_state(state, byte_vocabulary.tokens.index(bytes([byte])))
    allowed = {byte_vocabulary.tokens[token] for token in allowed_tokens(state)}
    assert not allowed & {b"\xa8", b"\xa9"}  # of U+2028 and U+2029, which end a line
    assert {b"\xa2", b"\x99"} <= allowed


def test_a_boosted_keyword_beyond_the_limit_is_an_error(byte_vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match=r"a_topic 'family dinner' has 13 characters.*`max_label_length` to 13"):
        guide_of(byte_vocabulary, boosts={"a_topic": {"family dinner": 2.0, "cats": 1.0}})


def test_a_held_sample_depends_on_seed_item_and_its_index_alone(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, sampling = prompts_of(3), HELD.model_copy(update={"max_new_tokens": 70})
    together = engine.sample("sage_1", prompts, sampling, 3)
    assert engine.sample("sage_1", prompts[1:][::-1], sampling, 3)[::-1] == together[1:]
    monkeypatch.setattr(transformers_engine, "MEMORY_GB", 1e-9)
    assert engine.sample("sage_1", prompts, sampling, 3) == together


def test_a_free_form_and_a_policy_without_blocks_are_sampled_as_before(
    engine: TransformersEngine, base: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"max_new_tokens": 6}
    prompts = [Prompt(({"role": "user", "content": "w1"},), ("x",))]
    without = TransformersEngine(base, [], seed=0, threads=1)
    free = without.sample("sage_0", prompts, FREE.model_copy(update=small), 3)
    monkeypatch.delattr(decoding, "apply_steering")
    assert without.sample("sage_0", prompts, HELD.model_copy(update=small), 3) == free
    assert sample_replies(engine, FREE.model_copy(update={**small, "max_label_length": 9}))


def test_agent_and_user_do_not_build_their_guides_anew(engine: TransformersEngine) -> None:
    guide = engine._policies.guide
    agent, user = guide("sage_1", Steering(fixed={"a_emotion": "sad"}), HELD), guide("sage_1", None, HELD)
    assert agent is guide("sage_1", Steering(fixed={"a_emotion": "sad"}), HELD)
    assert user is guide("sage_1", Steering(), HELD)
    assert agent is not user
    assert guide("sage_1", None, FREE) is None


# --- the same form as a regular expression ------------------------------------------------------------------

PIECES = ["n", "u", "l", "null", "x", " ", "\u3000", "\xa0", ", ", ",", "ab cd", "12345678", "é", "\u2028", "[", "]"]


def test_the_expression_accepts_the_texts_that_the_grammar_accepts() -> None:
    grammar, expression = BlockGrammar.with_values({}, LIMITS), re.compile(reply_pattern(LIMITS, False))
    accepted = 0
    for number in range(3000):
        rng = random.Random(number)
        values = dict.fromkeys(grammar.fields, "x")
        for field in rng.sample(grammar.fields, 2):
            values[field] = "".join(rng.choice(PIECES) for _ in range(rng.randrange(5)))
        text = grammar.render(values, rng.choice(["", "Hi {a}:\nyou"]))
        text = text.removesuffix(" ") if number % 5 == 0 else text
        end = grammar.initial_state().advance(text)
        assert (expression.fullmatch(text) is not None) == (end is not None and end.may_end), text
        accepted += end is not None
    assert 100 < accepted < 2500


def test_the_expression_accepts_every_held_reply(held: dict[str, list[Sample]]) -> None:
    expression = re.compile(reply_pattern(LIMITS, leading_space=False))
    assert all(expression.fullmatch(sample.text) for sample in held["alone"])
