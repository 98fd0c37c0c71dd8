"""The state-action chain: its types and text form, SAC augmentation, the grammar of its blocks."""

from sage_dialog.sac.block_form import BlockForm
from sage_dialog.sac.chain import Chain, Intent, Unparsed, normalize_label, parse, render, strip_blocks

__all__ = ["BlockForm", "Chain", "Intent", "Unparsed", "normalize_label", "parse", "render", "strip_blocks"]
