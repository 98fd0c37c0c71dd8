"""Votes on disk: each one before the next is asked, whatever kills the process; what is no vote is named."""

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


def again(file: VoteFile) -> VoteFile:
    file.close()
    return VoteFile(file.path.parent, file.rater)


def test_votes_are_there_again_in_their_order(file: VoteFile, ballots: list[Ballot]) -> None:
    votes = [vote_on(ballots[4], "second", 'line\nbreak, \N{GRINNING FACE} and "quotes"'), vote_on(ballots[1], "tie")]
    for vote in votes:
        file.add(vote)
    assert list(again(file).standing.values()) == votes
    assert read_folder(file.path.parent) == {"anna": votes}


def test_a_vote_taken_back_stays_in_the_file_and_counts_no_more(file: VoteFile, ballots: list[Ballot]) -> None:
    file.add(vote_on(ballots[0], "first"))
    file.add(vote_on(ballots[1], "first"))
    assert file.undo(ballots[0].id, AT).vote == "first"
    file.add(vote_on(ballots[0], "tie"))
    assert [(vote.ballot, vote.vote) for vote in again(file).standing.values()] == [
        (ballots[1].id, "first"),
        (ballots[0].id, "tie"),
    ]
    assert len(file.path.read_bytes().splitlines()) == 4


@pytest.mark.parametrize("kept", [1, 40, -2])
def test_what_a_kill_cut_off_was_no_vote_yet(file: VoteFile, ballots: list[Ballot], kept: int) -> None:
    file.add(vote_on(ballots[0], "first"))
    before = file.path.read_bytes()
    file.add(vote_on(ballots[1], "second"))
    file.path.write_bytes(before + file.path.read_bytes()[len(before) :][:kept])
    assert read_folder(file.path.parent)["anna"] == [vote_on(ballots[0], "first")]
    mended = again(file)
    assert file.path.read_bytes() == before
    mended.add(vote_on(ballots[2], "tie"))
    assert [vote.vote for vote in again(mended).standing.values()] == ["first", "tie"]


def test_a_last_line_that_lacks_only_its_end_is_kept(file: VoteFile, ballots: list[Ballot]) -> None:
    file.add(vote_on(ballots[0], "first"))
    file.path.write_bytes(file.path.read_bytes().rstrip())
    mended = again(file)
    mended.add(vote_on(ballots[1], "second"))
    assert len(again(mended).standing) == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda line: line[:-9], "is no vote"),
        (lambda line: line.replace("first", "third"), "is no vote"),
        (lambda line: "", "is no vote"),
        (lambda line: json.dumps({**json.loads(line), "mood": "good"}), "is no vote"),
        (lambda line: json.dumps({"undone": "of nothing", "at": AT.isoformat()}), "takes back a vote that does not"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_touched(file: VoteFile, ballots: list[Ballot], change, why) -> None:
    for ballot in ballots[:3]:
        file.add(vote_on(ballot, "first"))
    lines = file.path.read_text().splitlines()
    lines[1] = change(lines[1])
    file.path.write_text("\n".join(lines) + "\n")
    damaged = file.path.read_bytes()
    for use in (lambda: again(file), lambda: read_folder(file.path.parent)):
        with pytest.raises(VoteFileError, match=rf"anna\.jsonl, line 2: {why}"):
            use()
    assert file.path.read_bytes() == damaged


def test_two_votes_on_the_same_are_not_one_too_many_in_silence(file: VoteFile, ballots: list[Ballot]) -> None:
    """As in a file put together of two."""
    file.add(vote_on(ballots[0], "first"))
    file.path.write_bytes(file.path.read_bytes() * 2)
    with pytest.raises(VoteFileError, match=r"line 2: votes once more on what a line before it votes on"):
        read_folder(file.path.parent)


@pytest.mark.parametrize("name", ["", "Anna", "a b", "../x", "-a", "a" * 33, "ä", "a\n", "."])
def test_a_rater_s_name_is_a_plain_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(VoteFileError, match="is no name for a rater: take 1 to 32"):
        VoteFile(tmp_path / "votes", name)
    assert not (tmp_path / "votes").exists()


def test_a_file_that_is_named_after_nobody_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "Anna (copy).jsonl").write_text("")
    with pytest.raises(VoteFileError, match=r"Anna \(copy\)\.jsonl is named after no rater"):
        read_folder(tmp_path)


def test_nobody_has_voted_where_there_is_no_folder(tmp_path: Path) -> None:
    assert read_folder(tmp_path / "none") == {}


def test_a_rater_votes_in_one_place_at_a_time(file: VoteFile) -> None:
    code = (
        f"from pathlib import Path; from sage_dialog.studio.arena.vote_file import VoteFile\n"
        f"VoteFile(Path({str(file.path.parent)!r}), 'bert'); VoteFile(Path({str(file.path.parent)!r}), 'anna')"
    )
    command = [sys.executable, "-c", code]
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True)
    assert done.returncode and "VoteFileError: anna is voting already" in done.stderr


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
    assert file.path.read_bytes() == before and len(file.standing) == 1
    file.add(vote_on(ballots[1], "tie"))
    assert [vote.vote for vote in again(file).standing.values()] == ["first", "tie"]


def test_a_vote_is_on_disk_before_it_counts(file: VoteFile, ballots: list[Ballot], monkeypatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", watched)
    for ballot in ballots[:3]:
        file.add(vote_on(ballot, "first"))
        assert file.path.stat().st_size in synced
