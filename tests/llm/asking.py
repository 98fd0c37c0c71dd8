"""What the tests ask, and how; run as a program it asks in a process of its own, which a test may kill.

python asking.py URL JOURNAL ITEMS RESULTS [CONCURRENCY]
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sage_dialog.llm.asker import Asker, Endpoint
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.client import Client
from sage_dialog.llm.journal import Journal
from sage_dialog.llm.requests import NoReplyError, Reason, Request
from sage_dialog.parameters import Caps

MODEL = "some-model"


def request(asker: Asker, item: object, role: str = "judge") -> Request:
    return asker.request(role, [{"role": "user", "content": f"item {item}"}])


def texts(asker: Asker, items: Iterable[object], role: str = "judge") -> Iterator[str | Reason]:
    """For each item, in order, the reply's text, or why there is none."""

    async def ask(item: object) -> str | Reason:
        try:
            return (await asker.ask(request(asker, item, role))).text
        except NoReplyError as failure:
            return failure.reason

    return asker.in_order(ask, items)


def reasons(journal: Journal) -> dict[str, int]:
    """How often each reason is noted."""
    return {reason: n for _, reason, n in journal.failures()}


def claims(journal: Journal) -> int:
    """How many there are, once all that was to be written is."""
    found = journal._file.do(lambda connection: connection.execute("SELECT count(*) FROM claims").fetchone()[0])
    return int(found.result())


def main() -> None:
    url, journal, items, results, *concurrency = sys.argv[1:]
    fields = {"base_urls": (url,), "model": MODEL, "sampling": {"max_tokens": 50}}
    endpoint = Endpoint.model_validate(fields | {"concurrency": int(concurrency[0]) if concurrency else 16})
    client = Client(endpoint, Journal(Path(journal)), Budget(Caps(), {}, {}))
    with open(results, "w") as lines:
        for text in texts(client, range(int(items))):
            print(text, file=lines)
            print(text, flush=True)


if __name__ == "__main__":
    main()
