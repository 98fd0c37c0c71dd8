"""Spark runs the same two functions, with equal tables. Skipped without pyspark and Java 17."""

import shutil
from pathlib import Path

import pytest

from sage_dialog.config import RedditRules
from sage_dialog.core.tables import to_arrow
from sage_dialog.corpora.reddit import read_dialogues
from sage_dialog.corpora.reddit.tally import Limits
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.microworld.reddit import months
from sage_dialog.microworld.world import load_world

pytest.importorskip("pyspark", reason="pip install 'sage-dialog[spark]'")
pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17")


def test_spark_and_processes_give_the_same_tables_and_continue_after_a_kill(tmp_path, monkeypatch):
    from sage_dialog.corpora.reddit import spark

    monkeypatch.setenv("PYTHONPATH", str(Path(spark.__file__).parents[3]))
    files = {}
    for name, content in months(load_world(), 60, seed=3).items():
        files[name] = tmp_path / name
        files[name].write_bytes(content)
    with files["RC_2012-02.bz2"].open("ab") as file:
        file.write(b"no further frame")
    rules = RedditRules.from_base(min_mean_words=3, require_question=False, min_sentiment=-0.5)
    expected = read_dialogues(files, rules, scratch=tmp_path / "here", workers=1, bucket_comments=100)

    kept, keep = [], spark.save_assembled

    def killed_at_the_third(assembled, folder):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(folder.name)
        keep(assembled, folder)

    monkeypatch.setattr(spark, "save_assembled", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        spark.read_dialogues_on_spark(files, rules, scratch=tmp_path / "there")
    monkeypatch.setattr(spark, "save_assembled", lambda *given: (kept.append(given[1].name), keep(*given)))
    found = spark.read_dialogues_on_spark(files, rules, scratch=tmp_path / "there")
    assert len(kept) == len(set(kept))  # no bucket twice
    assert len(expected.dialogues) > 10
    assert len(expected.rejected_lines) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert to_arrow(ours).equals(to_arrow(theirs))
    assert "damaged_archive" in set(found.rejected_lines["reason"])
    with pytest.raises(InputDataError, match=r"RC_2012-02\.bz2 breaks off: .* 16 of its "):
        spark.read_dialogues_on_spark(files, rules, scratch=tmp_path / "there", limits=Limits(unread_share=0.0))
