"""The judge LLM: two dialogues in, and A, B, a tie or nothing readable out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.dialogue import Message
from sage_dialog.llm.requests import FailureReason, Request, RequestFailedError, TooManyFailuresError
from sage_dialog.roles.llm.judge import LLMJudge, parse_verdict
from sage_dialog.roles.protocols import Comparison, Verdict

SITUATION = Message("user", "I lost my job.")
WARM = (SITUATION, Message("assistant", "Oh no, that is rough. What happened?"))
COLD = (SITUATION, Message("assistant", "There are several steps to consider."))
WORDS = ["A", "B", "tie", "a", "is", "better", ".", "\n", "{", "}", '"', ":", "verdict"]


@pytest.mark.parametrize(
    ("reply", "vote"),
    [
        ('{"verdict": "A", "reason": "B is cold."}', "first"),
        ('```json\n{"verdict": "B", "reason": "warm"}\n```', "second"),
        ('I compared A and B.\n{"reason": "even", "verdict": "tie",}', "tie"),
        ('<think>{"verdict": "A"}? Hm.</think>{"verdict": "B", "reason": ""}', "second"),
        ('{"verdict": "Dialogue A", "reason": ""}', "first"),
        ("A", "first"),
        ("**B**", "second"),
        ("Tie.", "tie"),
        ("It's a tie.", "tie"),
        ("Verdict: B", "second"),
        ("Dialog A is better", "first"),
        ("Dialogue B is better than dialogue A. It is warmer, and A lectures.", "second"),
        ("**Dialogue A:**\nlists\n**Dialogue B:**\nwarm\n\nThe better assistant is B.", "second"),
        ("{'verdict': 'A', 'reason': 'warm'}", "first"),
        ('{"reason": "It says "oh no" and "what happened"", "verdict": "B"}', "second"),
        ('{verdict: "tie", reason: "even"}', "tie"),
        ('{"verdict": "A", "reason": "It is war', "first"),
        ("The better companion is B because it listens, and A does not.", "second"),
        ("I'd go with A.", "first"),
        ("{'verdict': 'A', 'verdict': 'B'}", "unreadable"),
        ('{"verdict": "A" "B"}', "unreadable"),
        ('{"verdict": "A or B", "reason": "it "talks""}', "unreadable"),
        ('{"reason": "the verdict: "A", or not"', "unreadable"),
        ("I'd go with neither A nor B.", "unreadable"),
        ('{"verdict": "A"} {"verdict": "B"}', "unreadable"),
        ('{"verdict": "A", "verdict": "B"}', "unreadable"),
        ('{"verdict": "C", "reason": "A is better."}', "unreadable"),
        ('{"verdict": null, "reason": "A"}', "unreadable"),
        ('{"verdict": ["A"]}', "unreadable"),
        ("A is better. B is better.", "unreadable"),
        ("A or B", "unreadable"),
        ("A is not better.", "unreadable"),
        ("A is better at humour, but all in all B wins me over", "unreadable"),
        ("Dialogue A: it never listens.", "unreadable"),
        ("### Dialogue A\nIt never listens.", "unreadable"),
        ("Both are equally good.", "unreadable"),
        ("<think>A", "unreadable"),
        ("", "unreadable"),
    ],
)
def test_a_verdict_is_parsed_and_never_guessed(reply: str, vote: str) -> None:
    assert parse_verdict(reply) == Verdict(vote, reply)


@given(st.text(st.characters()) | st.lists(st.sampled_from(WORDS)))
def test_no_verdict_is_made_up(words: str | list[str]) -> None:
    text = words if isinstance(words, str) else " ".join(words)
    vote = parse_verdict(text).vote
    name = {"first": "a", "second": "b", "tie": "tie", "unreadable": None}[vote]
    assert name is None or re.search(rf"(?<![^\W_]){name}(?![^\W_])", text, re.IGNORECASE)  # Markdown's _A_ is emphasis


def test_each_order_is_its_own_request_and_the_verdict_names_a_position(scripted: Any, prompts: Path) -> None:
    def prefers_warmth(request: Request) -> str:
        first, second = request.messages[1]["content"].split("Conversation B:")
        assert ("rough" in first) is not ("rough" in second)
        assert ("several" in first) is not ("several" in second)
        return json.dumps({"verdict": "A" if "rough" in first else "B", "reason": "warm"})

    client = scripted(prefers_warmth)
    verdicts = list(LLMJudge(client, prompts / "judge.txt").judge([Comparison(WARM, COLD), Comparison(COLD, WARM)]))
    assert [verdict.vote for verdict in verdicts] == ["first", "second"]
    assert verdicts[1].raw_response == '{"verdict": "B", "reason": "warm"}'
    assert len({request.key for request in client.requests}) == 2
    assert client.estimates == [(2, None)]
    assert {request.role for request in client.requests} == {"judge"}


def test_a_schema_is_sent_only_to_servers_that_enforce_it(scripted: Any, prompts: Path) -> None:
    sent = []
    for json_schema in (True, False):
        client = scripted(json_schema=json_schema)
        list(LLMJudge(client, prompts / "judge.txt").judge([Comparison(WARM, COLD)]))
        sent.append(client.requests[0].schema)
        assert '"verdict"' in client.requests[0].messages[0]["content"]
    assert sent[0] is not None and sent[0]["properties"]["verdict"]["enum"] == ["A", "B", "tie"]
    assert sent[1] is None


def test_a_forced_choice_has_no_tie(scripted: Any, prompts: Path) -> None:
    for reply, vote in (("Dialog B is better", "second"), ('{"verdict": "A"}', "first"), ("Tie.", "unreadable"),
                        ('{"verdict": "tie"}', "unreadable")):  # fmt: skip
        client = scripted(lambda request, reply=reply: reply, max_failed_share=1.0)
        (verdict,) = LLMJudge(client, prompts / "judge.txt", forced_choice=True).judge([Comparison(WARM, COLD)])
        assert verdict == Verdict(vote, reply)
        assert client.requests[0].schema["properties"] == {"verdict": {"type": "string", "enum": ["A", "B"]}}
        (free,) = LLMJudge(client, prompts / "judge.txt").judge([Comparison(WARM, COLD)])
        assert free.vote == ("tie" if "ie" in reply else vote)


def test_the_paper_s_judges_are_forced_and_no_other() -> None:
    conf = Path(__file__).parents[3] / "conf"
    forced = {
        path.parent.name: [role["args"].get("forced_choice", False) for role in yaml.safe_load(path.read_text("utf-8"))
                           ["judges"]["roles"].values() if "args" in role]
        for path in conf.glob("*/catalog_roles.yml")
    }  # fmt: skip
    assert forced.pop("paper") == [True, True]
    assert len(forced) >= 3 and not any(choice for of_environment in forced.values() for choice in of_environment)


@pytest.mark.parametrize(
    "reason",
    [
        FailureReason.TRUNCATED,
        FailureReason.EMPTY,
        FailureReason.FILTERED,
        FailureReason.REFUSED,
        FailureReason.TOO_LONG,
    ],
)
def test_an_unusable_response_is_unreadable_and_a_failing_server_ends_the_run(
    scripted: Any, prompts: Path, reason: FailureReason
) -> None:
    judge = LLMJudge(
        scripted(lambda request: RequestFailedError(reason, response_text="A is bet")), prompts / "judge.txt"
    )
    assert list(judge.judge([Comparison(WARM, COLD)])) == [Verdict("unreadable", "A is bet")]
    gone = LLMJudge(scripted(lambda request: RequestFailedError(FailureReason.UNREACHABLE)), prompts / "judge.txt")
    with pytest.raises(RequestFailedError, match="could not be reached"):
        list(gone.judge([Comparison(WARM, COLD)]))


def test_too_many_unreadable_verdicts_end_the_run_after_those_allowed(scripted: Any, prompts: Path) -> None:
    comparisons = [Comparison(WARM, (SITUATION, Message("assistant", f"Reply {number}"))) for number in range(4)]
    judge = LLMJudge(scripted(lambda request: "Both!", max_failed_share=0.5), prompts / "judge.txt")
    with pytest.raises(TooManyFailuresError, match=r"3 of 4 comparisons failed.*'Both!'"):
        list(judge.judge(comparisons))
    votes = judge.judge(comparisons)
    assert [next(votes).vote, next(votes).vote] == ["unreadable", "unreadable"]


def test_the_name_changes_with_all_that_determines_a_verdict_and_holds_no_secret(
    scripted: Any, prompts: Path, tmp_path: Path
) -> None:
    other = tmp_path / "judge.txt"
    other.write_text((prompts / "judge.txt").read_text("utf-8").replace("companion", "friend"), "utf-8")
    name = LLMJudge(scripted(), prompts / "judge.txt").name
    assert re.fullmatch(r"gpt-5-mini judge [0-9a-f]{8}", name)
    elsewhere = scripted(base_urls=["http://another:1/v1"], api_key="sk-another", concurrency=2)
    assert LLMJudge(elsewhere, prompts / "judge.txt").name == name
    others = {
        LLMJudge(scripted(), other).name,
        LLMJudge(scripted(model="gpt-5"), prompts / "judge.txt").name,
        LLMJudge(scripted(sampling={"temperature": 0}), prompts / "judge.txt").name,
        LLMJudge(scripted(json_schema=False), prompts / "judge.txt").name,
        LLMJudge(scripted(), prompts / "judge.txt", forced_choice=True).name,
        LLMJudge(scripted(json_schema=False), prompts / "judge.txt", forced_choice=True).name,
    }
    assert len(others | {name}) == 7
