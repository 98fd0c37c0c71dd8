"""The engine in two processes, on the CPU: the samples of one, streaming, errors, and processes that are killed."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from sage_dialog.core.policies import Policy
from sage_dialog.inference.engine import Prompt

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_engines import FREE, prompts_of, texts  # noqa: E402

from sage_dialog.inference.transformers import many_gpus  # noqa: E402
from sage_dialog.inference.transformers.engine import TransformersEngine  # noqa: E402
from sage_dialog.inference.transformers.many_gpus import ManyGpuEngine, WorkerKilledError  # noqa: E402

PROMPTS = prompts_of(3, 28, 11, 17, 5)


def alive(pids: list[int | None]) -> list[int | None]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def engine(base: Policy, adapters: tuple[Policy, Policy]) -> Iterator[ManyGpuEngine]:
    opened = ManyGpuEngine(base, adapters, seed=3, threads=2, processes=2, device="cpu")
    yield opened
    opened.close()


@pytest.mark.slow
def test_samples_are_those_of_one_process(engine: ManyGpuEngine, base: Policy, adapters: tuple[Policy, Policy]) -> None:
    one = TransformersEngine(base, adapters, seed=3, threads=1)
    pieces: list[str] = []
    for policy in (base.name, adapters[0].name):
        expected = one.sample(policy, PROMPTS, FREE, samples=3)
        found = engine.sample(policy, PROMPTS, FREE, samples=3, on_text=pieces.append)
        assert texts(found) == texts(expected)
        assert "".join(pieces) == found[0][0].text
        pieces.clear()
    assert texts(engine.sample(base.name, PROMPTS[:1], FREE)) == texts(one.sample(base.name, PROMPTS[:1], FREE))
    assert engine.sample(base.name, [], FREE) == []
    assert len({worker.process.pid for worker in engine._workers}) == 2
    assert (engine.window, engine.prompt_tokens(PROMPTS[1])) == (one.window, one.prompt_tokens(PROMPTS[1]))
    assert dict(engine.fingerprint_inputs) == {**one.fingerprint_inputs, "processes": 2}


def test_an_error_leaves_the_processes_and_what_ends_a_call_ends_them(engine: ManyGpuEngine, base: Policy) -> None:
    expected = texts(engine.sample(base.name, PROMPTS, FREE))
    pids = [worker.process.pid for worker in engine._workers]
    with pytest.raises(KeyError, match="policy 'nobody' is not loaded"):
        engine.sample("nobody", PROMPTS, FREE)
    assert texts(engine.sample(base.name, PROMPTS, FREE)) == expected
    assert pids == [worker.process.pid for worker in engine._workers]

    def stop(piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.sample(base.name, PROMPTS, FREE, on_text=stop)
    assert not alive(pids)
    assert texts(engine.sample(base.name, PROMPTS, FREE)) == expected, "new processes were started"

    pids = [worker.process.pid for worker in engine._workers]
    psutil.Process(pids[1]).kill()
    with pytest.raises(WorkerKilledError, match=r"killed, perhaps for lack of memory\. Finished shards are kept"):
        engine.sample(base.name, PROMPTS, FREE)
    assert not alive(pids) and engine._workers == []


def test_each_process_has_a_gpu_of_its_own(base: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_gpus.torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert list(ManyGpuEngine(base, [], seed=0)._gpus) == ["2", "5", "7"]
    assert ManyGpuEngine(base, [], seed=0, processes=2)._processes == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert list(ManyGpuEngine(base, [], seed=0)._gpus) == ["0", "1", "2"]
    with pytest.raises(ValueError, match="processes is 4, but there are 3 GPUs"):
        ManyGpuEngine(base, [], seed=0, processes=4)
    with pytest.raises(ValueError, match="colour"):
        ManyGpuEngine(base, [], seed=0, colour=1)


def test_prompts_are_divided_by_their_length(base: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ManyGpuEngine(base, [], seed=0, processes=2, device="cpu")
    asked: dict[int, list[Prompt]] = {}

    def ask(requests, on_text):
        asked.update({worker: request.prompts for worker, request in requests.items()})
        return {worker: [[] for _ in request.prompts] for worker, request in requests.items()}

    monkeypatch.setattr(engine, "_ask", ask)
    engine.sample(base.name, PROMPTS, FREE)
    assert asked == {0: [PROMPTS[0], PROMPTS[1], PROMPTS[2]], 1: [PROMPTS[3], PROMPTS[4]]}
