"""Rules on the text of a user's reply: it ends after its first question, and a farewell ends the dialogue."""

from __future__ import annotations

import re

_QUESTION = re.compile(
    # Followed by white space, a sign that does not continue a link, or a capital that begins a sentence.
    r"(?:\?|(?P<wide>？))[?!.…？！。]*+(?P<closed>[\"'”’»)\]）*_]*+)"
    r"(?(wide)|(?=$|[^\w/&=%#]|[A-Z](?:[a-z'’\s]|$)))(?P<continues>[.,;:，；：]|\s+[a-z])?"
)
_LAST_QUESTION = re.compile(r"[?？][\W_]*$")
_LINK = re.compile(r"(?:https?://|www\.|\w\.\w+/)\S*$")
_QUOTES = frozenset("\"'”’»")
# By closing sign, the pattern of its opening before it: ":)" and the apostrophe of "boss'" close nothing.
_OPENED = {
    ")": r"\([^)]*$",
    "]": r"\[[^\]]*$",
    "）": r"（[^）]*$",
    "»": r"«[^»]*$",
    "”": r"[“„\"][^”]*$",
    '"': r'(?<!\w)"(?=\S)',
    "'": r"(?<!\w)['‘](?=\S)",
    "’": r"(?<!\w)['‘](?=\S)",
    "*": r"(?<!\w)\*(?=\S)",
    "_": r"(?<!\w)_(?=\S)",
}

_START = r"(?:^|[,;:.…–—]|\s-|--)\W*"
_LEADS = r"""(?:(?:and|so|well|ok(?:ay)?|alright|all\ right|anyways?|now|then|oh|yes|yeah|please|you\ too|until\ then
    |thank(?:s|\ you)(?:\ (?:(?:so|very)\ much|a\ lot|again|for\ \w+(?:\ (?:to\ )?(?:me|advice|help|time))?))*
    )\W+)*"""
_FAREWELL = re.compile(
    rf"""(?:{_START}{_LEADS}(?:
        (?:you\ )?(?:good[\ -]?bye|bye|good[\ -]?night|farewell|see\ ya|take\ care)
        |(?:(?:i\ guess\ )?(?:i['’]?ll|i\ will|we['’]?ll|hope\ to|i\ hope\ to)\ )?(?:see|talk\ to|catch)\ (?:you|ya)
            \ (?:later|soon|around|tomorrow)(?!\ (?:at|in|on|for|with|when|if|because)\b)
        |(?P<hoped>(?:i\ )?(?:hope\ )?you\ (?:all\ )?)?have\ an?
            \ (?:good|great|nice|lovely)\ (?:day|evening|night|weekend)
        )
    |\b(?:go|now)\ (?:good[\ -]?bye|bye|good\ night)
    )\b
    (?!['’]s|\ of\ (?!yourself))
    (?!\ (?:is|was|are|were|to(?!\ you)|sleep|kiss(?:es)?|hugs?|letters?|part(?:y|ies)|calls?
        |speech(?:es)?|dinners?|gifts?|notes?)\b)
    (?!,?\ (?:my\ )?(?:mom(?:my|ma)?|mum(?:my)?|mama|dad(?:dy)?|papa|gran(?:ny|dma|dpa)|nana)\b)
    (?(hoped)(?=\W*$|[^\w\s]|\ (?:too|ahead|now|everyone|and)\b))""",
    re.IGNORECASE | re.VERBOSE,
)
_SAYS = r"(?:sa(?:id|ys?|ying)|whisper(?:ed|s)|shout(?:ed|s)|text(?:ed|s)|wrote|writes|told|repl(?:ied|ies)|asked)"
# Reported farewells: 'Then she said, goodbye.', 'Bye, he texted'.
_REPORTED = re.compile(
    rf"\b(?<!you ){_SAYS}(?: \w+)?\W*$|^\W*(?:i|he|she|they|we|(?:my|his|her|the) \w+)(?: \w+)? {_SAYS}\b",
    re.IGNORECASE,
)


def up_to_first_question(text: str) -> str:
    """Return the text up to and including its first question: a user asks once and waits for the answer.

    "I'm sad. Why did she leave? I loved her." becomes "I'm sad. Why did she leave?". Quoted questions, and questions
    in brackets within a sentence, do not count. A text without a question is returned whole.
    """
    for found in _QUESTION.finditer(text):
        before = text[: found.start()]
        opened = {closer for closer in found["closed"] if re.search(_OPENED[closer], before)}
        quoted = not _QUOTES.isdisjoint(opened)
        parenthetical = opened and found["continues"]
        if not quoted and not parenthetical and not _LINK.search(before):
            return text[: found.end("closed")]
    return text


def is_farewell(text: str) -> bool:
    """Return whether the last sentence is a farewell to the listener.

    Not farewells: "I never said goodbye.", "I didn't have a good day.", "I wish I could talk to you later.", and words
    to the dead ("See you soon, mom."). A missed farewell costs a few turns, a false one the rest of a dialogue, so
    ambiguous words do not count.
    """
    if _LAST_QUESTION.search(text):
        return False
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+", text) if re.search(r"\w", sentence)]
    last = sentences[-1] if sentences else ""
    return any(
        not (_REPORTED.search(last[: found.start()]) or _REPORTED.search(last[found.end() :]))
        for found in _FAREWELL.finditer(last)
    )
