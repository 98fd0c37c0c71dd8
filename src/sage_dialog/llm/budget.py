"""Hard caps on calls, tokens and money, for the whole run and for each role, checked before each call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage_dialog.config import Caps, Price, Role
from sage_dialog.llm.requests import Request, StopRunError

RUN = "the run"
_KINDS = ("calls", "tokens", "money")


class CapReachedError(StopRunError):
    """The next call would go over a cap."""


@dataclass(frozen=True)
class Reservation:
    """The most that one call can come to."""

    role: str
    model: str
    tokens: int
    money: float


class Budget:
    """What the run has spent, and what the calls on their way may come to.

    A call is counted when it is sent. Tokens and money of a call are set aside at their most until its answer says
    what they were; where only what is on its way stands against a call, the call waits.
    """

    def __init__(self, caps: Caps, role_caps: Mapping[Role, Caps], prices: Mapping[str, Price]) -> None:
        self._caps: dict[str, Caps] = {RUN: caps} | {str(role): own for role, own in role_caps.items()}
        self._prices = dict(prices)
        self._spent: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._reserved: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._settled = asyncio.Condition()
        self.served_models: defaultdict[str, set[str]] = defaultdict(set)
        """By role, the models that replied, as servers name them."""

    def cost(self, model: str, prompt_tokens: int, completion_tokens: int, *, batch: bool = False) -> float | None:
        """Money for a call, in the currency of the price table; None for a model without a price.

        `batch`: at the price of a batch.
        """
        price = self._prices.get(model)
        if price is None:
            return None
        full = (prompt_tokens * price.prompt + completion_tokens * price.completion) / 1e6
        return full * price.batch_share if batch else full

    def share_price(self, *names: str) -> None:
        """Has one price for a model of several names: that of the first of them that has one."""
        priced = [self._prices[name] for name in names if name in self._prices]
        for name in names if priced else ():
            self._prices.setdefault(name, priced[0])

    def check_caps(self, role: str, model: str, max_completion_tokens: int | None) -> None:
        """Raises ValueError where a cap cannot be kept: no price, or no limit on a reply's tokens."""
        for who in (RUN, role):
            caps = self._caps.get(who, Caps())
            where = "llm.caps" if who == RUN else f"llm.role_caps.{role}"
            if caps.money is not None and model not in self._prices:
                raise ValueError(
                    f"{where}.money caps the cost of {model}, but llm.prices has no price for it; add one."
                )
            if (caps.money is not None or caps.tokens is not None) and max_completion_tokens is None:
                raise ValueError(
                    f"{where} caps tokens or money, but the {role}'s sampling sets no max_tokens, so that a call has "
                    "no upper bound; set it."
                )

    async def reserve(self, request: Request, *, batch: bool = False) -> Reservation:
        """Counts a call and sets aside the most it can come to.

        Raises:
            CapReachedError: naming the cap, and how to go on.
        """
        reservation = self._most(request, batch)
        async with self._settled:
            while full := self._in_the_way(reservation):
                who, kind = full
                if not self._reserved[who, kind]:  # nothing on its way could make room
                    raise CapReachedError(self._told(who, kind, reservation))
                await self._settled.wait()
            self._set_aside(reservation)
        return reservation

    def try_reserve(self, request: Request, *, batch: bool = False) -> Reservation | None:
        """As `reserve`, but None where there is no room now, whether or not there may be some later."""
        reservation = self._most(request, batch)
        if self._in_the_way(reservation):
            return None
        self._set_aside(reservation)
        return reservation

    async def settle(self, reservation: Reservation, tokens: int, money: float | None) -> None:
        """What the call came to in the end, in place of what was set aside for it."""
        async with self._settled:
            for who in (RUN, reservation.role):
                self._reserved[who, "tokens"] -= reservation.tokens
                self._reserved[who, "money"] -= reservation.money
                if not self._in_flight(who):
                    self._reserved[who, "money"] = 0.0  # what is left of sums of floats
                self._spent[who, "tokens"] += tokens
                self._spent[who, "money"] += money or 0.0
            self._settled.notify_all()

    def spent(self, role: str = RUN) -> dict[str, float]:
        """Calls, tokens and money so far, in this process."""
        return {kind: self._spent[role, kind] for kind in _KINDS}

    def roles(self) -> list[str]:
        """Roles that have made a call, and `RUN` where one has."""
        return sorted({who for (who, kind), amount in self._spent.items() if kind == "calls" and amount})

    def record_model(self, role: str, answer: Mapping[str, Any]) -> None:
        """Remembers what a server's answer says of the model behind it, which a name does not settle."""
        if said := " ".join(str(answer[field]) for field in ("model", "system_fingerprint") if answer.get(field)):
            self.served_models[role].add(said[:200])

    def remaining(self, role: str, kind: str) -> float | None:
        """How much of a cap is left to a role; None where nothing caps it."""
        left = [
            cap - self._spent[who, kind]
            for who in (RUN, role)
            if (cap := getattr(self._caps.get(who, Caps()), kind)) is not None
        ]
        return min(left, default=None)

    def _most(self, request: Request, batch: bool) -> Reservation:
        prompt, completion = request.max_prompt_tokens, request.max_completion_tokens or 0
        money = self.cost(request.model, prompt, completion, batch=batch) or 0.0
        return Reservation(request.role, request.model, prompt + completion, money)

    def _set_aside(self, reservation: Reservation) -> None:
        for who in (RUN, reservation.role):
            self._spent[who, "calls"] += 1
            self._reserved[who, "tokens"] += reservation.tokens
            self._reserved[who, "money"] += reservation.money

    def _in_flight(self, who: str) -> bool:
        return self._reserved[who, "tokens"] > 0

    def _in_the_way(self, reservation: Reservation) -> tuple[str, str] | None:
        wanted = {"calls": 1, "tokens": reservation.tokens, "money": reservation.money}
        for who in (RUN, reservation.role):
            caps = self._caps.get(who, Caps())
            for kind, amount in wanted.items():
                cap = getattr(caps, kind)
                if cap is not None and self._spent[who, kind] + self._reserved[who, kind] + amount > cap:
                    return who, kind
        return None

    def _told(self, who: str, kind: str, reservation: Reservation) -> str:
        name = f"llm.caps.{kind}" if who == RUN else f"llm.role_caps.{who}.{kind}"
        cap, spent = getattr(self._caps[who], kind), self._spent[who, kind]
        whose = who if who == RUN else f"the {who}"
        return (
            f"{name} = {cap:,} is reached: {whose} has spent {spent:,.6g}, and the next call to {reservation.model} "
            "may go over it. Every reply is in the response cache. The same command goes on from there, with as much to spend "
            f"again; --params {name}=… or conf/*/parameters_llm.yml allows more at a time."
        )
