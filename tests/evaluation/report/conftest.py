"""A fabricated finished run that several judges judged."""

from typing import Any

import pandas as pd
import pytest
from report_page import RANDOM

from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import conform, to_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.agreement import judge_agreement
from sage_dialog.evaluation.judging.judge_bias import judge_checks
from sage_dialog.evaluation.judging.votes import win_rates
from sage_dialog.schemas import JUDGE_VOTES


@pytest.fixture(scope="module")
def judged(contents: dict[str, Any], bootstrap: Bootstrap) -> dict[str, Any]:
    """Contents with a second judge that answers at random, and a person who read half of the dialogues once."""
    votes = contents["judge_votes"]
    answers = [
        ("a", "b", "tie", "unreadable")[
            int(generator(5, row["situation_id"], row["policy_b"], row["order"]).integers(4))
        ]
        for row in to_rows(votes)
    ]
    random = votes.assign(judge=RANDOM, vote=answers)
    person = votes[votes["order"] == "ba"].iloc[::2].assign(judge="human:ada")
    every = conform(pd.concat([votes, random, person], ignore_index=True), JUDGE_VOTES)
    both = pd.concat([every, contents["truth_votes"]])
    return {
        **contents,
        "judge_votes": every,
        "win_rates": win_rates(every, bootstrap.confidence),
        "judge_checks": judge_checks(every, 0.95),
        "judge_agreement": judge_agreement(both, bootstrap),
    }
