"""What the tests ask, and how; run as a program it asks in a process of its own, which a test may kill.

python asking.py URL JOURNAL ITEMS RESULTS [CONCURRENCY]
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sage_dialog.config import Caps
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.client import Client
from sage_dialog.llm.endpoint import Endpoint, LLMClient
from sage_dialog.llm.requests import NoReplyError, Reason, Request
from sage_dialog.llm.response_cache import ResponseCache

MODEL = "some-model"


def request(client: LLMClient, item: object, role: str = "judge") -> Request:
    return client.request(role, [{"role": "user", "content": f"item {item}"}])


def texts(client: LLMClient, items: Iterable[object], role: str = "judge") -> Iterator[str | Reason]:
    """For each item, in order, the reply's text, or why there is none."""

    async def ask(item: object) -> str | Reason:
        try:
            return (await client.ask(request(client, item, role))).text
        except NoReplyError as failure:
            return failure.reason

    return client.in_order(ask, items)


def reasons(response_cache: ResponseCache) -> dict[str, int]:
    """How often each reason is noted."""
    return {reason: n for _, reason, n in response_cache.failures()}


def claims(response_cache: ResponseCache) -> int:
    """How many there are, once all that was to be written is."""
    found = response_cache._file.do(lambda connection: connection.execute("SELECT count(*) FROM claims").fetchone()[0])
    return int(found.result())


def main() -> None:
    url, response_cache, items, results, *concurrency = sys.argv[1:]
    fields = {"base_urls": (url,), "model": MODEL, "sampling": {"max_tokens": 50}}
    endpoint = Endpoint.model_validate(fields | {"concurrency": int(concurrency[0]) if concurrency else 16})
    client = Client(endpoint, ResponseCache(Path(response_cache)), Budget(Caps(), {}, {}))
    with open(results, "w") as lines:
        for text in texts(client, range(int(items))):
            print(text, file=lines)
            print(text, flush=True)


if __name__ == "__main__":
    main()
