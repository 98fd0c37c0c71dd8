"""The annotator LLM: labels for every utterance, in a wording that is easier to read (paper §3.2, appendix B).

A dialogue goes to the model whole. What comes back is checked against it; a reply that does not fit is shown to the
model with what is wrong, once, and is rejected if the next does not fit either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sage_dialog.dialogue import Message
from sage_dialog.llm.client import LLMClient
from sage_dialog.llm.requests import Request, RequestFailedError, remove_surrogates
from sage_dialog.roles.llm.parsing import UnreadableError, json_fault, json_values, spoken
from sage_dialog.roles.llm.prompts import Prompt, PromptFile, numbered, role_name
from sage_dialog.roles.protocols import LabelledUtterance, RejectedDialogue
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
_ENDS_ASKING = re.compile(r"[?？][?!.…\s\"'”’»)\]*_]*$")


class LLMAnnotator:
    """Asks once for each dialogue, and once more where the reply cannot be used.

    Args:
        client: the model, and all that calls to it have in common.
        prompt: file with the sections [system], which says `max_topics`, [user], which shows the `utterances`, and
            [repair], which says the `error`.
        min_kept: how much of an utterance its more readable wording must keep (`kept`), from 0 to 1; with less, the
            original stays. Mended typing errors and spelled-out abbreviations keep more than 0.6 of all but the
            shortest utterances, a paraphrase, an answer or a summary less than 0.4.
        max_topics: topics of an utterance at most; more are left out.
        max_label_words: words of a label at most; a reply with longer ones cannot be used.
    """

    def __init__(
        self,
        client: LLMClient,
        prompt: PromptFile,
        min_kept: float = 0.5,
        max_topics: int = 3,
        max_label_words: int = 4,
    ) -> None:
        if not 0 <= min_kept <= 1:
            raise ValueError(f"min_kept = {min_kept} is no share between 0 and 1")
        if max_topics < 0 or max_label_words < 1:
            raise ValueError(f"max_topics = {max_topics}, max_label_words = {max_label_words} leave no room for labels")
        self._client = client
        self._min_kept = min_kept
        self._max_topics = max_topics
        self._max_label_words = max_label_words
        example = numbered((Message("user", "i lost my keys"), Message("assistant", "oh no")))
        self._prompt = Prompt(
            prompt,
            {"system": {"max_topics": max_topics}, "user": {"utterances": example}, "repair": {"error": "no JSON"}},
        )
        limits = {"min_kept": min_kept, "max_topics": max_topics, "max_label_words": max_label_words}
        self.name = role_name(client.endpoint, self._prompt, _SCHEMA, **limits)

    def annotate(
        self, dialogues: Sequence[Sequence[Message]]
    ) -> Iterator[tuple[LabelledUtterance, ...] | RejectedDialogue]:
        """See `protocols.Annotator`. A dialogue with an empty utterance is rejected without a call.

        Raises:
            TooManyFailuresError: if more dialogues are rejected than the parameters allow.
        """
        self._client.log_estimate(
            self._request(self._messages(dialogue)) for dialogue in dialogues if not _empty(dialogue)
        )
        failed = self._client.failure_counter("dialogues", len(dialogues))
        for labels in self._client.map(self._labels, dialogues):
            if isinstance(labels, RejectedDialogue):
                failed.add(labels.reason)
            yield labels

    async def _labels(self, dialogue: Sequence[Message]) -> tuple[LabelledUtterance, ...] | RejectedDialogue:
        if empty := _empty(dialogue):
            return RejectedDialogue(f"utterance {empty[0]} is empty")
        messages = self._messages(dialogue)
        try:
            reply = await self._client.request(self._request(messages))
            try:
                return self.read(reply.text, dialogue)
            except UnreadableError as error:
                said = {"role": "assistant", "content": reply.text}
                repair = {"role": "user", "content": self._prompt.render("repair", error=str(error))}
            reply = await self._client.request(self._request([*messages, said, repair]))
            try:
                return self.read(reply.text, dialogue)
            except UnreadableError as error:
                return RejectedDialogue(f"the reply cannot be used, nor could the one before it: {error}", reply.text)
        except RequestFailedError as error:
            return RejectedDialogue(str(error), error.response_text)

    def read(self, reply: str, dialogue: Sequence[Message]) -> tuple[LabelledUtterance, ...]:
        """The labels of a dialogue in a reply.

        Raises:
            UnreadableError: if it is not one JSON object with all turns of the dialogue, in order.
        """
        turns = _turns(reply)
        if len(turns) != len(dialogue):
            raise UnreadableError(f"it has {len(turns)} turns, and the dialogue has {len(dialogue)}")
        labelled = []
        for number, (turn, said) in enumerate(zip(turns, dialogue, strict=True), start=1):
            if not isinstance(turn, Mapping):
                raise UnreadableError(f"turn {number} is no JSON object")
            _check_place(turn, number, said.role)
            labelled.append(self._labelled(turn, number, said, last=number == len(dialogue)))
        return tuple(labelled)

    def _labelled(self, turn: Mapping[str, Any], number: int, said: Message, *, last: bool) -> LabelledUtterance:
        text, question = _string(turn, "text", number), _string({"question": None, **turn}, "question", number)
        intent = Intent(
            self._label(_string(turn, "motivation", number), "motivation", number),
            self._label(_string(turn, "emotion", number), "emotion", number),
            self._topics(turn, number),
        )
        braces = set("{}") & (set(text) - set(said.text))  # labels that strayed into the wording
        if not text or braces or kept(said.text, text) < self._min_kept:
            return LabelledUtterance(intent, said.text, kept_original=True)
        if said.role == "assistant" and not last and not _ENDS_ASKING.search(text) and _ENDS_ASKING.search(question):
            text = f"{text} {question}"
        return LabelledUtterance(intent, text)

    def _topics(self, turn: Mapping[str, Any], number: int) -> tuple[str, ...]:
        listed = _field(turn, "topics", number)
        if listed is None or isinstance(listed, str):
            listed = (listed or "").split(",")
        if not isinstance(listed, list) or not all(isinstance(topic, str | None) for topic in listed):
            raise UnreadableError(f"topics of turn {number} are no list of strings")
        labels = (self._label(topic, "a topic", number) for topic in listed if isinstance(topic, str))
        return tuple(dict.fromkeys(label for label in labels if label))[: self._max_topics]

    def _label(self, text: str, what: str, number: int) -> str | None:
        label = normalize_label(text)
        if label and len(label.split()) > self._max_label_words:
            raise UnreadableError(
                f"{what} of turn {number} has more than {self._max_label_words} words: {label[:60]!r}"
            )
        return label

    def _messages(self, dialogue: Sequence[Message]) -> list[dict[str, str]]:
        return self._prompt.messages({"utterances": numbered(dialogue)}, {"max_topics": self._max_topics})

    def _request(self, messages: Sequence[Mapping[str, str]]) -> Request:
        return self._client.chat_request("annotator", messages, _SCHEMA)


def kept(original: str, readable: str) -> float:
    """How much of an utterance is still there in another wording, and how little besides, from 0 to 1.

    The Dice coefficient of their letters and digits by threes: case, marks and the order of sentences do not count,
    a mended letter counts little, and what was added counts like what was lost. It knows no meaning: a "not" more or
    less is a small change.
    """
    before, after = _threes(original), _threes(readable)
    both = before.total() + after.total()
    return 2 * (before & after).total() / both if both else 1.0


def _threes(text: str) -> Counter[str]:
    words = re.findall(r"\w+", re.sub("['’]", "", text.casefold()))
    spelled = f" {' '.join(words)} "
    return Counter(spelled[start : start + 3] for start in range(len(spelled) - 2))


def _empty(dialogue: Sequence[Message]) -> list[int]:
    return [position for position, said in enumerate(dialogue) if not said.text.strip()]


def _turns(reply: str) -> list[Any]:
    """The list of turns in a reply, bare or under "turns"."""
    answer = spoken(reply)
    lists = [value.get("turns") if isinstance(value, dict) else value for value in json_values(answer)]
    found = [turns for turns in lists if isinstance(turns, list) and any(isinstance(turn, dict) for turn in turns)]
    if not found:
        raise UnreadableError(f'there is no JSON object with the list "turns" in it; {json_fault(answer)}')
    if len(found) > 1:
        raise UnreadableError(f"it has {len(found)} lists of turns; give one")
    return found[0]


def _check_place(turn: Mapping[str, Any], number: int, speaker: str) -> None:
    called, by = _plain(_field(turn, "turn", number)), _plain(_field(turn, "speaker", number))
    if called != str(number):
        raise UnreadableError(f"turn {number} of the dialogue is called turn {called!r}")
    if by.lower() != speaker:
        raise UnreadableError(f"turn {number} is the {speaker}'s, and the reply gives it to {by!r}")


def _plain(value: Any) -> str:
    """A number or a word as it is written, up to a length; the type of anything else."""
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip()[:40] if plain else type(value).__name__


def _field(turn: Mapping[str, Any], name: str, number: int) -> Any:
    if name not in turn:
        raise UnreadableError(f"turn {number} has no {name!r}")
    return turn[name]


def _string(turn: Mapping[str, Any], name: str, number: int) -> str:
    """A field in one line; empty where it is null."""
    value = _field(turn, name, number)
    if not isinstance(value, str | None):
        raise UnreadableError(f"{name} of turn {number} is {type(value).__name__}, not a string or null")
    return " ".join(remove_surrogates(value or "").split())
