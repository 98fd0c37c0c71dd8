"""Votes on disk: saved before the next ballot despite kills; damaged lines are named."""

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from voting import AT, vote_on

from sage_dialog.studio.arena.ballots import Ballot
from sage_dialog.studio.arena.vote_file import VoteFile, VoteFileError, read_folder


@pytest.fixture
def file(tmp_path: Path):
    opened = VoteFile(tmp_path, "anna")
    yield opened
    opened.close()


def reopen(file: VoteFile) -> VoteFile:
    file.close()
    return VoteFile(file.path.parent, file.rater)


def test_votes_are_read_back_in_their_order(file: VoteFile, ballots: list[Ballot]) -> None:
    votes = [vote_on(ballots[4], "second", 'line\nbreak, \N{GRINNING FACE} and "quotes"'), vote_on(ballots[1], "tie")]
    for vote in votes:
        file.add(vote)
    assert list(reopen(file).votes.values()) == votes
    assert read_folder(file.path.parent) == {"anna": votes}


def test_an_undone_vote_stays_in_the_file_and_is_not_counted(file: VoteFile, ballots: list[Ballot]) -> None:
    file.add(vote_on(ballots[0], "first"))
    file.add(vote_on(ballots[1], "first"))
    assert file.undo(ballots[0].id, AT).vote == "first"
    file.add(vote_on(ballots[0], "tie"))
    assert [(vote.ballot, vote.vote) for vote in reopen(file).votes.values()] == [
        (ballots[1].id, "first"),
        (ballots[0].id, "tie"),
    ]
    assert len(file.path.read_bytes().splitlines()) == 4


@pytest.mark.parametrize("end", [b"", b'\n{"at"'], ids=["complete", "cut off by a kill"])
def test_a_byte_order_mark_is_read_over(file: VoteFile, ballots: list[Ballot], end: bytes) -> None:
    votes = [vote_on(ballots[0], "first"), vote_on(ballots[1], "tie")]
    for vote in votes:
        file.add(vote)
    file.path.write_bytes(codecs.BOM_UTF8 + file.path.read_bytes().removesuffix(b"\n") + end)  # as some editors save it
    assert read_folder(file.path.parent) == {"anna": votes}
    reopened = reopen(file)
    reopened.add(vote_on(ballots[2], "second"))
    assert [vote.vote for vote in reopen(reopened).votes.values()] == ["first", "tie", "second"]


@pytest.mark.parametrize("length", [1, 40, -2])
def test_a_line_cut_off_by_a_kill_is_dropped(file: VoteFile, ballots: list[Ballot], length: int) -> None:
    file.add(vote_on(ballots[0], "first"))
    before = file.path.read_bytes()
    file.add(vote_on(ballots[1], "second"))
    file.path.write_bytes(before + file.path.read_bytes()[len(before) :][:length])
    assert read_folder(file.path.parent)["anna"] == [vote_on(ballots[0], "first")]
    repaired = reopen(file)
    assert file.path.read_bytes() == before
    repaired.add(vote_on(ballots[2], "tie"))
    assert [vote.vote for vote in reopen(repaired).votes.values()] == ["first", "tie"]


def test_a_last_line_without_newline_is_kept(file: VoteFile, ballots: list[Ballot]) -> None:
    file.add(vote_on(ballots[0], "first"))
    file.path.write_bytes(file.path.read_bytes().rstrip())
    repaired = reopen(file)
    repaired.add(vote_on(ballots[1], "second"))
    assert len(reopen(repaired).votes) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda line: line[:-9], "not a vote"),
        (lambda line: line.replace("first", "third"), "not a vote"),
        (lambda line: "", "not a vote"),
        (lambda line: json.dumps({**json.loads(line), "mood": "good"}), "not a vote"),
        (lambda line: json.dumps({"undone": "of nothing", "at": AT.isoformat()}), "undoes a vote that does not exist"),
    ],
)
def test_a_damaged_line_is_named_and_the_file_unchanged(file: VoteFile, ballots: list[Ballot], change, reason) -> None:
    for ballot in ballots[:3]:
        file.add(vote_on(ballot, "first"))
    lines = file.path.read_text().splitlines()
    lines[1] = change(lines[1])
    file.path.write_text("\n".join(lines) + "\n")
    damaged = file.path.read_bytes()
    for read in (lambda: reopen(file), lambda: read_folder(file.path.parent)):
        with pytest.raises(VoteFileError, match=rf"anna\.jsonl, line 2: {reason}"):
            read()
    assert file.path.read_bytes() == damaged


def test_two_votes_on_the_same_ballot_are_an_error(file: VoteFile, ballots: list[Ballot]) -> None:
    file.add(vote_on(ballots[0], "first"))
    file.path.write_bytes(file.path.read_bytes() * 2)
    with pytest.raises(VoteFileError, match=r"line 2: a second vote on the same pair of dialogues"):
        read_folder(file.path.parent)


@pytest.mark.parametrize("name", ["", "Anna", "a b", "../x", "-a", "a" * 33, "ä", "a\n", "."])
def test_an_invalid_rater_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VoteFileError, match="is not a valid rater name: use 1 to 32"):
        VoteFile(tmp_path / "votes", name)
    assert not (tmp_path / "votes").exists()


def test_a_file_not_named_after_a_rater_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Anna (copy).jsonl").write_text("")
    with pytest.raises(VoteFileError, match=r"Anna \(copy\)\.jsonl is not named after a rater"):
        read_folder(tmp_path)


def test_a_missing_folder_has_no_votes(tmp_path: Path) -> None:
    assert read_folder(tmp_path / "none") == {}


def test_a_vote_file_is_locked(file: VoteFile) -> None:
    code = (
        f"from pathlib import Path; from sage_dialog.studio.arena.vote_file import VoteFile\n"
        f"VoteFile(Path({str(file.path.parent)!r}), 'bert'); VoteFile(Path({str(file.path.parent)!r}), 'anna')"
    )
    command = [sys.executable, "-c", code]
    source = str(Path(__file__).parents[3] / "src")
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True)
    assert done.returncode and "VoteFileError: anna is already voting" in done.stderr


def test_a_vote_that_cannot_be_written_leaves_the_file_as_it_was(
    file: VoteFile, ballots: list[Ballot], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.add(vote_on(ballots[0], "first"))
    before = file.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sage_dialog.studio.arena.vote_file.os.fsync", full)
        with pytest.raises(VoteFileError, match=r"Not saved: .*No space left on device"):
            file.add(vote_on(ballots[1], "second"))
    assert file.path.read_bytes() == before and len(file.votes) == 1
    file.add(vote_on(ballots[1], "tie"))
    assert [vote.vote for vote in reopen(file).votes.values()] == ["first", "tie"]


def test_a_vote_is_on_disk_on_return(file: VoteFile, ballots: list[Ballot], monkeypatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", recorded)
    for ballot in ballots[:3]:
        file.add(vote_on(ballot, "first"))
        assert file.path.stat().st_size in synced
