"""conf/real on a small corpus and a tiny model in GGUF: from raw files to the policies of all arms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from kedro.framework.session import KedroSession

pytest.importorskip("gguf", reason="needs the package gguf")

from test_gguf import write_gguf

STRATEGIES = ("Question", "Self-disclosure", "Providing Suggestions", "Others")
EMOTIONS = ("anger", "sadness", "shame")
ARMS = ("sage_1", "sage_1_plain", "sage_1_emotion", "sage_1_action", "sage_1_shuffled")


def conversation(number: int) -> dict[str, object]:
    """Return a conversation of ESConv; the last of the training split is longer than a row may be."""
    dialog = []
    for turn in range(6 if number != 7 else 60):
        speaker = ("usr", "sys")[turn % 2]
        strategy = {"strategy": STRATEGIES[(number + turn) % 4]} if speaker == "sys" else {}
        dialog.append({"speaker": speaker, "text": f"{speaker} {number} says {turn * number}", **strategy})
    return {"emotion_type": EMOTIONS[number % 3], "problem_type": "job crisis", "situation": "s", "dialog": dialog}


def write_corpora(raw: Path) -> None:
    (raw / "esconv").mkdir(parents=True)
    for split, numbers in (("train", range(8)), ("valid", range(20, 24))):
        lines = (json.dumps(conversation(number)) for number in numbers)
        (raw / "esconv" / f"{split}.jsonl").write_text("\n".join(lines))
    (raw / "empathetic_dialogues").mkdir()
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
    for split in ("train", "valid"):
        rows = [f"{split}:{number},1,sad,prompt {split} {number},1,hello,5|5|5_2|2|5," for number in range(4)]
        (raw / "empathetic_dialogues" / f"{split}.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture(scope="module")
def data(configured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a run of every arm."""
    folder = tmp_path_factory.mktemp("real")
    for env in ("base", "real"):
        shutil.copytree(configured / "conf" / env, folder / "conf" / env)
    entry = f"base_file:\n  type: sage_dialog.datasets.gguf_file.GgufFileDataset\n  filepath: {folder}/tiny.gguf\n"
    (folder / "conf/real/catalog_base.yml").write_text(entry)
    write_gguf(folder / "tiny.gguf", context=4096)
    write_corpora(folder / "raw")
    stages = ["base", "data_processing", "sac_augmentation", "sft", "ablations", "reference"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGE_DATA", str(folder / "data"))
        patch.setenv("SAGE_RAW", str(folder / "raw"))
        patch.delenv("SAGE_CORPUS", raising=False)
        training = {"max_steps": 2, "max_length": 2500}
        sampling = {"max_new_tokens": 8, "hold_form": False}
        reference = {"dialogues": 2, "sampled_replies": 2, "replicates": 200, "sampling": sampling}
        options = {"threads": 1, "sft": {"training": training}, "reference": reference}
        with KedroSession.create(
            folder, conf_source=str(folder / "conf"), env="real", runtime_params=options
        ) as session:
            session.run(pipeline_names=stages)
    return folder / "data"


def table(data: Path, name: str) -> pd.DataFrame:
    (path,) = data.glob(f"0*/{name}.parquet/*/{name}.parquet")
    return pd.read_parquet(path)


@pytest.mark.slow
def test_all_arms_are_trained_on_the_same_rows_with_the_labels_of_people(data: Path) -> None:
    annotations = table(data, "annotations")
    assert set(annotations["motivation_source"].dropna()) == set(annotations["emotion_source"].dropna()) == {"human"}
    assert len(annotations["dialogue_id"].unique()) == 8, "no dialogue of the held-out split"
    rejected = {arm: table(data, f"training_rejects_{arm}") for arm in ARMS}
    assert set(rejected["sage_1"]["row"]) == {"listener:esconv/train/7", "speaker:esconv/train/7"}
    for arm in ARMS:
        pd.testing.assert_frame_equal(rejected[arm], rejected["sage_1"])
    chain, plain = (table(data, f"sft_conversations{suffix}") for suffix in ("", "_plain"))
    assert list(chain["conversation_id"]) == list(plain["conversation_id"])
    text = chain.loc[chain["source"] == "listener", "messages"].iloc[0][2]["content"]
    assert "{u_motivation: null, u_emotion: " in text and "a_emotion: null, a_topic: []} sys " in text


def test_policies_are_measured_on_the_held_out_split(data: Path) -> None:
    items, results = table(data, "reference_items"), table(data, "reference_results")
    assert set(items["dialogue_id"].str.partition("/")[2].str.partition("/")[0]) == {"valid"}
    rows = results[(results["measure"] == "bits_per_byte") & results["against"].isna()]
    assert set(zip(rows["policy"], rows["condition"], strict=True)) == {
        ("sage_0", "plain"),
        ("sage_1_plain", "plain"),
        ("sage_1", "marginal"),
        ("sage_1", "gold"),
        ("sage_1", "shuffled"),
    }


def test_the_page_shows_results_and_replies(data: Path) -> None:
    (page,) = data.glob("08_reporting/reference_report.html/*/reference_report.html")
    text = page.read_text()
    for part in ("Held-out conversations of people", "data:image/png;base64,", "What was replied", "<b>human</b>"):
        assert part in text
    assert "usr 2" in text and "<b>sage_1_plain</b>" in text


def test_weights_of_arms_differ(data: Path) -> None:
    weights = {next(data.glob(f"06_models/{arm}/*/{arm}/adapter_model.safetensors")).read_bytes() for arm in ARMS}
    assert len(weights) == len(ARMS)
