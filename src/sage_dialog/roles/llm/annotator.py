"""The annotator LLM: labels for every utterance, and a more readable wording (paper §3.2, appendix B).

One request holds a whole dialogue. A response that does not fit the dialogue is sent back to the model once, with its
error; if the next does not fit either, the dialogue is rejected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sage_dialog.dialogue import Message
from sage_dialog.llm.client import FailureCounter, LLMClient
from sage_dialog.llm.requests import Request, RequestFailedError, remove_surrogates
from sage_dialog.roles.llm.parsing import (
    UnreadableError,
    describe_json_error,
    json_values,
    repaired_object,
    strip_thoughts,
)
from sage_dialog.roles.llm.prompts import Prompt, PromptFile, number_messages, role_name
from sage_dialog.roles.protocols import Annotation, LabelledUtterance, RejectedDialogue, reject_empty
from sage_dialog.sac import Intent, normalize_label

_NULLABLE = {"type": ["string", "null"]}
_TURN = {
    "turn": {"type": "integer"},
    "speaker": {"type": "string", "enum": ["user", "assistant"]},
    "motivation": _NULLABLE,
    "emotion": _NULLABLE,
    "topics": {"type": "array", "items": {"type": "string"}},
    "text": {"type": "string"},
    "question": _NULLABLE,
}
_SCHEMA = {
    "type": "object",
    "properties": {
        "turns": {
            "type": "array",
            "items": {"type": "object", "properties": _TURN, "required": [*_TURN], "additionalProperties": False},
        }
    },
    "required": ["turns"],
    "additionalProperties": False,
}
_ENDS_WITH_QUESTION = re.compile(r"[?？][?!.…\s\"'”’»)\]*_]*$")


class LLMAnnotator:
    """Sends one request for each dialogue, and a second one if the response cannot be used.

    Args:
        client: the model.
        prompt: file with the sections [system], which states `max_topics`, [user], which shows the `utterances`, and
            [repair], which states the `error`.
        min_similarity: minimum `similarity` of a new wording to the original, from 0 to 1; below it the original stays.
            Corrected spelling and expanded abbreviations are above 0.6 in all but the shortest utterances; paraphrases,
            answers and summaries are below 0.4.
        max_topics: limit on the topics of an utterance; more are dropped.
        max_label_words: limit on the words of a label; a response with longer labels cannot be used.
    """

    def __init__(
        self,
        client: LLMClient,
        prompt: PromptFile,
        min_similarity: float = 0.5,
        max_topics: int = 3,
        max_label_words: int = 4,
    ) -> None:
        if not 0 <= min_similarity <= 1:
            raise ValueError(f"min_similarity = {min_similarity}; it must be between 0 and 1")
        if max_topics < 0 or max_label_words < 1:
            raise ValueError(f"max_topics = {max_topics}, max_label_words = {max_label_words} leave no room for labels")
        client.check_caps("annotator")
        self._client = client
        self._min_similarity = min_similarity
        self._max_topics = max_topics
        self._max_label_words = max_label_words
        example = number_messages((Message("user", "i lost my keys"), Message("assistant", "oh no")))
        self._prompt = Prompt(
            prompt,
            {"system": {"max_topics": max_topics}, "user": {"utterances": example}, "repair": {"error": "no JSON"}},
        )
        limits = {"min_similarity": min_similarity, "max_topics": max_topics, "max_label_words": max_label_words}
        self.name = role_name(client.endpoint, self._prompt, _SCHEMA, **limits)

    def annotate(self, dialogues: Sequence[Sequence[Message]]) -> Iterator[Annotation]:
        """Yield the labels of each dialogue, in order. Dialogues with an empty utterance are rejected without a call.

        Raises:
            TooManyFailuresError: if more dialogues are rejected than the parameters allow.
        """
        self._client.log_estimate(
            self._request(self._messages(dialogue)) for dialogue in dialogues if not reject_empty(dialogue)
        )
        failures = FailureCounter("dialogues", len(dialogues), self._client.max_failed_share)

        async def annotate(dialogue: Sequence[Message]) -> Annotation:
            annotation = await self._annotate(dialogue)
            failures.finish(annotation.reason if isinstance(annotation, RejectedDialogue) else None)
            return annotation

        for row, annotation in enumerate(self._client.map(annotate, dialogues)):
            if isinstance(annotation, RejectedDialogue):
                failures.add(annotation.reason, row)
            yield annotation

    async def _annotate(self, dialogue: Sequence[Message]) -> Annotation:
        if rejected := reject_empty(dialogue):
            return rejected
        messages = self._messages(dialogue)
        try:
            for _ in range(2):
                response = await self._client.request(self._request(messages))
                try:
                    return self.parse(response.text, dialogue)
                except UnreadableError as error:
                    reason = str(error)
                messages.append({"role": "assistant", "content": response.text})
                messages.append({"role": "user", "content": self._prompt.render("repair", error=reason)})
        except RequestFailedError as error:
            return RejectedDialogue(str(error), error.response_text)
        return RejectedDialogue(f"the reply cannot be used, nor could the one before it: {reason}", response.text)

    def parse(self, response: str, dialogue: Sequence[Message]) -> tuple[LabelledUtterance, ...]:
        """Return the labels of a dialogue in a response.

        Raises:
            UnreadableError: if it is not one JSON object with all turns of the dialogue, in order.
        """
        turns = _find_turns(response)
        if len(turns) != len(dialogue):
            raise UnreadableError(f"it has {len(turns)} turns, and the dialogue has {len(dialogue)}")
        labelled = []
        for number, (turn, message) in enumerate(zip(turns, dialogue, strict=True), start=1):
            if not isinstance(turn, Mapping):
                raise UnreadableError(f"turn {number} is no JSON object")
            _check_turn(turn, number, message.role)
            labelled.append(self._label_utterance(turn, number, message, last=number == len(dialogue)))
        return tuple(labelled)

    def _label_utterance(
        self, turn: Mapping[str, Any], number: int, message: Message, *, last: bool
    ) -> LabelledUtterance:
        text, question = _string(turn, "text", number), _string({"question": None, **turn}, "question", number)
        intent = Intent(
            self._label(_string(turn, "motivation", number), "motivation", number),
            self._label(_string(turn, "emotion", number), "emotion", number),
            self._topics(turn, number),
        )
        new_braces = set("{}") & (set(text) - set(message.text))  # labels inside the wording
        if not text or new_braces or similarity(message.text, text) < self._min_similarity:
            return LabelledUtterance(intent, message.text, kept_original=True)
        is_question = _ENDS_WITH_QUESTION.search
        if message.role == "assistant" and not last and not is_question(text) and is_question(question):
            text = f"{text} {question}"
        return LabelledUtterance(intent, text)

    def _topics(self, turn: Mapping[str, Any], number: int) -> tuple[str, ...]:
        topics = _field(turn, "topics", number)
        if topics is None or isinstance(topics, str):
            topics = (topics or "").split(",")
        if not isinstance(topics, list) or not all(isinstance(topic, str | None) for topic in topics):
            raise UnreadableError(f"topics of turn {number} are no list of strings")
        labels = (self._label(topic, "a topic", number) for topic in topics if isinstance(topic, str))
        return tuple(dict.fromkeys(label for label in labels if label))[: self._max_topics]

    def _label(self, text: str, field: str, number: int) -> str | None:
        label = normalize_label(text)
        if label and len(label.split()) > self._max_label_words:
            raise UnreadableError(
                f"{field} of turn {number} has more than {self._max_label_words} words: {label[:60]!r}"
            )
        return label

    def _messages(self, dialogue: Sequence[Message]) -> list[dict[str, str]]:
        return self._prompt.messages({"utterances": number_messages(dialogue)}, {"max_topics": self._max_topics})

    def _request(self, messages: Sequence[Mapping[str, str]]) -> Request:
        return self._client.chat_request("annotator", messages, _SCHEMA)


def similarity(original: str, rewritten: str) -> float:
    """Return the Dice coefficient of the character trigrams of two wordings, from 0 to 1.

    Case, punctuation and the order of sentences do not count, a corrected letter counts little, and additions count as
    much as omissions. The measure ignores meaning: a missing "not" is a small change.
    """
    before, after = _trigrams(original), _trigrams(rewritten)
    total = before.total() + after.total()
    return 2 * (before & after).total() / total if total else 1.0


def _trigrams(text: str) -> Counter[str]:
    words = re.findall(r"\w+", re.sub("['’]", "", text.casefold()))
    spaced = f" {' '.join(words)} "
    return Counter(spaced[start : start + 3] for start in range(len(spaced) - 2))


def _find_turns(response: str) -> list[Any]:
    """Return the list of turns in a response, bare or under "turns"."""
    answer = strip_thoughts(response)
    lists = [value.get("turns") if isinstance(value, dict) else value for value in json_values(answer)]
    if not any(isinstance(turns, list) and any(isinstance(turn, dict) for turn in turns) for turns in lists):
        lists = [(repaired_object(answer, "turns") or {}).get("turns")]
    found = [turns for turns in lists if isinstance(turns, list) and any(isinstance(turn, dict) for turn in turns)]
    if not found:
        raise UnreadableError(f'there is no JSON object with the list "turns" in it; {describe_json_error(answer)}')
    if len(found) > 1:
        raise UnreadableError(f"it has {len(found)} lists of turns; give one")
    return found[0]


def _check_turn(turn: Mapping[str, Any], number: int, role: str) -> None:
    own_number, speaker = _plain(_field(turn, "turn", number)), _plain(_field(turn, "speaker", number))
    if own_number != str(number):
        raise UnreadableError(f"turn {number} of the dialogue is called turn {own_number!r}")
    if speaker.lower() != role:
        raise UnreadableError(f"turn {number} is the {role}'s, and the reply gives it to {speaker!r}")


def _plain(value: Any) -> str:
    """Return a number or a word as text, cut to a length; the type's name of anything else."""
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip()[:40] if plain else type(value).__name__


def _field(turn: Mapping[str, Any], name: str, number: int) -> Any:
    if name not in turn:
        raise UnreadableError(f"turn {number} has no {name!r}")
    return turn[name]


def _string(turn: Mapping[str, Any], name: str, number: int) -> str:
    """Return a field in one line; empty if it is null."""
    value = _field(turn, name, number)
    if not isinstance(value, str | None):
        raise UnreadableError(f"{name} of turn {number} is {type(value).__name__}, not a string or null")
    return " ".join(remove_surrogates(value or "").split())
