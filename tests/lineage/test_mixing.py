"""One dataset behind a run's inputs in two contents is told; what only looks like it is not."""

from sage_dialog.lineage.mixing import mixes, told
from sage_dialog.lineage.records import File, Read


def test_an_iteration_on_an_old_policy_is_told_with_the_way_to_it(runs, keep, make):
    keep(1, {"sft": ((), ("sage_1",)), "play": (("sage_1",), ("trajectories_1",)),
             "refine": (("trajectories_1", "sage_1"), ("sage_2",))},
         contents={"sage_1": "old", "trajectories_1": "t", "sage_2": "s2"})  # fmt: skip
    keep(2, {"sft": ((), ("sage_1",))}, contents={"sage_1": "new"})
    reads = {
        "sage_1": Read(version=make.name(2), sha256="new"),
        "sage_2": Read(version=make.name(1), sha256="s2"),
    }
    (mix,) = mixes(reads, runs)
    said = told([mix])
    assert f"sage_1: this run reads {make.name(2)}" in said
    assert f"sage_2 {make.name(1)} was made from {make.name(1)}" in said
    assert "kedro sage refresh" in said and "mix_versions=true" in said and "--load-versions" in said


def test_two_inputs_made_from_different_ancestors_are_told_with_both_ways(runs, keep, make):
    keep(1, {"a": ((), ("world",))}, contents={"world": "w1"})
    keep(2, {"b": (("world",), ("left",))}, {"world": Read(version=make.name(1), sha256="w1")}, {"left": "l"})
    keep(3, {"a": ((), ("world",)), "m": (("world",), ("middle",)), "c": (("middle",), ("right",))},
         contents={"world": "w2", "middle": "m", "right": "r"})  # fmt: skip
    found = mixes({"left": Read(version=make.name(2)), "right": Read(version=make.name(3))}, runs)
    assert [mix.one.name for mix in found] == ["world"]
    said = str(found[0])
    assert f"left {make.name(2)} was made from {make.name(1)}" in said
    assert f"right {make.name(3)} from middle {make.name(3)} was made from {make.name(3)}" in said


def test_the_same_content_in_two_versions_is_no_mix(runs, keep, make):
    keep(1, {"sft": ((), ("sage_1",)), "next": (("sage_1",), ("sage_2",))}, contents={"sage_1": "same", "sage_2": "x"})
    keep(2, {"sft": ((), ("sage_1",))}, contents={"sage_1": "same"})
    reads = {"sage_1": Read(version=make.name(2), sha256="same"), "sage_2": Read(version=make.name(1), sha256="x")}
    assert mixes(reads, runs) == []


def test_versions_without_a_record_and_unknown_contents_pass(runs, make):
    reads = {"sage_1": Read(version=make.name(2), sha256="new"), "sage_2": Read(version=make.name(1), sha256="x")}
    assert mixes(reads, runs) == []


def test_another_role_is_no_mix_and_changed_raw_files_are(runs, keep, make):
    def raw(sha256: str) -> Read:
        return Read(files={"RC_2012-01": File(bytes=1, modified_ns=1, sha256=sha256)})

    keep(
        1,
        {"n": (("judge", "dumps"), ("table",))},
        {"judge": Read(made={"role": "a"}), "dumps": raw("1")},
        {"table": "t"},
    )
    table = Read(version=make.name(1), sha256="t")
    assert mixes({"judge": Read(made={"role": "b"}), "dumps": raw("1"), "table": table}, runs) == []
    (mix,) = mixes({"dumps": raw("2"), "table": table}, runs)
    assert mix.one.name == "dumps"


def test_what_a_mix_drew_from_earlier_play_is_not_followed(runs, keep, make):
    """sage_1 that learns from what its predecessor played would never be of one lineage."""
    keep(1, {"p": (("sage_1",), ("trajectories_2",)), "s": ((), ("sage_1",))},
         contents={"sage_1": "first", "trajectories_2": "t"})  # fmt: skip
    earlier = Read(made={"folder": "f", "tables": {"trajectories_2": make.name(1)}})
    keep(2, {"s": (("earlier",), ("sage_1",))}, {"earlier": earlier}, {"sage_1": "second"})
    assert mixes({"sage_1": Read(version=make.name(2), sha256="second")}, runs) == []
