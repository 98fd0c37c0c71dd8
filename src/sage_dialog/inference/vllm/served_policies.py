"""Which policies servers have, under which names, and what to do where one is missing."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from urllib.parse import urlsplit

from sage_dialog.core.policies import Policy
from sage_dialog.inference.policy_set import PolicySet
from sage_dialog.llm.requests import FailureReason, RequestFailedError, RequestRejectedError
from sage_dialog.llm.server import Server

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM sets memory aside for
_HERE = ("127.0.0.1", "localhost", "::1")
_NO_KEY = (401, 403)
_AT_RUN_TIME = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"


@cache
def revision(policy: Policy) -> str:
    """What tells a policy from others of its name; its weights are read once."""
    return policy.revision()


def served_name(policy: Policy) -> str:
    """The policy's name on servers: it holds the revision, so that no version is taken for another."""
    return f"{policy.name}-{revision(policy)[:12]}"


class ServedPolicies:
    """Sees to it that all servers have a policy before it is asked for.

    The base is what they were started with; adapters are loaded at run time where they are not there yet.

    Args:
        names: by policy, its name on the servers where that is not `served_name`; these are taken to be there.
        window: tokens that a prompt and its reply may have together.
    """

    def __init__(self, servers: Sequence[Server], policies: PolicySet, names: Mapping[str, str], window: int) -> None:
        self._servers = servers
        self._policies = policies
        self._names = names
        self._window = window
        self._there: set[str] = set()
        self._looking = asyncio.Lock()

    def name(self, policy: str) -> str:
        """What the servers call a policy. Raises KeyError where the engine does not have it."""
        return self._names.get(policy) or served_name(self._policies.policy(policy))

    async def ready(self, policy: str) -> None:
        """Returns when every server has the policy.

        Raises:
            RequestRejectedError: naming the server that has not, and where it helps the command that would start one that has.
        """
        async with self._looking:
            if policy not in self._there:
                for server in self._servers:
                    await self._ready(server, policy)
                self._there.add(policy)

    async def _ready(self, server: Server, policy: str) -> None:
        if policy in self._names:
            return  # not every server says what it has; it will say what it has not
        try:
            models = await server.models()
        except RequestFailedError as error:
            command = self._command(server) if error.reason is FailureReason.UNREACHABLE else ""
            raise RequestRejectedError(
                f"{server.address} does not say which models it has: {error}.{command}"
            ) from None
        name, base = self.name(policy), self.name(self._policies.base.name)
        longest = models.get(base, {}).get("max_model_len")
        if isinstance(longest, int) and longest < self._window:
            raise RequestRejectedError(
                f"{server.address} takes {longest} tokens at once, and {base} has a window of {self._window}. Start the "
                f"server with --max-model-len {self._window}, or set the engine's `window: {longest}`."
            )
        if name in models:
            return
        if base not in models:
            has = ", ".join(sorted(models)) or "nothing"
            raise RequestRejectedError(f"{server.address} has no model {base}; it has {has}.{self._command(server)}")
        path = str(self._policies.policy(policy).path.resolve())
        try:
            await server.load_adapter(name, path)
        except (RequestRejectedError, RequestFailedError) as error:
            told = f"{server.address} did not load the adapter {name}: {error}"
            if isinstance(error, RequestFailedError) or error.status in _NO_KEY:
                raise RequestRejectedError(told) from None
            raise RequestRejectedError(
                f"{told}\nThe server reads it from {path}, which must lie there for it, too, and loads adapters while "
                f"it runs only where it was started for that.{self._command(server)}"
            ) from None

    def _command(self, server: Server) -> str:
        """What would start a server that has the base, at the address where it was looked for."""
        base, adapters = self._policies.base, list(self._policies.adapters.values())
        place = urlsplit(server.address)
        port = place.port or {"https": 443}.get(place.scheme, 80)
        here = place.hostname is None or place.hostname in _HERE
        options = ["--served-model-name", self.name(base.name), "--max-model-len", str(self._window)]
        options += ["--generation-config", "vllm"]
        options += ["--host", "127.0.0.1" if here else str(place.hostname), "--port", str(port)]
        if adapters:
            rank = lora_rank(max(map(_rank, adapters)))
            options += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(rank)]
        where = "" if here else f" on {place.hostname}"
        variables = f"{_AT_RUN_TIME} " if adapters else ""
        command = shlex.join(["vllm", "serve", str(base.path.resolve()), *options])
        return f"\nThis would start one that serves it{where}:\n  {variables}{command}"


def lora_rank(needed: int) -> int:
    """What to tell vLLM of adapters of this rank: the least it takes that is no lower."""
    return next((rank for rank in _RANKS if rank >= needed), needed)


def _rank(adapter: Policy) -> int:
    try:
        return int(json.loads((adapter.path / "adapter_config.json").read_text())["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return _RANKS[0]
