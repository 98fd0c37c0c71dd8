"""sage-dialog: emotionally intelligent dialogue models with State-Action Chains (arXiv 2503.03040)."""

__version__ = "0.1.0"
