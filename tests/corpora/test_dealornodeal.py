"""Deal or No Deal: both forms, exact rewards, and what is set aside."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_dialog.core.tables import to_rows
from sage_dialog.corpora.dealornodeal import parse, read_negotiations
from sage_dialog.corpora.rejects import InputDataError

TALK = "YOU: the book for me <eos> THEM: deal <eos> YOU: <selection>"
TAGGED = (
    "<input> 1 4 4 1 1 2 </input> <dialogue> {talk} </dialogue> <output> {output} </output> "
    "<partner_input> 1 0 4 2 1 2 </partner_input>"
)
DEAL = "item0=1 item1=0 item2=1 item0=0 item1=4 item2=0"
LINE = "1 4 4 1 1 2 {talk} {output} <eos> reward={reward} 1 0 4 2 1 2"


def tagged(talk: str = TALK, output: str = DEAL) -> str:
    return TAGGED.format(talk=talk, output=output)


def line(output: str = "item0=1 item1=0 item2=1", reward: str = "6 agree", talk: str = TALK) -> str:
    return LINE.format(talk=talk, output=output, reward=reward)


@pytest.mark.parametrize("text", [tagged(), line()])
def test_a_deal_is_worth_the_items_of_each_side(text: str) -> None:
    found = parse(text)
    assert (found.counts, found.values, found.partner_values) == ((1, 4, 1), (4, 1, 2), (0, 2, 2))
    assert (found.taken, found.reward, found.partner_reward) == ((1, 0, 1), 6, 8)
    assert found.messages == (("assistant", "the book for me"), ("user", "deal"))


@pytest.mark.parametrize(
    "text",
    [
        tagged(output=" ".join(["<disagree>"] * 6)),
        tagged(output=" ".join(["<no_agreement>"] * 6)),
        line(reward="6 disagree"),  # the reward that the side hoped for
        line("no agreement", "no agreement agree"),
        line("no agreement", "no agreement disagree"),
    ],
)
def test_without_an_agreement_nobody_gets_anything(text: str) -> None:
    found = parse(text)
    assert (found.taken, found.reward, found.partner_reward) == (None, 0, 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (line("disconnect", "disconnect agree"), "a side disconnected"),
        (tagged(output=" ".join(["<disconnect>"] * 6)), "a side disconnected"),
        (line(reward="7 agree"), "the stated reward 7 is not that of the items, 6"),
        (line("item0=2 item1=0 item2=1", "10 agree"), "more items than there are"),
        (tagged(output="item0=1 item1=0 item2=1 item0=0 item1=3 item2=0"), "do not get all items together"),
        (line("item0=1 item1=0", "6 agree"), "no items of each kind"),
        (tagged().replace("1 4 4 1 1 2", "1 4 4 1 1 3"), "not worth 10"),
        (tagged().replace("<partner_input> 1 0", "<partner_input> 2 0"), "other counts"),
        (tagged(talk="ME: hello <eos> YOU: <selection>"), "not a message of YOU or THEM"),
        ("hello", "not a line of either published form"),
    ],
)
def test_a_line_that_cannot_be_used_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


def test_both_sides_of_a_negotiation_have_one_name() -> None:
    other = (
        "<input> 1 0 4 2 1 2 </input> <dialogue> THEM: the book for me <eos> YOU: deal <eos> THEM: <selection> "
        "</dialogue> <output> item0=0 item1=4 item2=0 item0=1 item1=0 item2=1 </output> "
        "<partner_input> 1 4 4 1 1 2 </partner_input>"
    )
    assert parse(other).id == parse(tagged()).id == parse(line()).id
    assert parse(other).reward == parse(tagged()).partner_reward
    assert parse(line(talk="YOU: no <eos> YOU: <selection>")).id != parse(line()).id


def test_files_become_tables(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "train.txt.xz", "wt") as file:
        file.write(
            "\n".join([line(), "", line("disconnect", "disconnect agree"), line("no agreement", "no agreement agree")])
        )
    (tmp_path / "val.txt").write_text(tagged() + "\n")
    files = {path.name: path for path in tmp_path.iterdir()}
    negotiations, rejects = read_negotiations(files, 0.5)
    assert [row["record"] for row in to_rows(negotiations)] == ["train.txt.xz:1", "train.txt.xz:4", "val.txt:1"]
    assert list(negotiations["split"]) == ["train", "train", "valid"]
    assert to_rows(rejects) == [{"record": "train.txt.xz:3", "reason": "a side disconnected"}]
    with pytest.raises(InputDataError, match=r"train.txt.xz: 1 of 3 lines cannot be read.*max_reject_share = 0.1"):
        read_negotiations(files, 0.1)


def test_a_file_of_no_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text(tagged())
    with pytest.raises(InputDataError, match="is no split of Deal or No Deal"):
        read_negotiations({"all.txt": tmp_path / "all.txt"}, 1.0)


def test_the_published_files_are_read_whole(shared: Callable[[str], Path]) -> None:
    folder = shared("dealornodeal")
    files = {name: folder / name for name in ("train.txt.xz", "val.txt")}
    negotiations, rejects = read_negotiations(files, 0.05)
    assert len(negotiations) + len(rejects) == 10_095 + 1_087
    assert set(rejects["reason"]) == {"a side disconnected"} and len(rejects) == 67
    assert negotiations.groupby("negotiation_id")["split"].nunique().max() == 1
    pairs = negotiations.groupby("negotiation_id").filter(lambda side: len(side) == 2).groupby("negotiation_id")
    first, second = pairs.first(), pairs.last()  # the two sides state each other's rewards
    assert len(first) > 5_000
    assert (first["reward"] == second["partner_reward"]).all() and (second["reward"] == first["partner_reward"]).all()
