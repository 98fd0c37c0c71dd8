"""Blending: others follow a conversation, never itself, never past the limit, always up to a reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from sage_dialog.config import Blend
from sage_dialog.dialogue import Message
from sage_dialog.training_data.blending import MESSAGE_TOKENS, TEMPLATE_TOKENS, blended, token_bound
from sage_dialog.training_data.sources import up_to_last_reply

Dialogues = dict[str, tuple[Message, ...]]


def dialogue(name: str, *lengths: int, system: str | None = None) -> tuple[Message, ...]:
    """Turns of `lengths` characters, the user's first; each begins with the dialogue's name and its place."""
    turns = [Message("system", system, system)] if system else []
    for place, length in enumerate(lengths):
        text = f"{name}/{place} ".ljust(length, "x")
        role = "assistant" if place % 2 else "user"
        turns.append(Message(role, f"{{blocks}} {text}" if place % 2 else text, text))
    return tuple(turns)


def config(others: int = 2, max_tokens: int = 100_000, bytes_per_token: float = 1.0) -> Blend:
    return Blend(sources=("listener",), others=others, max_tokens=max_tokens, bytes_per_token=bytes_per_token)


def tellers(turns: Sequence[Message]) -> list[str]:
    """Whose turns they are, each dialogue named once."""
    names = [turn.text.split("/")[0] for turn in turns if turn.role != "system"]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


worlds = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=4),
    st.tuples(st.lists(st.integers(1, 60), min_size=2, max_size=7), st.sampled_from([None, "Be kind.", "Be brief."])),
    max_size=8,
).map(lambda told: {name: dialogue(name, *lengths, system=system) for name, (lengths, system) in told.items()})


@given(worlds, st.integers(1, 4), st.integers(100, 1500), st.sampled_from([1.0, 3.5]), st.integers(0, 9))
def test_what_follows_is_others_whole_or_cut_at_a_reply_within_the_limit(
    world: Dialogues, others: int, max_tokens: int, bytes_per_token: float, seed: int
) -> None:
    made = blended(world, config(others, max_tokens, bytes_per_token), seed, "listener")
    assert made.keys() == world.keys()
    for name, turns in made.items():
        own = up_to_last_reply(world[name])
        assert tuple(turns[: len(own)]) == own
        assert turns[-1].role == "assistant"
        said = turns[1:] if turns[0].role == "system" else turns
        assert [turn.role for turn in said] == ["user", "assistant"] * (len(said) // 2)
        first, *rest = tellers(turns)
        assert first == name and name not in rest
        assert len(set(rest)) == len(rest) <= others
        if rest:
            assert token_bound(turns, bytes_per_token) + TEMPLATE_TOKENS <= max_tokens
        at = len(own)
        for place, other in enumerate(rest):
            theirs = [turn for turn in up_to_last_reply(world[other]) if turn.role != "system"]
            part = turns[at : at + len(theirs)] if place < len(rest) - 1 else turns[at:]
            assert part == theirs[: len(part)]
            assert len(part) == len(theirs) or place == len(rest) - 1, "only the last is cut"
            assert world[other][0].content == turns[0].content or turns[0].role != "system"
            at += len(part)
        assert at == len(turns)


@given(worlds, st.integers(0, 9))
def test_with_room_enough_all_that_are_alike_follow(world: Dialogues, seed: int) -> None:
    def system(name: str) -> str | None:
        return world[name][0].content if world[name][0].role == "system" else None

    made = blended(world, config(others=8), seed, "listener")
    for name, turns in made.items():
        assert sorted(tellers(turns)) == sorted(other for other in world if system(other) == system(name))


@given(worlds, st.integers(0, 9), st.data())
def test_the_draw_is_by_item_whatever_the_order_of_work(world: Dialogues, seed: int, data: st.DataObject) -> None:
    shuffled = {name: world[name] for name in data.draw(st.permutations(sorted(world)))}
    assert blended(shuffled, config(1), seed, "listener") == blended(world, config(1), seed, "listener")


def followers(world: Mapping[str, tuple[Message, ...]], seed: int, source: str = "listener") -> list[str]:
    return [tellers(turns)[1] for turns in blended(world, config(1), seed, source).values()]


def test_who_follows_is_drawn_evenly_by_seed_and_source() -> None:
    world = {f"d{number}": dialogue(f"d{number}", 9, 9) for number in range(8)}
    drawn = {seed: followers(world, seed) for seed in range(60)}
    assert drawn == {seed: followers(world, seed) for seed in range(60)}
    assert followers(world, 0) != followers(world, 0, "instructions")
    counts = [sum(names.count(name) for names in drawn.values()) for name in world]
    assert min(counts) > 30 and max(counts) < 90, "60 each are expected"


def test_dialogues_that_open_alike_do_not_follow_each_other() -> None:
    """Two leaves of one thread share what was said first."""
    thread = dialogue("a", 20, 20)
    leaves = {"t1": thread, "t2": (*thread, *dialogue("b", 20, 20))}
    assert blended(leaves, config(), 0, "listener") == {name: list(turns) for name, turns in leaves.items()}
    found = blended({**leaves, "c": dialogue("c", 20, 20)}, config(), 0, "listener")
    assert [tellers(found[name]) for name in ("t1", "t2")] == [["a", "c"], ["a", "b", "c"]]
    assert tellers(found["c"]) in (["c", "a"], ["c", "a", "b"]), "one of the two leaves, not both"


def test_the_limit_holds_to_the_token() -> None:
    one, other = dialogue("a", 10, 10), dialogue("b", 10, 10, 10, 10, 10)
    whole = TEMPLATE_TOKENS + token_bound([*one, *other[:4]], 1.0)
    assert token_bound(one, 1.0) == 10 + len("{blocks} ") + 10 + 2 * MESSAGE_TOKENS
    for limit, kept in ((whole, 4), (whole - 1, 2), (whole - token_bound(other[2:4], 1.0) - 1, 0), (1, 0)):
        assert len(blended({"a": one, "b": other}, config(1, limit), 0, "listener")["a"]) == 2 + kept


def test_bytes_are_counted_not_characters() -> None:
    assert token_bound([Message("user", 1.0, "", "é😀")]) == 6 + MESSAGE_TOKENS
    assert token_bound([Message("user", 4.0, "", "é😀")]) == 2 + MESSAGE_TOKENS


def test_what_stands_alone_keeps_its_words() -> None:
    alone = dialogue("a", 9, 9, 9, system="Be kind.")
    assert blended({"a": alone}, config(), 0, "listener") == {"a": list(alone[:3])}
    assert blended({}, config(), 0, "listener") == {}


def byte_level() -> Tokenizer:
    """The kind of Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat, the end"], trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """The kind of Mixtral and Llama 2: a character it does not know becomes its bytes."""
    vocabulary = {piece: place for place, piece in enumerate([*(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcth"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


@pytest.mark.parametrize("kind", [byte_level, byte_fallback])
def test_no_tokenizer_that_works_on_bytes_makes_more_of_a_text(kind: Callable[[], Tokenizer]) -> None:
    tokenizer = kind()

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def bounds(text: str) -> None:
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert tokens <= token_bound([Message("user", 1.0, text, text)]) - MESSAGE_TOKENS + 1, (
            "one for the space before"
        )

    bounds()
