"""Threads become paths: one for each leaf, climbing from reply to what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sage_dialog.corpora.reddit.dumps import Comment
from sage_dialog.corpora.reddit.rules import too_long
from sage_dialog.parameters import RedditRules

_COMMENT = "t1_"


def leaves(comments: Mapping[str, Comment]) -> Iterator[Comment]:
    """The counted comments (by id) that no counted comment answers.

    Asked of all counted comments before any path is judged: a comment whose only reply fails a later rule
    is still no leaf.
    """
    answered = {comment.parent_id for comment in comments.values()}
    return (comment for comment in comments.values() if _COMMENT + comment.id not in answered)


def climb(leaf: Comment, comments: Mapping[str, Comment], rules: RedditRules) -> tuple[Comment, ...]:
    """The path that ends in `leaf`, the oldest comment first, at most `rules.max_turns` long.

    It stops at a parent that is missing, too long or in another thread, and where a damaged dump closes a circle.
    """
    path = [leaf]
    while len(path) < rules.max_turns and path[-1].parent_id.startswith(_COMMENT):
        parent = comments.get(path[-1].parent_id.removeprefix(_COMMENT))
        if parent is None or parent.link_id != leaf.link_id or parent in path or too_long(parent, rules):
            break
        path.append(parent)
    return tuple(reversed(path))
