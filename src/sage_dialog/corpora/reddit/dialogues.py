"""From raw months to dialogues: all months together, so that chains across their boundaries stay whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sage_dialog.corpora.reddit.dumps import Comment, Dump, check_rejects, find_dumps, read_comments, read_submissions
from sage_dialog.corpora.reddit.funnel import Funnel, Rule
from sage_dialog.corpora.reddit.rules import Dialogue, PathRules, comment_fault
from sage_dialog.corpora.reddit.threads import climb, leaves
from sage_dialog.parameters import RedditRules

logger = logging.getLogger(__name__)


def read_dialogues(files: Mapping[str, Path], rules: RedditRules) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Dialogues of the dumps by the DialoGPT recipe and the paper's filters (paper §3.1).

    Args:
        files: dumps by file name (`RC_2015-02.zst`, `RS_2015-02.zst`, …); other files are ignored.
        rules: the thresholds.

    Returns:
        Rows of `schemas.DIALOGUES`, one for each leaf that passes, by dialogue id; siblings share the
        beginning of their paths. And rows of `schemas.FILTER_REPORT`, where a path belongs to its leaf's month.

    Raises:
        FileNotFoundError: if there is no month of comments.
        ValueError: if too many lines of a month cannot be read.
    """
    dumps = find_dumps(files)
    funnel = Funnel({dump.month for dump in dumps})
    comments = _counted_comments(dumps, rules, funnel)
    dialogues = _dialogues(comments, rules, funnel)
    logger.info("%d dialogues from %d counted comments of %d months", len(dialogues), len(comments), len(funnel.months))
    return [_row(dialogue) for dialogue in dialogues], funnel.rows()


def _counted_comments(dumps: list[Dump], rules: RedditRules, funnel: Funnel) -> dict[str, Comment]:
    """The comments that may stand in a path, by id."""
    num_comments: dict[str, int] = {}
    comments: dict[str, Comment] = {}
    seen_submissions: set[str] = set()
    seen_comments: set[str] = set()
    # Submissions of all months first: a thread of January goes on in February.
    ordered = sorted(dumps, key=lambda dump: dump.kind != "RS")
    for dump in tqdm(ordered, desc="Reddit dumps", unit="file"):
        if dump.kind == "RS":
            num_comments.update(read_submissions(dump, seen_submissions, funnel))
            continue
        for comment in read_comments(dump, seen_comments, funnel):
            if fault := comment_fault(comment, num_comments, rules):
                funnel.remove(dump.month, fault)
            else:
                comments[comment.id] = comment
    for month in funnel.months:
        check_rejects(month, funnel, rules.max_reject_share)
    return comments


def _dialogues(comments: dict[str, Comment], rules: RedditRules, funnel: Funnel) -> list[Dialogue]:
    ends = {leaf.id for leaf in leaves(comments)}
    path_rules = PathRules(rules)
    dialogues = []
    for comment in tqdm(comments.values(), desc="Reddit paths", unit="comment", mininterval=1):
        if comment.id not in ends:
            funnel.remove(comment.month, Rule.NOT_A_LEAF)
            continue
        judged = path_rules.judge(climb(comment, comments, rules))
        if isinstance(judged, Rule):
            funnel.remove(comment.month, judged)
        else:
            dialogues.append(judged)
    return sorted(dialogues, key=lambda dialogue: dialogue.path[-1].id)


def _row(dialogue: Dialogue) -> dict[str, Any]:
    leaf = dialogue.path[-1]
    turns = [
        {"comment_id": comment.id, "text": text} for comment, text in zip(dialogue.path, dialogue.texts, strict=True)
    ]
    return {
        "dialogue_id": leaf.id,
        "subreddit": leaf.subreddit,
        "link_id": leaf.link_id,
        "month": leaf.month,
        "turns": turns,
        "n_turns": len(turns),
        "mean_words": dialogue.mean_words,
        "min_sentiment": dialogue.min_sentiment,
    }
