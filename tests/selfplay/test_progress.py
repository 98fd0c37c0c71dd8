"""Progress of a search in the log, without a terminal."""

from __future__ import annotations

import logging
import re
from contextlib import suppress

from sage_dialog.dialogue import Message
from sage_dialog.selfplay import progress
from sage_dialog.selfplay.game import GameState, Outcome
from sage_dialog.selfplay.search import search


def test_progress_counts_replies_and_ended_dialogues_in_full(monkeypatch, caplog) -> None:
    clock = iter([0.0, 100.0, 100.0 + 300.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO)
    dialogues = [GameState.from_situation(str(number), "Hello.") for number in range(4)]
    with progress.RoundProgress("search agent", dialogues=20, finished=8, max_turns=12) as bar:
        for dialogue in dialogues:
            dialogue.messages.extend([Message("assistant", "Hi.")] * 5)
            dialogue.candidates[1] = ([None] * 50, None)  # type: ignore[list-item]
        dialogues[0].outcome = Outcome.FAREWELL
        bar.update(0, dialogues)  # 11 + 3 * 5 of 132 replies
        for dialogue in dialogues:
            dialogue.outcome = Outcome.TURN_LIMIT
        bar.update(0, dialogues)
    assert [record.getMessage() for record in caplog.records] == [
        "search agent: 10 of 20 dialogues, 0.0236 dialogues/s, 2 candidates/s, 06:47 left",
        "search agent: 12 of 20 dialogues, 0.01 dialogues/s, 0.5 candidates/s, 13:20 left",
    ]


def test_dialogues_of_an_earlier_run_are_counted(
    monkeypatch, caplog, policies, situations, search_config, selector, engine, say, tmp_path
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO, "sage_dialog.selfplay.progress")
    config = search_config.model_copy(update={"shards_at_once": 1})

    def logged(reply) -> list[int]:
        caplog.clear()
        table, players = situations([f"Situation {n}." for n in range(6)]), (policies["agent"], policies["user"])
        with suppress(InterruptedError):
            search(engine(reply), *players, table, config, {}, selector(), 0, tmp_path)
        lines = [record.getMessage() for record in caplog.records]
        return [int(found[1]) for line in lines if (found := re.match(r"search agent: (\d+) of 6 dialogues", line))]

    def stop(policy, prompt, j):
        if prompt.item[-2] == "train-3":
            raise InterruptedError
        return say("Yes.")

    assert logged(stop)[-1] == 3
    resumed = logged(lambda *_: say("Yes."))
    assert resumed == sorted(resumed) and resumed[0] >= 3 and resumed[-1] == 6
