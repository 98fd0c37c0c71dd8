"""`TransformersEngine` in several processes, one for each GPU of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, NamedTuple

import torch
from pydantic import Field

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy
from sage_dialog.core.processes import end_with_parent
from sage_dialog.inference.engine import OnText, Prompt, Sample
from sage_dialog.inference.policy_set import PolicySet
from sage_dialog.inference.transformers import engine as single

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Arguments(single.Arguments, frozen=True, extra="forbid"):
    """The `args` of the catalog entry; `ManyGpuEngine` describes them."""

    processes: int | None = Field(None, gt=0)


class WorkerKilledError(RuntimeError):
    """A process of the engine was killed."""


class Request(NamedTuple):
    """Arguments of `Engine.sample`; `streams` sends the pieces of text."""

    policy: str
    prompts: list[Prompt]
    sampling: SamplingConfig
    samples: int
    steering: Steering | None
    streams: bool


@dataclass(frozen=True)
class _Worker:
    process: ForkServerProcess
    connection: Connection


class ManyGpuEngine:
    """An `Engine` that divides the prompts of a call among processes, each with all policies on a GPU of its own.

    Prompts are dealt out by length, so that the processes have much the same to do. Samples are those of
    `TransformersEngine` up to rounding, because other prompts are in their batch.

    Args:
        threads: of torch on the CPU, over all processes.
        processes: their number; None is one for each GPU of CUDA_VISIBLE_DEVICES, or one without a GPU.
        arguments: of `TransformersEngine`.

    Raises:
        ValueError: as `TransformersEngine`, or if there are fewer GPUs than processes.
        WorkerKilledError: by `sample`, if a process is killed. The next call starts new ones.
    """

    arguments = Arguments

    def __init__(
        self,
        base: Policy,
        policies: Sequence[Policy],
        seed: int,
        threads: int | None = None,
        processes: int | None = None,
        **arguments: Any,
    ) -> None:
        Arguments(processes=processes, **arguments)
        gpus = 0 if arguments.get("device") == "cpu" else torch.cuda.device_count()
        if gpus and processes is not None and processes > gpus:
            raise ValueError(
                f"processes is {processes}, but there are {gpus} GPUs; leave it out, or set it to {gpus} at most "
                "(`args` of the entry `engine` in conf/*/catalog_generation.yml)"
            )
        self._processes = processes or gpus or 1
        self._gpus: Sequence[str | None] = _visible(gpus) if gpus else [None] * self._processes
        self._policies = PolicySet(base, policies)
        each = None if threads is None else max(1, threads // self._processes)
        self._opening = (base, policies, seed, each), arguments
        self._workers: list[_Worker] = []

    @cached_property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        (inputs,) = self._ask({0: None}).values()
        return {**inputs, "processes": self._processes}

    @property
    def window(self) -> int:
        return self._policies.window

    def prompt_tokens(self, prompt: Prompt) -> int:
        return len(self._policies.tokens(prompt))

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: OnText | None = None,
    ) -> list[list[Sample]]:
        """Sample as `Engine.sample` does."""
        by_length = sorted(range(len(prompts)), key=lambda place: (-self.prompt_tokens(prompts[place]), place))
        dealt = {worker: by_length[worker :: self._processes] for worker in range(self._processes)}
        dealt = {worker: sorted(places) for worker, places in dealt.items() if places}  # the first prompt first
        asked = {
            worker: Request(
                *(policy, [prompts[place] for place in places], sampling, samples, steering),
                streams=on_text is not None and places[0] == 0,
            )
            for worker, places in dealt.items()
        }
        replies: list[list[Sample]] = [[] for _ in prompts]
        for worker, found in self._ask(asked, on_text).items():
            for place, rows in zip(dealt[worker], found, strict=True):
                replies[place] = rows
        return replies

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []

    def _ask(self, requests: Mapping[int, Request | None], on_text: OnText | None = None) -> dict[int, Any]:
        """Send a request to each of some workers, None for their fingerprint, and return the answers.

        An error of a worker is raised once all have answered. Any other exception ends all workers.
        """
        if not self._workers:
            self._workers = list(self._start())
        try:
            for number, request in requests.items():
                self._workers[number].connection.send(request)
            waiting = {self._workers[number].connection: number for number in requests}
            answers: dict[int, Any] = {}
            errors: list[Exception] = []
            while waiting:
                for connection in wait(list(waiting)):
                    assert isinstance(connection, Connection)
                    kind, content = connection.recv()
                    if kind == "text":
                        assert on_text is not None
                        on_text(content)
                        continue
                    number = waiting.pop(connection)
                    if kind == "error":
                        errors.append(content)
                    else:
                        answers[number] = content
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.close()
            raise WorkerKilledError(
                "A process of the engine was killed, perhaps for lack of memory. Finished shards are kept: run the "
                "same command again, with fewer `processes` (`args` of the entry `engine` in "
                "conf/*/catalog_generation.yml)."
            ) from None
        except BaseException:
            self.close()
            raise
        if errors:
            raise errors[0]
        return answers

    def _start(self) -> Iterator[_Worker]:
        context = get_context("forkserver")  # CUDA does not survive a fork
        context.set_forkserver_preload([__name__])  # imports torch once for all
        for gpu in self._gpus[: self._processes]:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, gpu, *self._opening), daemon=True)
            process.start()
            theirs.close()  # so that its end is noticed
            yield _Worker(process, ours)


def _visible(gpus: int) -> list[str]:
    """Return the names of the GPUs of this process, as CUDA_VISIBLE_DEVICES has them."""
    named = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    return named[:gpus] or [str(number) for number in range(gpus)]


def _serve(connection: Connection, gpu: str | None, opening: tuple[Any, ...], arguments: Mapping[str, Any]) -> None:
    """Answer the requests of the parent process until it closes the connection."""
    end_with_parent()
    if gpu is not None:
        os.environ[_VISIBLE] = gpu  # read when CUDA is first used
    engine: single.TransformersEngine | None = None
    while True:
        try:
            request: Request | None = connection.recv()
        except EOFError:
            return
        try:
            engine = engine or single.TransformersEngine(*opening, **arguments)
            if request is None:
                answer: Any = dict(engine.fingerprint_inputs)
            else:
                policy, prompts, sampling, samples, steering, streams = request
                on_text = (lambda piece: connection.send(("text", piece))) if streams else None
                answer = engine.sample(policy, prompts, sampling, samples, steering, on_text)
        except Exception as error:
            connection.send(("error", error))
        else:
            connection.send(("answer", answer))
