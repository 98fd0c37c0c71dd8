"""A run whose inputs descend from two contents of a dataset is detected."""

from run_records import run_name

from sage_dialog.hooks.run_record import format_mixed_datasets
from sage_dialog.lineage.mixing import find_mixed_datasets
from sage_dialog.lineage.records import File, InputRecord


def test_an_iteration_on_an_old_policy_is_reported_with_ways_out(runs, keep):
    keep(1, {"sft": ((), ("sage_1",)), "play": (("sage_1",), ("trajectories_1",)),
             "refine": (("trajectories_1", "sage_1"), ("sage_2",))},
         contents={"sage_1": "old", "trajectories_1": "t", "sage_2": "s2"})  # fmt: skip
    keep(2, {"sft": ((), ("sage_1",))}, contents={"sage_1": "new"})
    reads = {
        "sage_1": InputRecord(version=run_name(2), sha256="new"),
        "sage_2": InputRecord(version=run_name(1), sha256="s2"),
    }
    (mix,) = find_mixed_datasets(reads, runs)
    message = format_mixed_datasets([mix])
    assert f"sage_1: this run reads {run_name(2)}" in message
    assert f"sage_2 {run_name(1)} was made from {run_name(1)}" in message
    assert "kedro sage refresh" in message and "mix_versions=true" in message and "--load-versions" in message


def test_inputs_made_from_different_ancestors_are_reported_with_both_paths(runs, keep):
    keep(1, {"a": ((), ("world",))}, contents={"world": "w1"})
    keep(2, {"b": (("world",), ("left",))}, {"world": InputRecord(version=run_name(1), sha256="w1")}, {"left": "l"})
    keep(3, {"a": ((), ("world",)), "m": (("world",), ("middle",)), "c": (("middle",), ("right",))},
         contents={"world": "w2", "middle": "m", "right": "r"})  # fmt: skip
    found = find_mixed_datasets(
        {"left": InputRecord(version=run_name(2)), "right": InputRecord(version=run_name(3))}, runs
    )
    assert [mix.first.name for mix in found] == ["world"]
    message = str(found[0])
    assert f"left {run_name(2)} was made from {run_name(1)}" in message
    assert f"right {run_name(3)} from middle {run_name(3)} was made from {run_name(3)}" in message


def test_equal_content_in_two_versions_is_not_mixed(runs, keep):
    keep(1, {"sft": ((), ("sage_1",)), "next": (("sage_1",), ("sage_2",))}, contents={"sage_1": "same", "sage_2": "x"})
    keep(2, {"sft": ((), ("sage_1",))}, contents={"sage_1": "same"})
    reads = {
        "sage_1": InputRecord(version=run_name(2), sha256="same"),
        "sage_2": InputRecord(version=run_name(1), sha256="x"),
    }
    assert find_mixed_datasets(reads, runs) == []


def test_what_differs_before_equal_content_is_not_mixed(runs, keep):
    """Fresh by content: `a` came out the same from another world, and `b` was not made again."""
    keep(1, {"w": ((), ("world",)), "m": (("world",), ("a",)), "n": (("a",), ("b",))},
         contents={"world": "w1", "a": "same", "b": "b"})  # fmt: skip
    keep(2, {"w": ((), ("world",)), "m": (("world",), ("a",))}, contents={"world": "w2", "a": "same"})
    latest = {"world": run_name(2), "a": run_name(2), "b": run_name(1)}
    reads = {
        "world": InputRecord(version=run_name(2), sha256="w2"),
        "b": InputRecord(version=run_name(1), sha256="b"),
    }
    assert find_mixed_datasets(reads, runs, latest.get) == []
    keep(3, {"m": (("world",), ("a",))}, {"world": reads["world"]}, {"a": "other"})
    (mix,) = find_mixed_datasets(reads, runs, (latest | {"a": run_name(3)}).get)
    assert mix.first.name == "world"


def test_versions_without_a_record_and_unknown_contents_pass(runs):
    reads = {
        "sage_1": InputRecord(version=run_name(2), sha256="new"),
        "sage_2": InputRecord(version=run_name(1), sha256="x"),
    }
    assert find_mixed_datasets(reads, runs) == []


def test_different_roles_are_not_mixed_and_changed_raw_files_are(runs, keep):
    def raw(sha256: str) -> InputRecord:
        return InputRecord(files={"RC_2012-01": File(bytes=1, modified_ns=1, sha256=sha256)})

    keep(
        1,
        {"n": (("judge", "dumps"), ("table",))},
        {"judge": InputRecord(definition={"role": "a"}), "dumps": raw("1")},
        {"table": "t"},
    )
    table = InputRecord(version=run_name(1), sha256="t")
    assert (
        find_mixed_datasets({"judge": InputRecord(definition={"role": "b"}), "dumps": raw("1"), "table": table}, runs)
        == []
    )
    (mix,) = find_mixed_datasets({"dumps": raw("2"), "table": table}, runs)
    assert mix.first.name == "dumps"


def test_tables_of_previous_runs_in_a_training_mix_are_not_followed(runs, keep):
    """A sage_1 that learns from dialogues of its predecessor would always be mixed."""
    keep(1, {"p": (("sage_1",), ("trajectories_2",)), "s": ((), ("sage_1",))},
         contents={"sage_1": "first", "trajectories_2": "t"})  # fmt: skip
    earlier = InputRecord(definition={"folder": "f", "tables": {"trajectories_2": run_name(1)}})
    keep(2, {"s": (("earlier",), ("sage_1",))}, {"earlier": earlier}, {"sage_1": "second"})
    assert find_mixed_datasets({"sage_1": InputRecord(version=run_name(2), sha256="second")}, runs) == []
