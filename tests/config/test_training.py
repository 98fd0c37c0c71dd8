"""Rules across the parameters of a training."""

import pytest
from pydantic import ValidationError

from sage_dialog.config import FineTuning


def test_a_constant_rate_has_no_warm_up() -> None:
    with pytest.raises(ValidationError, match=r"constant has no warm-up, and warmup_ratio is 0.05; set constant_with"):
        FineTuning.from_base(lr_scheduler_type="constant", warmup_ratio=0.05)
    assert FineTuning.from_base(lr_scheduler_type="constant", warmup_ratio=0.0).warmup_ratio == 0
    assert FineTuning.from_base(lr_scheduler_type="constant_with_warmup", warmup_ratio=0.05).warmup_ratio == 0.05
