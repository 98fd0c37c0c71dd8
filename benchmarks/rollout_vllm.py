"""vLLM's side of benchmarks/rollout.py, run by the Python of an environment that has vLLM: one JSON object a line.

    python rollout_vllm.py MODEL DTYPE MAX_SEQUENCES

It reads {"prompts": [token ids, …], "candidates": 16, "tokens": 48} and writes {"seconds": …, "cpu_seconds": …,
"candidates": …}; first of all it writes {"version": …}. Sampling has no seeds: with them vLLM's CPU build fails
where a prompt is read in parts.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # so that its CPU time is that of this process
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM logs to standard output
    import vllm

    model, dtype, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
    engine = vllm.LLM(
        model=model, dtype=dtype, max_model_len=1024, max_num_seqs=rows, enable_prefix_caching=True, enforce_eager=True
    )

    def answer(content: dict[str, object]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    answer({"version": vllm.__version__})
    for line in sys.stdin:
        task = json.loads(line)
        sampling = vllm.SamplingParams(
            n=task["candidates"], temperature=1.1, top_k=100, repetition_penalty=1.1, max_tokens=task["tokens"],
            min_tokens=task["tokens"],
        )  # fmt: skip
        start, cpu = time.perf_counter(), time.process_time()
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in task["prompts"]], sampling, use_tqdm=False)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        lengths = {len(each.token_ids) for output in outputs for each in output.outputs}
        assert lengths == {task["tokens"]}, lengths
        engine.reset_prefix_cache()
        candidates = sum(len(output.outputs) for output in outputs)
        answer({"seconds": seconds, "cpu_seconds": cpu_seconds, "candidates": candidates})


if __name__ == "__main__":
    main()
