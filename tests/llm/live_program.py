"""Requests of the tests, and a program that sends them in a process of its own, which a test may kill.

python live_program.py URL CACHE ITEMS RESULTS [CONCURRENCY]
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sage_dialog.config import Caps
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.client import LLMClient
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import FailureReason, Request, RequestFailedError
from sage_dialog.llm.response_cache import ResponseCache

MODEL = "some-model"


def request(client: LLMClient, item: object, role: str = "judge") -> Request:
    return client.chat_request(role, [{"role": "user", "content": f"item {item}"}])


def texts(client: LLMClient, items: Iterable[object], role: str = "judge") -> Iterator[str | FailureReason]:
    """Yield for each item, in order, the response's text, or the reason of its failure."""

    async def text(item: object) -> str | FailureReason:
        try:
            return (await client.request(request(client, item, role))).text
        except RequestFailedError as failure:
            return failure.reason

    return client.map(text, items)


def reasons(response_cache: ResponseCache) -> dict[str, int]:
    """Return the number of failures by reason."""
    return {reason: n for _, reason, n in response_cache.failures()}


def claims(response_cache: ResponseCache) -> int:
    """Return the number of claims, after all pending writes."""
    count = "SELECT count(*) FROM claims"
    return int(response_cache._file.submit(lambda connection: connection.execute(count).fetchone()[0]).result())


def main() -> None:
    url, response_cache, items, results, *concurrency = sys.argv[1:]
    fields = {"base_urls": (url,), "model": MODEL, "sampling": {"max_tokens": 50}}
    endpoint = Endpoint.model_validate(fields | {"concurrency": int(concurrency[0]) if concurrency else 16})
    client = LiveClient(endpoint, ResponseCache(Path(response_cache)), Budget(Caps(), {}, {}))
    with open(results, "w") as lines:
        for text in texts(client, range(int(items))):
            print(text, file=lines)
            print(text, flush=True)


if __name__ == "__main__":
    main()
