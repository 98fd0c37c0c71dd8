"""Text of models and people as it is shown: nothing in it acts on a terminal or a page."""

from __future__ import annotations

import re

CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # line breaks and tabs are allowed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u2028\u2029\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible: separators, annotations, tags
    "\ud800-\udfff]"
)
"""Characters that act on a terminal, reverse the direction of writing, or are invisible."""


def visible(text: str) -> str:
    """Return the text with control and bidirectional characters escaped, such as `\\x1b`."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
