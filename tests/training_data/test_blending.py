"""Blending: which conversations follow one another, and where they are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from sage_dialog.config import Blend
from sage_dialog.dialogue import Message
from sage_dialog.training_data.blending import MESSAGE_TOKENS, TEMPLATE_TOKENS, blend_dialogues, token_bound
from sage_dialog.training_data.sources import up_to_last_reply

Dialogues = dict[str, tuple[Message, ...]]


def dialogue(name: str, *lengths: int, system: str | None = None) -> tuple[Message, ...]:
    """Return messages of `lengths` characters, the user first; each starts with the dialogue's name and a number."""
    turns = [Message("system", system, system)] if system else []
    for place, length in enumerate(lengths):
        text = f"{name}/{place} ".ljust(length, "x")
        role = "assistant" if place % 2 else "user"
        turns.append(Message(role, f"{{blocks}} {text}" if place % 2 else text, text))
    return tuple(turns)


def config(others: int = 2, max_tokens: int = 100_000, bytes_per_token: float = 1.0) -> Blend:
    return Blend(sources=("listener",), others=others, max_tokens=max_tokens, bytes_per_token=bytes_per_token)


def dialogue_names(turns: Sequence[Message]) -> list[str]:
    """Return the names of the blended dialogues in order."""
    names = [turn.text.split("/")[0] for turn in turns if turn.role != "system"]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


worlds = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=4),
    st.tuples(st.lists(st.integers(1, 60), min_size=2, max_size=7), st.sampled_from([None, "Be kind.", "Be brief."])),
    max_size=8,
).map(lambda drawn: {name: dialogue(name, *lengths, system=system) for name, (lengths, system) in drawn.items()})


@given(worlds, st.integers(1, 4), st.integers(100, 1500), st.sampled_from([1.0, 3.5]), st.integers(0, 9))
def test_followers_are_whole_or_cut_at_a_reply_within_the_limit(
    world: Dialogues, others: int, max_tokens: int, bytes_per_token: float, seed: int
) -> None:
    made = blend_dialogues(world, config(others, max_tokens, bytes_per_token), seed, "listener")
    assert made.keys() == world.keys()
    for name, turns in made.items():
        own = up_to_last_reply(world[name])
        assert tuple(turns[: len(own)]) == own
        assert turns[-1].role == "assistant"
        spoken = turns[1:] if turns[0].role == "system" else turns
        assert [turn.role for turn in spoken] == ["user", "assistant"] * (len(spoken) // 2)
        first, *rest = dialogue_names(turns)
        assert first == name and name not in rest
        assert len(set(rest)) == len(rest) <= others
        if rest:
            assert token_bound(turns, bytes_per_token) + TEMPLATE_TOKENS <= max_tokens
        at = len(own)
        for place, other in enumerate(rest):
            theirs = [turn for turn in up_to_last_reply(world[other]) if turn.role != "system"]
            part = turns[at : at + len(theirs)] if place < len(rest) - 1 else turns[at:]
            assert part == theirs[: len(part)]
            assert len(part) == len(theirs) or place == len(rest) - 1, "only the last one may be cut"
            assert world[other][0].content == turns[0].content or turns[0].role != "system"
            at += len(part)
        assert at == len(turns)


@given(worlds, st.integers(0, 9))
def test_with_a_large_limit_all_dialogues_with_the_same_system_message_follow(world: Dialogues, seed: int) -> None:
    def system(name: str) -> str | None:
        return world[name][0].content if world[name][0].role == "system" else None

    made = blend_dialogues(world, config(others=8), seed, "listener")
    for name, turns in made.items():
        assert sorted(dialogue_names(turns)) == sorted(other for other in world if system(other) == system(name))


@given(worlds, st.integers(0, 9), st.data())
def test_the_sample_is_independent_of_the_order_of_dialogues(world: Dialogues, seed: int, data: st.DataObject) -> None:
    shuffled = {name: world[name] for name in data.draw(st.permutations(sorted(world)))}
    assert blend_dialogues(shuffled, config(1), seed, "listener") == blend_dialogues(world, config(1), seed, "listener")


def followers(world: Mapping[str, tuple[Message, ...]], seed: int, source: str = "listener") -> list[str]:
    return [dialogue_names(turns)[1] for turns in blend_dialogues(world, config(1), seed, source).values()]


def test_followers_are_drawn_uniformly_by_seed_and_source() -> None:
    world = {f"d{number}": dialogue(f"d{number}", 9, 9) for number in range(8)}
    drawn = {seed: followers(world, seed) for seed in range(60)}
    assert drawn == {seed: followers(world, seed) for seed in range(60)}
    assert followers(world, 0) != followers(world, 0, "instructions")
    counts = [sum(names.count(name) for names in drawn.values()) for name in world]
    assert min(counts) > 30 and max(counts) < 90, "60 each are expected"


def test_dialogues_with_the_same_opening_do_not_follow_each_other() -> None:
    """Two leaves of one thread share their first messages."""
    thread = dialogue("a", 20, 20)
    leaves = {"t1": thread, "t2": (*thread, *dialogue("b", 20, 20))}
    assert blend_dialogues(leaves, config(), 0, "listener") == {name: list(turns) for name, turns in leaves.items()}
    found = blend_dialogues({**leaves, "c": dialogue("c", 20, 20)}, config(), 0, "listener")
    assert [dialogue_names(found[name]) for name in ("t1", "t2")] == [["a", "c"], ["a", "b", "c"]]
    assert dialogue_names(found["c"]) in (["c", "a"], ["c", "a", "b"]), "one of the two leaves, not both"


def test_the_limit_is_exact_to_the_token() -> None:
    one, other = dialogue("a", 10, 10), dialogue("b", 10, 10, 10, 10, 10)
    whole = TEMPLATE_TOKENS + token_bound([*one, *other[:4]], 1.0)
    assert token_bound(one, 1.0) == 10 + len("{blocks} ") + 10 + 2 * MESSAGE_TOKENS
    for limit, kept in ((whole, 4), (whole - 1, 2), (whole - token_bound(other[2:4], 1.0) - 1, 0), (1, 0)):
        assert len(blend_dialogues({"a": one, "b": other}, config(1, limit), 0, "listener")["a"]) == 2 + kept


def test_token_bound_counts_bytes_not_characters() -> None:
    assert token_bound([Message("user", "é😀")], 1.0) == 6 + MESSAGE_TOKENS
    assert token_bound([Message("user", "é😀")], 4.0) == 2 + MESSAGE_TOKENS


def test_a_single_dialogue_is_unchanged() -> None:
    alone = dialogue("a", 9, 9, 9, system="Be kind.")
    assert blend_dialogues({"a": alone}, config(), 0, "listener") == {"a": list(alone[:3])}
    assert blend_dialogues({}, config(), 0, "listener") == {}


def byte_level() -> Tokenizer:
    """A tokenizer as in Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat, the end"], trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """A tokenizer as in Mixtral and Llama 2: an unknown character becomes its bytes."""
    vocabulary = {piece: place for place, piece in enumerate([*(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcth"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


@pytest.mark.parametrize("kind", [byte_level, byte_fallback])
def test_token_bound_holds_for_byte_level_tokenizers(kind: Callable[[], Tokenizer]) -> None:
    tokenizer = kind()

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def bounds(text: str) -> None:
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert tokens <= token_bound([Message("user", text)], 1.0) - MESSAGE_TOKENS + 1, "one for the space before"

    bounds()
