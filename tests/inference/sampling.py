"""Sample from a server in a process that a test kills, and print a line per reply.

python sampling.py URL BASE RESPONSE_CACHE
"""

import sys
from pathlib import Path

from sage_dialog.config import Caps, SamplingConfig
from sage_dialog.core.policies import Policy
from sage_dialog.inference.engine import Prompt
from sage_dialog.inference.vllm.completions_engine import CompletionsEngine
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache

PROMPTS = [Prompt(({"role": "user", "content": f"w1 w{number}"},), (number,)) for number in range(40)]
SAMPLING = SamplingConfig.from_base(top_k=20, max_new_tokens=6)


def main() -> None:
    url, base, response_cache = sys.argv[1:]
    endpoint = Endpoint(base_urls=(url,), model="policies", concurrency=4)
    client = LiveClient(endpoint, ResponseCache(Path(response_cache)), Budget(Caps(), {}, {}))
    engine = CompletionsEngine(Policy.open(base), [], 0, client=client)
    for (sample,) in engine.sample("sage_0", PROMPTS, SAMPLING):
        print(sample.text, sample.finish_reason)


if __name__ == "__main__":
    main()
