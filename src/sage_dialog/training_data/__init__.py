"""Every builder of training rows: the mix, refinement, preference pairs."""
