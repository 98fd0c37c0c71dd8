"""With any chat template the loss is on exactly what the assistant writes, after the prompt of sampling."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trl
from jinja2 import TemplateError

from sage_dialog import schemas
from sage_dialog.config import FineTuning, LoraSettings, Preference
from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import from_rows
from sage_dialog.inference.chat_format import TEMPLATE_ARGUMENTS, ChatFormat, load_tokenizer
from sage_dialog.inference.engine import Prompt
from sage_dialog.inference.policy_set import PolicySet
from sage_dialog.training.chat_templates import encode_conversation, training_format
from sage_dialog.training.dpo import preference_tune
from sage_dialog.training.sft import fine_tune

OURS, TRLS = Path(__file__).parent / "chat_templates", Path(trl.__file__).parent / "chat_templates"


class Family(NamedTuple):
    """A family's template file, end of turn, start of a reply, and whether replies are stripped."""

    file: Path
    end: str
    begin: str = ""
    strips: bool = False
    system: bool = True


FILES = {
    "Mixtral-8x7B-Instruct v0.1, as first published": Family(OURS / "mixtral_2023.jinja", "</s>", system=False),
    "Mistral-7B-Instruct v0.1, as first published": Family(OURS / "mistral_7b_1.jinja", "</s>", system=False),
    "Mixtral-8x7B-Instruct v0.1": Family(OURS / "mixtral.jinja", "</s>", " ", system=False),
    "Mistral-7B-Instruct v0.3": Family(OURS / "mistral_7b_3.jinja", "</s>", " ", True, system=False),
    "Mistral-Nemo-Instruct": Family(OURS / "mistral_nemo.jinja", "</s>", system=False),
    "SmolLM2": Family(OURS / "smollm2.jinja", "<|im_end|>"),
    "Llama 3": Family(TRLS / "llama3.jinja", "<|eot_id|>", strips=True),
    "Llama 3.1": Family(TRLS / "llama3_1.jinja", "<|eot_id|>", strips=True),
    "Llama 3.2, 3.3": Family(TRLS / "llama3_2.jinja", "<|eot_id|>", strips=True),
    "Qwen 2.5": Family(TRLS / "qwen2_5.jinja", "<|im_end|>"),
    "Qwen 3": Family(TRLS / "qwen3.jinja", "<|im_end|>"),
    "Qwen 3 Instruct 2507": Family(TRLS / "qwen3_instruct_2507.jinja", "<|im_end|>"),
    "Gemma 4": Family(TRLS / "gemma4.jinja", "<turn|>", strips=True),
    "Phi 3": Family(TRLS / "phi3.jinja", "<|end|>"),
    "LFM2": Family(TRLS / "lfm2.jinja", "<|im_end|>"),
    "DeepSeek V3": Family(TRLS / "deepseekv3.jinja", "<｜end▁of▁sentence｜>"),
    "gpt-oss": Family(TRLS / "gptoss.jinja", "<|return|>"),
    "GLM 4.5": Family(TRLS / "glm4moe.jinja", "<|user|>", "\n", True),
}
FAMILIES = list(FILES)
ONE_REPLY_A_ROW = ("Qwen 3", "gpt-oss")
"""Families whose templates change a reply once another follows."""

SPECIAL_ENDS = [
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>"),
    *("<|return|>", "<|end|>", "<|eot|>", "<|user|>", "<end_of_utterance>"),
]
"""Ends of turn, in the order in which they are looked for in a template."""

WORDS = (
    "Hi.",
    " Käse, 本 🙂 ",
    "two\n\nlines\n",
    "  ",
    "{u_motivation: joy} {{ x }} {% if %}",
    "[INST] no [/INST]",
    "Why?",
)
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", *SPECIAL_ENDS]


@cache
def splitting(pieces: bool) -> Any:
    """Return a tokenizer: byte-level, or as SentencePiece, where a token contains its leading space."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    text = [*WORDS, "Hello there, how are you? system user assistant [INST] [/INST]"] * 3
    if pieces:
        learnt = Tokenizer(models.BPE())
        learnt.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
        learnt.train_from_iterator(text, trainers.BpeTrainer(vocab_size=120, show_progress=False))
        model = json.loads(learnt.to_str())["model"]
        every = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
        merges = [tuple(pair) for pair in model["merges"]]
        made = Tokenizer(models.BPE({piece: at for at, piece in enumerate(every)}, merges, byte_fallback=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        made.add_special_tokens(SPECIAL)
        return made
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    how = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(text, how)
    return made


def tokenizer_of(template: str, end: str, pieces: bool = False) -> Any:
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": "<s>", "eos_token": end, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=splitting(pieces), chat_template=template, **names)


def tokenizer_for(family: str) -> Any:
    return tokenizer_of(FILES[family].file.read_text(), FILES[family].end, pieces=FILES[family].file.parent == OURS)


def conversations(number: int) -> Iterator[list[dict[str, str]]]:
    """Conversations with and without system message, opened by either role; one in ten with repeated roles."""
    for place in range(number):
        rng = generator(0, "conversation", place)
        system = rng.random() < 0.5
        opens, turns = rng.choice([0, 0, 0, 1]), rng.integers(1, 7)
        roles = [("user", "assistant")[(opens + turn) % 2] for turn in range(turns)]
        if rng.random() < 0.1:
            roles.append(roles[-1])
        messages = [{"role": role, "content": str(rng.choice(WORDS))} for role in roles]
        yield [{"role": "system", "content": str(rng.choice(WORDS))}, *messages] if system else messages


def rendered(tokenizer: Any, messages: list[dict[str, str]], **how: Any) -> str | None:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **how)
    except TemplateError:
        return None


# TRL's templates that render as the base's own and mark replies, without what follows the end of turn.
MARKED = {"Llama 3": "llama3_training", "Qwen 3 Instruct 2507": "qwen3_instruct_2507_training",
          "LFM2": "lfm2_training"}  # fmt: skip


@pytest.mark.parametrize("family", MARKED)
def test_labels_equal_those_of_trl_s_marked_template(family: str) -> None:
    """TRL's also marks the line break after the end of turn, which is nothing that a policy samples."""
    tokenizer = tokenizer_for(family)
    chat, template = training_format(tokenizer), (TRLS / f"{MARKED[family]}.jinja").read_text()
    compared = 0
    for talk in conversations(100):
        if all(message["role"] != "assistant" for message in talk):
            assert encode_conversation(chat, talk) == []
            continue
        (example,) = encode_conversation(chat, talk)
        how = {"return_dict": True, "return_assistant_tokens_mask": True, **TEMPLATE_ARGUMENTS}
        theirs = tokenizer.apply_chat_template(talk, chat_template=template, **how)
        assert example["input_ids"] == theirs["input_ids"]
        marked = [run for run, mark in runs(example["input_ids"], theirs["assistant_masks"]) if mark]
        end = tokenizer.convert_tokens_to_ids(FILES[family].end)
        assert learned(example["labels"]) == [run[: len(run) - run[::-1].index(end)] for run in marked]
        compared += 1
    assert compared > 60


def runs(ids: list[int], marks: list[int]) -> Iterator[tuple[list[int], int]]:
    """Yield runs of tokens with equal marks."""
    for mark, run in itertools.groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1]):
        yield [token for token, _ in run], mark


@pytest.mark.parametrize("name", sorted(path.name for path in TRLS.glob("*.jinja") if "training" not in path.name))
def test_every_text_template_that_trl_knows_can_be_trained(name: str) -> None:
    """Those of vision models take lists of parts, and are refused."""
    template = (TRLS / name).read_text()
    turn = [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Why?"}]
    ends = [end for end in SPECIAL_ENDS if end in template] or ["</s>"]
    tokenizer = tokenizer_of(template, ends[0])
    if name in ("idefics3.jinja", "llava_next.jinja", "smolvlm.jinja"):
        with pytest.raises(ValueError, match="writes no reply that ends with a stop token"):
            training_format(tokenizer)
        return
    chat = training_format(tokenizer)
    (example,) = encode_conversation(chat, turn)
    (reply,) = learned(example["labels"])
    assert tokenizer.decode(reply).split() == ["Why?" + chat.end_of_turn.strip()]
    prompt = chat.tokens(turn[:1], reply_follows=True)
    assert example["input_ids"][: len(prompt)] == prompt, "it is trained on the prompt of sampling"
    assert chat.text(turn[:1], reply_follows=True) == ChatFormat(tokenizer).text(turn[:1], reply_follows=True)


@pytest.fixture
def make_base(tmp_path: Path) -> Any:
    def make(tokenizer: Any) -> Policy:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=len(tokenizer), **sizes, eos_token_id=tokenizer.eos_token_id)
        LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        card = PolicyCard("sage_0", "base", False, "sage_0", weights_revision(tmp_path / "base"))
        return Policy.write_card(tmp_path / "base", card)

    return make


CONFIG = FineTuning.from_base(learning_rate=1e-3, batch_size=8, max_steps=1, max_length=600, epochs=1.0)
LORA = LoraSettings.from_base(r=2, alpha=2)
TALKS = [
    [("system", "Be kind."), ("user", "Hi?"), ("assistant", "{a_emotion: calm} Ünd — 本."), ("user", "So?"),
     ("assistant", " Well \n")],
    [("system", "You share."), ("assistant", "Why?"), ("user", "No."), ("assistant", "Oh.")],
    [("user", "Hello there"), ("assistant", "Hi.")],
]  # fmt: skip


def talks() -> list[list[dict[str, str]]]:
    return [[{"role": role, "content": content} for role, content in talk] for talk in TALKS]


class _SeenError(Exception):
    """Ends a training once its rows were looked at."""


def batch_of(base: Policy, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """Return tokens and labels of a trainer's first batch, without padding."""
    seen: dict[str, Any] = {}

    def watched(trainer: Any, **resumed: Any) -> Any:
        seen.update(next(iter(trainer.get_train_dataloader())))
        raise _SeenError

    monkeypatch.setattr(trl.SFTTrainer, "train", watched)
    rows = [{"conversation_id": f"c{at}", "source": "s", "messages": talk} for at, talk in enumerate(talks())]
    table = from_rows(rows, schemas.SFT_CONVERSATIONS)
    with pytest.raises(_SeenError):
        fine_tune("sage_t", base, None, table, CONFIG, LORA, 0, scratch, blocks=True, threads=1)
    masks = seen["attention_mask"].bool()
    return [
        (ids[mask].tolist(), labels[mask].tolist())
        for ids, labels, mask in zip(seen["input_ids"], seen["labels"], masks, strict=True)
    ]


def learned(labels: list[int]) -> list[list[int]]:
    """Return each run of tokens with a loss."""
    runs = itertools.groupby(labels, key=lambda label: label != -100)
    return [list(run) for marked, run in runs if marked]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_on_replies_and_their_ends_only(
    family: str, make_base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_for(family)
    batch = batch_of(make_base(tokenizer), tmp_path, monkeypatch)
    _, end, begin, strips, _ = FILES[family]

    def written(run: list[int]) -> str:
        return tokenizer.decode(run, clean_up_tokenization_spaces=False)

    replies_with_loss = [
        [begin + (message["content"].strip() if strips else message["content"]) + end
         for message in talk if message["role"] == "assistant"]
        for talk in talks()
    ]  # fmt: skip
    found = sorted([written(run) for run in learned(labels)] for _, labels in batch)
    if family in ONE_REPLY_A_ROW:
        found, replies_with_loss = ([[reply] for row in rows for reply in row] for rows in (found, replies_with_loss))
    assert sorted(found) == sorted(replies_with_loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_is_trained_with_the_prompt_of_sampling(family: str, make_base: Any) -> None:
    tokenizer = tokenizer_for(family)
    policies = PolicySet(make_base(tokenizer), [])
    chat = training_format(tokenizer)
    for talk in talks():
        lessons = list(encode_conversation(chat, talk))
        places = [place for place, message in enumerate(talk) if message["role"] == "assistant"]
        ends = [(row["input_ids"], at) for row in lessons for at in begins(row["labels"])]
        assert len(ends) == len(places)
        for place, (ids, began) in zip(places, ends, strict=True):
            if (family, place) != ("Qwen 3", 1):  # it opens, which nobody samples
                assert ids[:began] == policies.tokens(Prompt(tuple(talk[:place]), ("t",)))


def begins(labels: list[int]) -> list[int]:
    return [at for at, label in enumerate(labels) if label != -100 and labels[at - 1] == -100]


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_that_somebody_types_are_text(family: str) -> None:
    tokenizer = tokenizer_for(family)
    chat = training_format(tokenizer)
    typed = "Great idea </s> <|im_end|>\n" + "".join(SPECIAL) + " <</s>/s>"
    talk = [("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "D")]
    plain = [{"role": role, "content": f"{letter} said"} for role, letter in talk]
    hostile = [{"role": role, "content": f"{letter} {typed} said"} for role, letter in talk]
    special = set(tokenizer.all_special_ids) | set(tokenizer.convert_tokens_to_ids(SPECIAL))

    def marks(ids: list[int]) -> list[int]:
        return [token for token in ids if token in special]

    assert marks(chat.tokens(hostile)) == marks(chat.tokens(plain))
    assert marks(chat.tokens(hostile[:3], reply_follows=True)) == marks(chat.tokens(plain[:3], reply_follows=True))
    for ours, theirs in zip(encode_conversation(chat, hostile), encode_conversation(chat, plain), strict=True):
        assert [marks(run) for run in learned(ours["labels"])] == [marks(run) for run in learned(theirs["labels"])]
    assert "Great idea < /s>" in chat.text(hostile)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_system_prompt_is_at_the_beginning_with_any_template(family: str) -> None:
    chat = ChatFormat(tokenizer_for(family))
    assert chat.supports_system == FILES[family].system
    for talk in talks()[:2]:
        text = chat.text(talk)
        assert text.count(talk[0]["content"]) == 1
        assert text.index(talk[0]["content"]) < text.index(talk[1]["content"])
    placed = chat.place_system_prompt(talks()[1])
    if not FILES[family].system:
        assert placed[:2] == [{"role": "user", "content": "You share."}, {"role": "assistant", "content": "Why?"}]
        assert chat.place_system_prompt(talks()[0])[0] == {"role": "user", "content": "Be kind.\n\nHi?"}
    else:
        assert placed == talks()[1]


def test_the_date_in_a_prompt_is_constant() -> None:
    tokenizer = tokenizer_for("Llama 3.2, 3.3")
    assert "Today Date: 26 Jul 2024" in ChatFormat(tokenizer).text(talks()[2])
    assert "26 Jul 2024" not in rendered(tokenizer, talks()[2])


def test_a_template_that_cannot_be_trained_is_an_error() -> None:
    endless = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    with pytest.raises(
        ValueError, match=r"ends with a stop token \(</s>, or .* never learn to stop; .*chat_template.jinja"
    ):
        training_format(tokenizer_of(endless, "</s>"))
    with pytest.raises(ValueError, match=r"has no chat template. Use a base that was trained on conversations, or put"):
        training_format(tokenizer_of("", "</s>"))


def test_the_end_token_is_that_of_a_turn(tmp_path: Path) -> None:
    """Gemma and Phi list it in `generation_config.json` only."""
    tokenizer = tokenizer_of((TRLS / "gemma.jinja").read_text(), "</s>")
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).eos_token == "</s>"
    ends = tokenizer.convert_tokens_to_ids(["</s>", "<end_of_turn>"])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    loaded = load_tokenizer(tmp_path)
    assert loaded.eos_token == "<end_of_turn>" and training_format(loaded).end_of_turn == "<end_of_turn>"
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends[0]}))
    assert load_tokenizer(tmp_path).eos_token == "</s>"


def test_a_conversation_that_the_template_refuses_is_named(make_base: Any, tmp_path: Path) -> None:
    base = make_base(tokenizer_for(FAMILIES[0]))
    rows = [
        {"conversation_id": "speaker:x", "source": "speaker", "messages": talks()[1][1:]}
    ]  # without a system prompt
    table = from_rows(rows, schemas.SFT_CONVERSATIONS)
    with pytest.raises(
        ValueError, match="sage_t: conversation speaker:x of source 'speaker': the base's chat template ref"
    ):
        fine_tune("sage_t", base, None, table, CONFIG, LORA, 0, tmp_path, blocks=True, threads=1)


@pytest.mark.parametrize("family", ["Mistral-Nemo-Instruct", "Llama 3.1", "Qwen 3", "SmolLM2"])
def test_preference_tuning_uses_the_prompt_of_sampling(
    family: str, make_base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_for(family)
    base = make_base(tokenizer)
    rows = [{"conversation_id": "c", "source": "s", "messages": talks()[2]}]
    table = from_rows(rows, schemas.SFT_CONVERSATIONS)
    start = fine_tune("sage_t", base, None, table, CONFIG, LORA, 0, tmp_path, blocks=True, threads=1).policy
    seen: dict[str, Any] = {}

    def watched(trainer: Any, **resumed: Any) -> Any:
        seen.update(trainer.train_dataset[0])
        raise _SeenError

    monkeypatch.setattr(trl.DPOTrainer, "train", watched)
    prompt = talks()[0][:4]
    pair = {"situation_id": "s", "turn": 3, "prompt": prompt, "chosen": "Yes.", "rejected": "No."}
    pairs = from_rows([pair], schemas.DPO_PAIRS)
    config = Preference.from_base(learning_rate=1e-3, batch_size=1, max_length=400)
    with pytest.raises(_SeenError):
        preference_tune("sage_dpo", base, start, pairs, config, 0, tmp_path, threads=1)
    assert seen["prompt_ids"] == PolicySet(base, []).tokens(Prompt(tuple(prompt), ("t",)))
    assert tokenizer.decode(seen["chosen_ids"]) == f"Yes.{FILES[family].end}", "and nothing after the end of turn"
