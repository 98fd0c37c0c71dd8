"""The state-action chain: its types, its text form, augmentation."""

from sage_dialog.sac.augmentation import Annotated, augment, strip_blocks
from sage_dialog.sac.chain import Chain, Intent, Unparsed, normalised_label, parse, render

__all__ = ["Annotated", "Chain", "Intent", "Unparsed", "augment", "normalised_label", "parse", "render", "strip_blocks"]
