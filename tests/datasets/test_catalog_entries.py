"""Round trips of the catalog types, and their errors for files that they cannot read."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from kedro.io import DatasetError, Version

from sage_dialog.core.policies import CARD, Policy, PolicyCard
from sage_dialog.core.tables import from_rows, to_arrow, to_rows
from sage_dialog.datasets.figure import AtomicFigure
from sage_dialog.datasets.files import AtomicPage, AtomicText
from sage_dialog.datasets.human_votes import HumanVotes
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.policy import PolicyDirectory
from sage_dialog.datasets.raw_folder import RawFolder
from sage_dialog.datasets.roles import RoleDataset
from sage_dialog.lineage.content import RUN_LINE, DigestCache
from sage_dialog.lineage.output_diff import first_difference

LATEST = Version(None, None)
RUN = "2026-01-01T00.00.00.000Z"
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20 + b"\0\0\0\0IEND\xaeB`\x82"


def table_dataset(tmp_path: Path, version: Version = LATEST) -> AtomicParquet:
    return AtomicParquet(filepath=str(tmp_path / "dialogues.parquet"), version=version)


def reddit(tmp_path: Path) -> RawFolder:
    return RawFolder(
        filepath=str(tmp_path / "reddit"), patterns=["RC_*", "RS_*"], made_by="kedro run --pipelines microworld"
    )


def policy(path: Path) -> Policy:
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    return Policy.write_card(path, PolicyCard("sage_1", "adapter", True, "sage_0", "abc"))


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "topics": ["x"], "n": 1, "messages": [{"role": "user", "content": "hello"}]},
        {"id": "b", "topics": None, "n": None, "messages": []},
    ]
    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    schema = pa.schema(
        [("id", pa.string()), ("topics", pa.list_(pa.string())), ("n", pa.int32()), ("messages", messages)]
    )
    table = from_rows(rows, schema)
    table_dataset(tmp_path).save(table)
    loaded = table_dataset(tmp_path).load()
    assert isinstance(loaded, pd.DataFrame) and (loaded.dtypes == table.dtypes).all()
    assert to_rows(loaded) == rows
    assert to_arrow(loaded).schema.equals(schema)


@pytest.mark.parametrize("entry", [PolicyDirectory, HumanVotes])
def test_policies_and_votes_on_an_object_store_are_refused(entry: type) -> None:
    with pytest.raises(DatasetError, match=r"s3://bucket/x is no local folder, and .* are kept in"):
        entry(filepath="s3://bucket/x")


def test_a_table_is_saved_on_any_fsspec_file_system() -> None:
    for n, version in enumerate((RUN, RUN.replace("2026", "2027")), 1):
        dataset = AtomicParquet(filepath="memory://bucket/n.parquet", version=Version(None, version))
        dataset.save(pd.DataFrame({"n": [n]}))
    latest = AtomicParquet(filepath="memory://bucket/n.parquet", version=LATEST)
    assert latest.exists()
    assert latest.load()["n"].tolist() == [2]


@pytest.mark.parametrize("content", [b"", b"PAR1 cut off", b"id,text\n1,hello\n"], ids=["empty", "truncated", "csv"])
def test_an_unreadable_table_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dialogues.parquet" / RUN / "dialogues.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DatasetError) as refusal:
        table_dataset(tmp_path).load()
    assert str(path) in str(refusal.value)
    assert f"Remove {path.parent} and run the pipeline" in str(refusal.value)


def test_a_table_cut_in_the_middle_is_named(tmp_path: Path) -> None:
    dataset = table_dataset(tmp_path, Version(None, RUN))
    dataset.save(pd.DataFrame({"n": range(5000)}))
    path = tmp_path / "dialogues.parquet" / RUN / "dialogues.parquet"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=r"dialogues\.parquet has no .* no readable Parquet file"):
        table_dataset(tmp_path).load()


def test_a_preview_holds_the_first_rows(tmp_path: Path) -> None:
    table_dataset(tmp_path).save(pd.DataFrame({"n": range(50)}))
    preview = table_dataset(tmp_path).preview(nrows=3)
    assert preview == {"index": [0, 1, 2], "columns": ["n"], "data": [["0"], ["1"], ["2"]]}


def test_a_policy_comes_back_with_its_card(tmp_path: Path) -> None:
    saved = policy(tmp_path / "trained")
    PolicyDirectory(filepath=str(tmp_path / "sage_1"), version=Version(None, RUN)).save(saved)
    loaded = PolicyDirectory(filepath=str(tmp_path / "sage_1"), version=LATEST).load()
    assert loaded.card == saved.card
    assert loaded.revision() == saved.revision()
    assert loaded.path == tmp_path / "sage_1" / RUN / "sage_1"


def test_a_policy_without_card_or_weights_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "sage_1" / RUN / "sage_1"
    whole = policy(folder)
    dataset = PolicyDirectory(filepath=str(tmp_path / "sage_1"), version=LATEST)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(DatasetError, match="no weights") as refusal:
        dataset.load()
    assert str(folder) in str(refusal.value)
    assert f"Remove {folder.parent} and run the pipeline" in str(refusal.value)
    (whole.path / CARD).unlink()
    with pytest.raises(DatasetError, match=f"{CARD} is missing"):
        dataset.load()


@pytest.mark.parametrize("wrong", [{"kind": "lora"}, {"blocks": "false"}])
def test_a_card_with_invalid_values_is_named(tmp_path: Path, wrong: dict[str, str]) -> None:
    card = policy(tmp_path / "sage_0").path / CARD
    card.write_text(json.dumps(json.loads(card.read_text()) | wrong))
    with pytest.raises(FileNotFoundError, match=rf"sage_0 is no policy directory.*'{next(iter(wrong.values()))}'"):
        Policy.open(tmp_path / "sage_0")


@pytest.mark.parametrize("name", ["training_args.bin", "model.pt", "state.pkl", "modeling_custom.py", "sub/x.PKL"])
def test_a_policy_with_a_file_that_can_run_code_is_refused(tmp_path: Path, name: str) -> None:
    trained = policy(tmp_path / "trained")
    (trained.path / name).parent.mkdir(exist_ok=True)
    (trained.path / name).write_bytes(b"")
    dataset = PolicyDirectory(filepath=str(tmp_path / "sage_1"), version=LATEST)
    with pytest.raises(DatasetError, match=f"{name} is of a kind that can run code"):
        dataset.save(trained)
    assert not dataset.exists()


def test_raw_files_are_loaded_by_name(tmp_path: Path) -> None:
    reddit(tmp_path).save({"RS_2015-01.zst": b"s", "RC_2015-01.zst": b"c"})
    files = reddit(tmp_path).load()
    assert list(files) == ["RC_2015-01.zst", "RS_2015-01.zst"]
    assert files["RC_2015-01.zst"].read_bytes() == b"c"


def test_missing_raw_data_names_files_folder_and_command(tmp_path: Path) -> None:
    (tmp_path / "reddit").mkdir()
    (tmp_path / "reddit" / "RC_2015-01.zst").write_bytes(b"1")
    with pytest.raises(DatasetError) as refusal:
        reddit(tmp_path).load()
    message = str(refusal.value)
    assert "no RS_*" in message
    assert "RC_*" not in message
    assert str(tmp_path / "reddit") in message
    assert "Put it there, or do without it ('Without some of the files' in docs/tutorial.md)" in message
    (tmp_path / "reddit" / "RC_2015-01.zst").unlink()
    assert "Put your data there, or run `kedro run --pipelines microworld`." in reddit(tmp_path).explain_missing()
    described = RawFolder(filepath=str(tmp_path / "none"), patterns=["train*"], described_in="docs/imagination.md")
    assert "Put your data there; docs/imagination.md says where it is to be had." in described.explain_missing()


def test_generated_raw_data_replaces_generated_raw_data(tmp_path: Path) -> None:
    reddit(tmp_path).save({"RC_2015-01": b"1", "RS_2015-01": b"1", "RC_2015-02": b"1"})
    reddit(tmp_path).save({"RC_2015-01": b"2", "RS_2015-01": b"2"})
    assert list(reddit(tmp_path).load()) == ["RC_2015-01", "RS_2015-01"]
    assert [path.name for path in tmp_path.iterdir()] == ["reddit"]


@pytest.mark.parametrize("touch", ["RC_2011-01", "RC_2015-01"], ids=["a file of the user's", "a file the user changed"])
def test_generated_raw_data_never_replaces_the_users(tmp_path: Path, touch: str) -> None:
    reddit(tmp_path).save({"RC_2015-01": b"1", "RS_2015-01": b"1"})
    (tmp_path / "reddit" / touch).write_bytes(b"the user's own")
    with pytest.raises(DatasetError, match=touch):
        reddit(tmp_path).save({"RC_2015-01": b"2", "RS_2015-01": b"2"})
    assert (tmp_path / "reddit" / touch).read_bytes() == b"the user's own"


@pytest.mark.parametrize("name", ["notes.txt", "../RC_2015-01", "RC_sub/RC_1"])
def test_raw_files_stay_in_their_folder_and_pattern(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="do not match"):
        reddit(tmp_path).save({name: b""})
    assert not (tmp_path / "reddit").exists()


def test_a_role_is_made_from_its_class_and_never_saved() -> None:
    dataset = RoleDataset(role="fractions.Fraction", args={"numerator": 1, "denominator": 2})
    assert float(dataset.load()) == 0.5
    assert dataset.exists()
    with pytest.raises(DatasetError, match="nothing can be saved"):
        dataset.save("a role")


@pytest.mark.parametrize(
    ("role", "args"),
    [("sage_dialog.roles.nobody.Nobody", {}), ("fractions.Nothing", {}), ("fractions.Fraction", {"no_such": 1})],
)
def test_a_role_that_cannot_be_built_names_the_configuration_file(role: str, args: dict[str, object]) -> None:
    with pytest.raises(DatasetError, match=r"conf/\*/catalog_roles\.yml") as refusal:
        RoleDataset(role=role, args=args).load()
    assert role in str(refusal.value)
    assert not RoleDataset(role=role, args=args).exists()


def test_the_arguments_of_a_role_are_never_printed() -> None:
    dataset = RoleDataset(role="fractions.Nothing", args={"api_key": "secret"})
    with pytest.raises(DatasetError, match=r"fractions\.Nothing \(api_key\)") as refusal:
        dataset.load()
    assert "secret" not in f"{refusal.value} {dataset}"


def test_text_and_image_come_back(tmp_path: Path) -> None:
    text = AtomicText(filepath=str(tmp_path / "report.html"), version=LATEST)
    text.save("<p>… é</p>")
    assert text.load() == "<p>… é</p>"
    image = AtomicFigure(filepath=str(tmp_path / "figure.png"), version=LATEST)
    image.save(PNG)
    assert image.load() == PNG


def test_a_page_names_its_run_in_a_line_that_comparisons_leave_out(tmp_path: Path) -> None:
    third = "2026-01-03T00.00.00.000Z"
    runs = {RUN: "Run one, commit <abc>", "2026-01-02T00.00.00.000Z": "Run two", third: None}
    saved = {}
    for version, run in runs.items():
        page = AtomicPage(filepath=str(tmp_path / "report.html"), version=Version(None, version))
        page.run = run
        page.save(f"<h1>A report</h1>\n{RUN_LINE}\n<p>{'Other' if version == third else 'One'} result</p>\n")
        saved[version] = (page.load(), page.content(version).sha256, Path(page.describe_output().path))
    (one, sha_one, path_one), (two, sha_two, path_two), (_, sha_other, path_other) = saved.values()
    assert one == f"<h1>A report</h1>\n{RUN_LINE}<p>Run one, commit &lt;abc&gt;</p>\n<p>One result</p>\n"
    assert one != two and sha_one == sha_two != sha_other
    assert first_difference(path_one, path_two) is None
    difference = first_difference(path_one, path_other)
    assert difference and (difference.where, difference.after) == ("line 3", "<p>Other result</p>")
    digests = DigestCache(tmp_path / "digests.json")
    assert digests.content(path_one).sha256 == digests.content(path_two).sha256 == sha_one


def test_a_file_that_is_no_image_is_refused_and_named(tmp_path: Path) -> None:
    image = AtomicFigure(filepath=str(tmp_path / "figure.png"))
    with pytest.raises(DatasetError, match="no PNG"):
        image.save(json.dumps({}).encode())
    (tmp_path / "figure.png").write_bytes(b"<svg/>")
    with pytest.raises(DatasetError, match=r"figure\.png is no readable PNG"):
        image.load()
