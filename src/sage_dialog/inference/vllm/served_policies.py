"""Policies on servers: their names, and loading of adapters that a server lacks."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import sage_dialog
from sage_dialog.core.policies import Policy
from sage_dialog.inference.policy_set import PolicySet
from sage_dialog.llm.requests import FailureReason, RequestFailedError, RequestRejectedError
from sage_dialog.llm.server import Server

PROCESSOR = "sage_dialog.inference.vllm.logits_processor:SteeringProcessor"
_SOURCE = Path(sage_dialog.__file__).resolve().parents[1]

_CHUNK = 2048  # vLLM's smallest default of tokens per step
_ON_CPU = (
    "On a server without a GPU add --no-enable-chunked-prefill --max-num-batched-tokens {}: vLLM stops there at a "
    "request with a seed whose prompt it reads in several steps. "
)

_VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@cache
def revision(policy: Policy) -> str:
    """Return the policy's revision; its weights are read once."""
    return policy.revision()


def served_name(policy: Policy) -> str:
    """Return the policy's name on servers, which includes the revision so that versions are never confused."""
    return f"{policy.name}-{revision(policy)[:12]}"


class ServedPolicies:
    """Loads policies on all servers before they are sampled.

    Servers are started with the base; adapters that they lack are loaded at run time.

    Args:
        names: by policy, a name on the servers other than `served_name`; these policies are taken as loaded.
        window: tokens that a prompt and its reply may have together.
        seeded: whether requests have a seed.
        steering: whether the servers run this project's logits processor.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        policies: PolicySet,
        names: Mapping[str, str],
        window: int,
        seeded: bool = True,
        steering: bool = False,
    ) -> None:
        self._servers = servers
        self._policies = policies
        self._names = names
        self._window = window
        self._seeded = seeded
        self._steering = steering
        self._loaded: set[str] = set()
        self._lock = asyncio.Lock()

    def name(self, policy: str) -> str:
        """Return the policy's name on the servers. Raises KeyError if the engine does not have it."""
        return self._names.get(policy) or served_name(self._policies.policy(policy))

    async def ensure_loaded(self, policy: str) -> None:
        """Wait until every server has the policy.

        Raises:
            RequestRejectedError: naming a server without it, with the command that starts one where that helps.
        """
        async with self._lock:
            if policy not in self._loaded:
                for server in self._servers:
                    await self._load(server, policy)
                self._loaded.add(policy)

    async def _load(self, server: Server, policy: str) -> None:
        if policy in self._names:
            return  # not every server lists its models; a missing one fails at the first request
        try:
            models = await server.models()
        except RequestFailedError as error:
            command = self._command(server) if error.reason is FailureReason.UNREACHABLE else ""
            raise RequestRejectedError(f"{server.address} does not list its models: {error}.{command}") from None
        name, base = self.name(policy), self.name(self._policies.base.name)
        longest = models.get(base, {}).get("max_model_len")
        if isinstance(longest, int) and longest < self._window:
            raise RequestRejectedError(
                f"{server.address} takes {longest} tokens at once, and {base} has a window of {self._window}. Start "
                f"the server with --max-model-len {self._window}, or set the engine's `window: {longest}`."
            )
        if name in models:
            return
        if base not in models:
            names = ", ".join(sorted(models)) or "nothing"
            raise RequestRejectedError(f"{server.address} has no model {base}; it has {names}.{self._command(server)}")
        path = str(self._policies.policy(policy).path.resolve())
        try:
            await server.load_adapter(name, path)
        except (RequestRejectedError, RequestFailedError) as error:
            message = f"{server.address} did not load the adapter {name}: {error}"
            if isinstance(error, RequestFailedError) or error.status in (401, 403):
                raise RequestRejectedError(message) from None
            raise RequestRejectedError(
                f"{message}\nThe server reads the adapter from {path}, so this path must exist there, and the server "
                f"must be started with run-time loading of adapters.{self._command(server)}"
            ) from None

    def _command(self, server: Server) -> str:
        """Return the command that starts a server with the base at this address."""
        base, adapters = self._policies.base, list(self._policies.adapters.values())
        address = urlsplit(server.address)
        port = address.port or {"https": 443}.get(address.scheme, 80)
        local = address.hostname in (None, "127.0.0.1", "localhost", "::1")
        options = ["--served-model-name", self.name(base.name), "--max-model-len", str(self._window)]
        # Without a dtype vLLM halves the precision of float32 weights; a server's own sampling defaults are ignored.
        options += ["--dtype", self._policies.dtype, "--generation-config", "vllm"]
        options += ["--logits-processors", PROCESSOR] if self._steering else []
        options += ["--host", "127.0.0.1" if local else str(address.hostname), "--port", str(port)]
        if adapters:
            rank = lora_rank(max(map(_rank, adapters)))
            options += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(rank)]
        where = "" if local else f" on {address.hostname}"
        variables = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True " if adapters else ""
        variables += f"PYTHONPATH={shlex.quote(str(_SOURCE))} " if self._steering else ""
        command = shlex.join(["vllm", "serve", str(base.path.resolve()), *options])
        on_cpu = _ON_CPU.format(max(self._window, _CHUNK)) if self._seeded else ""
        return f"\n{on_cpu}This command starts a server with it{where}:\n  {variables}{command}"


def lora_rank(needed: int) -> int:
    """Return the smallest value of vLLM's --max-lora-rank for adapters of this rank."""
    return next((rank for rank in _VLLM_LORA_RANKS if rank >= needed), needed)


def _rank(adapter: Policy) -> int:
    try:
        return int(json.loads((adapter.path / "adapter_config.json").read_text())["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return _VLLM_LORA_RANKS[0]
